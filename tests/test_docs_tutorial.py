"""The tutorials, as readers follow them: commands are run, files written, outputs seen.

`sh` blocks are run, blocks with `file=PATH` written, `diff` blocks applied, all where the reader is
by then. Each line of a `text` block must be in the output of the commands before it, whatever the
blanks between its words.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from cubelet.lab import cluster
from cubelet.lab.layout import Layout

from .author import Author

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ("writing-a-cube.md", "growing-a-cube.md")
_BLOCK = re.compile(
    r"^```(?P<kind>\w+)(?: file=(?P<file>\S+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
KEPT = "{ export -p; printf 'cd %q\\n' \"$PWD\"; } > "
"""Keeps what a block has exported, and where it went, for the next one."""


class Block(NamedTuple):
    """One block of the page; `line` is where its text begins."""

    kind: str
    file: str | None
    text: str
    line: int


def blocks(name: str) -> Iterator[Block]:
    page = (DOCS / name).read_text()
    for found in _BLOCK.finditer(page):
        line = page[: found.start("text")].count("\n") + 1
        yield Block(found["kind"], found["file"], found["text"], line)


class Reader:
    """Follows a page in an environment of its own."""

    def __init__(self, page: str, author: Author, lab: str) -> None:
        self._page, self._author, self._lab = page, author, lab
        self._state = author.folder / ".state"
        self._state.write_text("")
        self._output = ""

    def follow(self, block: Block) -> None:
        where = f"{self._page}:{block.line}"
        if block.file:
            self._run(f"cat > {block.file} <<'END OF FILE'\n{block.text}END OF FILE", where)
        elif block.kind == "sh":
            self._output = self._run(block.text, where)
        elif block.kind == "diff":
            self._run(f"git apply - <<'END OF DIFF'\n{block.text}END OF DIFF", where)
        elif block.kind == "text":
            seen = [" ".join(line.split()) for line in self._output.splitlines()]
            for line in filter(None, block.text.splitlines()):
                wanted = " ".join(line.split())
                assert any(wanted in each for each in seen), f"{where}: {line}\n{self._output}"

    def _run(self, command: str, where: str) -> str:
        script = f"source {self._state}\n{command}\n{KEPT}{self._state}"
        done = self._author.run(script, CUBELET_LAB=self._lab)
        assert done.returncode == 0, f"{where}: {done.stdout}"
        return done.stdout


@pytest.fixture
def lab() -> Iterator[str]:
    layout = Layout(f"d{os.getpid()}")
    try:
        yield layout.name
    finally:
        cluster.down(layout)


def test_every_kind_of_block_is_known() -> None:
    kinds = {(block.kind, bool(block.file)) for page in PAGES for block in blocks(page)}
    run = {("sh", False), ("text", False), ("diff", False)}
    files = {("python", True), ("yaml", True), ("c", True)}
    assert kinds == run | files | {("dockerfile", False), ("yaml", False)}


@pytest.mark.parametrize("page", PAGES)
def test_a_tutorial_works(tmp_path: Path, lab: str, page: str) -> None:
    reader = Reader(page, Author(tmp_path), lab)
    for block in blocks(page):
        reader.follow(block)
