"""Finds file and line of a cube's attributes and exceptions, for findings."""

from __future__ import annotations

import ast
import sys
from pathlib import Path
from traceback import extract_tb

from cubelet.check.findings import Finding
from cubelet.check.limits import EndlessError
from cubelet_hooks.cube import Cube

_ENDS = "end every loop and every answer, whatever the objects are"


def module_file(cube: type[Cube]) -> Path | None:
    """The file of the module that defines the class; None if it has none."""
    name = sys.modules[cube.__module__].__file__
    return Path(name) if name else None


def attribute(cube: type[Cube], name: str) -> tuple[str, int]:
    """File and line of an attribute or method in the class; of the class if it is not there."""
    file = module_file(cube)
    if file is None or file.suffix != ".py":
        return str(file or ""), 0
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.ClassDef) and node.name == cube.__name__:
            found = (each.lineno for each in node.body if name in _names(each))
            return str(file), next(found, node.lineno)
    return str(file), 0


def _names(node: ast.stmt) -> set[str]:
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
        return {node.name}
    if isinstance(node, ast.AnnAssign):
        return {ast.unparse(node.target)}
    if isinstance(node, ast.Assign):
        return {ast.unparse(each) for each in node.targets}
    return set()


def at(cube: type[Cube], name: str, message: str, remedy: str) -> Finding:
    """A finding that is about an attribute or a method of the class."""
    return Finding(message, remedy, *attribute(cube, name))


def raised(error: BaseException, cube: type[Cube], name: str, remedy: str) -> Finding:
    """A finding about an exception of the method ``name``, at the cube's own last line in it."""
    file = module_file(cube)
    package = str(file.parent) if file else ""
    frames = [each for each in extract_tb(error.__traceback__) if each.filename.startswith(package)]
    place = (frames[-1].filename, frames[-1].lineno or 0) if frames else attribute(cube, name)
    if isinstance(error, EndlessError):
        return Finding(f"{name} does not end: it {error}", _ENDS, *place)
    return Finding(f"{name} raised {type(error).__name__}: {error}", remedy, *place)
