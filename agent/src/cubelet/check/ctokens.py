"""The C of a cube as tokens: identifiers with their lines, and what is declared at file scope."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

_TOKEN = re.compile(
    r"""
      (?P<skip> //[^\n]* | /\*.*?\*/ | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | \\\n | [ \t\r]+ )
    | (?P<newline> \n )
    | (?P<word> [A-Za-z_]\w* )
    | (?P<number> \d[\w.]* )
    | (?P<sign> . )
    """,
    re.VERBOSE | re.DOTALL,
)
_TAGS = frozenset(("struct", "union", "enum"))
_ENDS = frozenset("(=;[,:")
_OPENING, _CLOSING = frozenset("({["), frozenset(")}]")


@dataclass(frozen=True)
class Token:
    """An identifier or a punctuator.

    ``directive`` is the name of the preprocessor directive it belongs to, or empty; ``first``: it
    is the first token after that name.
    """

    text: str
    line: int
    is_word: bool
    directive: str = ""
    first: bool = False


def tokens(source: str) -> Iterator[Token]:
    """All identifiers and punctuators; comments, strings and numbers are left out."""
    line, fresh, directive, first = 1, True, "", False
    for match in _TOKEN.finditer(source):
        text = match.group(0)
        if match["newline"]:
            fresh, directive = True, ""
        elif match["sign"] == "#" and fresh:
            directive, fresh = "#", False
        elif match["word"] and directive == "#":
            directive, first = text, True
        elif match["word"] or match["sign"]:
            yield Token(text, line, bool(match["word"]), directive, first and bool(directive))
            fresh = first = False
        line += text.count("\n")


def words(source: str) -> list[Token]:
    """Every identifier, in macros too."""
    return [each for each in tokens(source) if each.is_word]


def declared(source: str) -> list[Token]:
    """The names declared at file scope: functions, variables, types, constants, macros."""
    found, plain = [], []
    for each in tokens(source):
        if not each.directive:
            plain.append(each)
        elif each.directive == "define" and each.first:
            found.append(each)
    found += _at_file_scope(plain)
    return sorted(found, key=lambda each: each.line)


def _at_file_scope(plain: list[Token]) -> Iterator[Token]:
    depth, begun, constants, body = 0, 0, False, False
    for number, each in enumerate(plain):
        before = plain[number - 1] if number else None
        after = plain[number + 1].text if number + 1 < len(plain) else ""
        if each.text in _OPENING:
            if depth == 0 and each.text == "{":
                constants = _opens_enum(plain, number)
                body = before is not None and before.text == ")"
            depth += 1
        elif each.text in _CLOSING:
            depth -= 1
            # a function's body ends its declaration; after a type's, declarators may follow
            begun = 0 if depth == 0 and each.text == "}" and body else begun
        elif depth == 0 and each.text == ";":
            begun = 0
        elif depth == 1 and constants and each.is_word and before and before.text in ("{", ","):
            yield each
        elif depth == 0 and each.is_word:
            if _declares(before, after, begun) and not each.text.startswith("__"):
                yield each
            begun += 1


def _declares(before: Token | None, after: str, begun: int) -> bool:
    if before is not None and before.text in _TAGS:
        return after in ("{", ";")
    return begun > 0 and after in _ENDS


def _opens_enum(plain: list[Token], number: int) -> bool:
    return any(each.text == "enum" for each in plain[max(0, number - 2) : number])
