"""Checks that names declared in the C begin with the kind, since those of two cubes could collide.

The composer renames that prefix to the instance's, and joins all cubes in one translation unit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from cubelet.check.ctokens import declared
from cubelet.check.findings import Finding, UncheckedError
from cubelet.check.workbench import Workbench

_INCLUDE = re.compile(r'^\s*#\s*include\s+"(?P<path>[^"]+)"')
_FUNCTIONS = {
    "inward": "inward",
    "outward": "outward",
    "packet": "per_packet",
    "early": "early",
    "admits": "admits",
}
"""The functions that the composer calls, each with the attribute of Cube that asks for it."""


def check(bench: Workbench) -> Iterator[Finding]:
    """The file's name, what it includes, every name at file scope, and its entry functions."""
    cube, source = bench.cube, bench.subject.source
    if source.name != f"{cube.kind}.bpf.c":
        message = f"the C file is called {source.name}"
        remedy = f"call it {cube.kind}.bpf.c: errors name files without their folders"
        yield Finding(message, remedy, str(source))
    if not source.is_file():
        raise UncheckedError(f"there is no {source}")
    text = source.read_text()
    yield from _includes(text, str(source))
    prefixes = (f"{cube.kind}_", f"{cube.kind.upper()}_")
    for each in declared(text):
        if not each.text.startswith(prefixes):
            message = f"{each.text} does not begin with {' or '.join(prefixes)}"
            remedy = f"call it such as {prefixes[each.text.isupper()]}{each.text}"
            yield Finding(message, remedy, str(source), each.line)
    yield from _functions(bench, text)


def _includes(text: str, file: str) -> Iterator[Finding]:
    for number, line in enumerate(text.splitlines(), 1):
        found = _INCLUDE.match(line)
        if found and not re.fullmatch(r"cubelet(/\w+)?\.h", found["path"]):
            message = f"{found['path']} is not found when it is composed"
            yield Finding(message, "put its contents into this file", file, number)


def _functions(bench: Workbench, text: str) -> Iterator[Finding]:
    """Find entry functions that the class does not declare: they would never be called."""
    cube = bench.cube
    lines = {each.text: each.line for each in declared(text)}
    for function, attribute in _FUNCTIONS.items():
        name = f"{cube.kind}_{function}"
        wanted, file = bool(getattr(cube, attribute)), str(bench.subject.source)
        if name in lines and not wanted:
            message = f"{name} is never called: Cube.{attribute} does not ask for it"
            remedy = f"set Cube.{attribute}, or remove the function"
            yield Finding(message, remedy, file, lines[name])
        elif wanted and name not in lines:
            message = f"there is no function {name}, which Cube.{attribute} asks for"
            yield Finding(message, f"define it, or leave Cube.{attribute} out", file)
