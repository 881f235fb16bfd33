"""Renames a cube's identifiers from its kind's prefix to its instance's.

The kind ``lbrp`` writes ``lbrp_services`` and ``LBRP_REASON_X``; the instance ``lbrp0`` gets
``lbrp0_services`` and ``LBRP0_REASON_X``. Works on C tokens: comments, strings and character
constants are left alone, line numbers never change.
"""

from __future__ import annotations

import re

_TOKEN = re.compile(
    r"""
    (?P<keep> //[^\n]* | /\*.*?\*/ | \#\s*include[^\n]*
            | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' )
    | (?P<word> [A-Za-z_]\w* )
    """,
    re.VERBOSE | re.DOTALL,
)


def rename(source: str, kind: str, instance: str) -> str:
    """The source with every identifier ``kind_*`` and ``KIND_*`` made the instance's."""
    prefixes = {f"{kind}_": f"{instance}_", f"{kind.upper()}_": f"{instance.upper()}_"}

    def replace(match: re.Match[str]) -> str:
        word = match.group("word")
        if word is None:
            return match.group(0)
        for old, new in prefixes.items():
            if word.startswith(old):
                return new + word[len(old) :]
        return word

    return _TOKEN.sub(replace, source)
