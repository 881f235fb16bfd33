"""The output of all commands: kubectl-like tables, JSON, YAML, and errors.

Results go to standard output, everything else to standard error. Nothing is coloured.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import typer

from cubelet.ipc.client import AgentError


class Format(StrEnum):
    """A command's output format."""

    TABLE = "table"
    WIDE = "wide"
    JSON = "json"
    YAML = "yaml"

    @property
    def for_people(self) -> bool:
        """Whether it is text; the others are documents for programs."""
        return self in (Format.TABLE, Format.WIDE)


class CommandError(Exception):
    """A command cannot do what was asked; the message is for the user.

    `detail` is the cause or the remedy, and may be long.
    """

    def __init__(self, message: str, detail: str = "") -> None:
        super().__init__(message)
        self.detail = detail


def table(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table without boxes: columns as wide as their widest cell, three blanks between them."""
    cells = [[cell(value) for value in row] for row in [headers, *rows]]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        "   ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
        for row in cells
    ]
    return "\n".join(lines)


def cell(value: object) -> str:
    """A value as a table shows it."""
    if value is None or value == []:
        return "<none>"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ",".join(map(cell, value))
    return str(value)


def print_as(output: Format, document: Any, text: Callable[[], str]) -> None:
    """Print `document` for programs, or `text()` for people."""
    if output.for_people:
        print(text())
    elif output is Format.JSON:
        print(json.dumps(document, indent=2))
    else:
        import yaml

        print(yaml.safe_dump(document, sort_keys=False), end="")


def tell(message: str) -> None:
    """Print a message for the user to standard error."""
    print(message, file=sys.stderr, flush=True)


@contextmanager
def told(output: Format = Format.TABLE) -> Iterator[None]:
    """Print an error of the block, as a document on stdout if one was asked for; exit with 1."""
    try:
        yield
    except KeyboardInterrupt:
        tell("interrupted")
        raise typer.Exit(130) from None
    except (CommandError, AgentError) as error:
        detail = error.detail if isinstance(error, CommandError) else error.details
        if output.for_people:
            tell("\n".join(filter(None, (f"error: {error}", detail))))
        else:
            print_as(output, {"error": {"message": str(error), "detail": detail}}, str)
        raise typer.Exit(1) from None
