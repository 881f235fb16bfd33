"""``cubelet ddos``: block addresses on this node for a time, while an attack lasts."""

from __future__ import annotations

import enum
import json
from collections.abc import Iterable, Mapping
from typing import Annotated, Any

import typer

from cubelet_hooks.command import ask

app = typer.Typer(help="Block addresses on this node for a time.", no_args_is_help=True)

Address = Annotated[str, typer.Argument(help="An IP address.")]
Instance = Annotated[str, typer.Option(help="Of which instance, if there are several.")]


class Output(enum.StrEnum):
    """How a table is printed."""

    TABLE = "table"
    JSON = "json"


TABLE = Output.TABLE
COLUMNS = ("source", "cause", "seconds", "packets")


@app.command()
def block(
    address: Address,
    seconds: Annotated[int, typer.Option(help="For how long.")] = 600,
    instance: Instance = "ddos",
) -> None:
    """Drop all packets from an address for a time; a Blocklist does it for good, on all nodes."""
    done = ask(instance, "block", address=address, seconds=seconds)
    print(f"{done['source']} is blocked for {done['seconds']} s")


@app.command()
def unblock(address: Address, instance: Instance = "ddos") -> None:
    """Let an address in again before its time is over."""
    print(f"{ask(instance, 'unblock', address=address)['source']} is no longer blocked")


@app.command("list")
def list_blocked(
    instance: Instance = "ddos",
    output: Annotated[Output, typer.Option("--output", "-o", help="How to print it.")] = TABLE,
) -> None:
    """List who is blocked for a time, and how many packets were dropped since then."""
    rows = ask(instance, "list")
    print(json.dumps(rows) if output == Output.JSON else "\n".join(table(rows)))


def table(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Lines of columns as wide as their longest word."""
    lines = [[name.upper() for name in COLUMNS]]
    lines += [[str(row[name]) for name in COLUMNS] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return [
        "   ".join(word.ljust(width) for word, width in zip(line, widths, strict=True)).rstrip()
        for line in lines
    ]
