"""Renders the files of a new package from templates, without writing them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import resources
from importlib.metadata import version
from importlib.resources.abc import Traversable

from cubelet_hooks.cube import ABI

_SUFFIX = ".j2"
_COLUMNS = 100
_TAB = 8


def render(name: str, ports: Sequence[str]) -> Mapping[str, str]:
    """The text of every file, by its path in the package; ``ports`` are port classes."""
    from jinja2 import Environment, StrictUndefined

    environment = Environment(
        undefined=StrictUndefined,
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=False,  # it writes Python and C
    )
    environment.globals["prototype"] = prototype
    release, following = _releases(version("cubelet-hooks"))
    words = {
        "name": name,
        "upper": name.upper(),
        "abi": ABI,
        "title": name.capitalize(),
        "ports": tuple(ports),
        "port_list": ", ".join(f'"{each}"' for each in ports),
        "hooks_from": release,
        "hooks_below": following,
    }
    return {
        path.removesuffix(_SUFFIX).replace("NAME", name): environment.from_string(text).render(
            words
        )
        for path, text in _templates()
    }


def _templates() -> Iterator[tuple[str, str]]:
    root = resources.files("cubelet.scaffold").joinpath("templates")
    waiting: list[tuple[str, Traversable]] = [("", root)]
    while waiting:
        path, folder = waiting.pop()
        for each in folder.iterdir():
            if each.is_dir():
                waiting.append((f"{path}{each.name}/", each))
            elif each.name.endswith(_SUFFIX):
                yield f"{path}{each.name}", each.read_text()


def _releases(installed: str) -> tuple[str, str]:
    """The installed minor release and the next, the bounds of a new package's requirement."""
    major, minor = installed.split(".")[:2]
    return f"{major}.{minor}", f"{major}.{int(minor) + 1}"


def prototype(start: str, *parameters: str) -> str:
    """A C function's first lines, broken as clang-format does for names of any length."""
    lines, line = [], f"{start}("
    column = len(line)
    indent = "\t" * (column // _TAB) + " " * (column % _TAB)
    for number, each in enumerate(parameters):
        text = each + (")" if number == len(parameters) - 1 else ",")
        blank = "" if number == 0 else " "
        if column + len(blank) + len(text) > _COLUMNS:
            lines.append(line)
            line, column, blank = indent, len(f"{start}("), ""
        line += blank + text
        column += len(blank) + len(text)
    return "\n".join([*lines, line])
