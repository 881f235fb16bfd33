"""What the pages for operators name exists: commands, tables, settings, files."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import typer

from cubelet.cli.commands import app
from cubelet.cubes.discovery import discover
from cubelet.lab.cli import app as lab

ROOT = Path(__file__).parent.parent
PAGES = ("installation", "lab", "operations", "settings")
# A command in running text, and one on a line of its own, by its path or in a container.
_INLINE = re.compile(r"`cubelet ([^`]+)`")
_BLOCK = re.compile(r"^ {4}(?:\S*/|.* -- )?cubelet (.+)$", re.MULTILINE)
OWN_TABLES = {"cubes", "ports", "flows", "conditions", "drops"}

each_page = pytest.mark.parametrize("page", PAGES)


def text(page: str) -> str:
    return (ROOT / f"docs/{page}.md").read_text()


@each_page
def test_commands(page: str) -> None:
    root: Any = typer.main.get_command(app)
    lines = [*_INLINE.findall(text(page)), *_BLOCK.findall(text(page))]
    assert lines or page == "settings"
    for line in lines:
        command, words = root, line.split()
        while hasattr(command, "get_command"):
            command = command.get_command(None, words.pop(0))
            assert command is not None, line
        known = {option for each in command.params for option in each.opts}
        assert {word for word in words if word.startswith("--")} <= {*known, "--"}, line


def test_tables_are_all_that_there_are() -> None:
    offered = {noun for cube in discover().cubes.values() for noun in cube.shows}
    named = set(re.findall(r"^\| `cubelet get (\w+)`", text("operations"), re.MULTILINE))
    assert named == OWN_TABLES | offered


@each_page
def test_files_and_links(page: str) -> None:
    for path in re.findall(r"\bdeploy/[\w.-]+\w", text(page)):
        assert (ROOT / path).exists(), path
    for target in re.findall(r"\]\(([\w.-]+)(?:#[\w-]+)?\)", text(page)):
        assert (ROOT / "docs" / target).exists(), target


def test_every_command_of_the_lab_is_documented() -> None:
    page = text("lab")
    for each in lab.registered_commands:
        assert each.callback is not None
        name = each.name or each.callback.__name__
        assert re.search(rf"`cubelet lab {name}\b", page), name
