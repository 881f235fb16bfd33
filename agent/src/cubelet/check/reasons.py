"""Checks that the C uses every declared drop reason and no other."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from cubelet.check.ctokens import words
from cubelet.check.findings import Finding, UncheckedError
from cubelet.check.places import at
from cubelet.check.workbench import Workbench

_NAME = re.compile(r"[a-z][a-z0-9]*(_[a-z0-9]+)*")


def check(bench: Workbench) -> Iterator[Finding]:
    """Compare ``Cube.reasons`` with the identifiers ``KIND_REASON_NAME`` of the C."""
    cube, source = bench.cube, bench.subject.source
    if not source.is_file():
        raise UncheckedError(f"there is no {source}")
    prefix = f"{cube.kind.upper()}_REASON_"
    used: dict[str, int] = {}
    for each in words(source.read_text()):
        if each.text.startswith(prefix):
            used.setdefault(each.text, each.line)
    declared = {f"{prefix}{reason.name.upper()}": reason for reason in cube.reasons}
    for name, line in used.items():
        if name not in declared:
            wanted = name.removeprefix(prefix).lower()
            message = f"{name} is declared nowhere"
            remedy = f'add Reason("{wanted}", "why") at the end of Cube.reasons'
            yield Finding(message, remedy, str(source), line)
    for name, reason in declared.items():
        if name not in used:
            message = f"the reason {reason.name} is never given: the C has no {name}"
            yield at(cube, "reasons", message, "use it; one that was released keeps its place")
        if not _NAME.fullmatch(reason.name):
            message = f"the reason {reason.name!r} is no lower-case words joined by '_'"
            yield at(cube, "reasons", message, "rename it: it is a metric's label")
        if not reason.text:
            message = f"the reason {reason.name} has no text"
            yield at(cube, "reasons", message, "say why packets are dropped")
    for name, count in Counter(reason.name for reason in cube.reasons).items():
        if count > 1:
            yield at(cube, "reasons", f"the reason {name} is declared twice", "rename one")
