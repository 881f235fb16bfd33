"""``cubelet flowlog tail`` and ``status``; imported only when one of them is called."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from cubelet_hooks.command import ask

POLL = 0.5
"""Seconds between two questions of ``tail --follow``."""

app = typer.Typer(help="Flows of this node's pods.", no_args_is_help=True)

Instance = Annotated[str, typer.Option(help="Which instance, if there are several.")]
Json = Annotated[bool, typer.Option("--json", help="JSON, one record a line.")]


@app.command()
def tail(
    lines: Annotated[
        int, typer.Option("--lines", "-n", min=0, help="How many to begin with.")
    ] = 20,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on with new ones.")] = False,
    as_json: Json = False,
    instance: Instance = "flowlog",
) -> None:
    """Print the latest records, of the last 1,000 that the agent has made."""
    records = ask(instance, "records")
    last = records[-1][0] if records else 0
    show(records[-lines:] if lines else [], as_json)
    while follow:
        time.sleep(POLL)
        records = ask(instance, "records", after=last)
        last = records[-1][0] if records else last
        show(records, as_json)


@app.command()
def status(as_json: Json = False, instance: Instance = "flowlog") -> None:
    """Print what is told, how much has been, and what was lost."""
    found: dict[str, Any] = ask(instance, "status")
    if as_json:
        print(json.dumps(found))
        return
    width = max(map(len, found))
    for name, value in found.items():
        print(f"{name:{width}}  {value if value != '' else '-'}")


def show(records: list[Any], as_json: bool) -> None:
    """Print numbered records; flushed, so that a pipe gets them at once."""
    for _, line in records:
        print(json.dumps(line) if as_json else in_words(line), flush=True)


def in_words(line: Mapping[str, Any]) -> str:
    """A record for people.

    ``09:30:01.250 opened TCP 10.1.0.2:4000 (shop/web) -> 10.96.0.9:80 => 10.1.1.3:8080 (shop/db),
    pod to overlay``, in one line.
    """
    words = [line["time"][11:-1], f"{line['event']:7}", line["protocol"], _end(line, "source")]
    if "to_source" in line:
        words += ["as", _address(line, "to_source")]
    words += ["->", _address(line, "destination")]
    if "to_destination" in line:
        words += ["=>", _address(line, "to_destination")]
    if pod := line.get("destination_pod"):
        words.append(f"({pod})")
    text = " ".join(words) + f", {line['enters']}"
    if leaves := line.get("leaves"):
        text += f" to {leaves}"
    if "asked" in line:
        text += f", for {line['asked']}"
    if "packets" in line:
        text += f", {line.get('direction', 'forward')}: {line['packets']} packets"
        text += f", {line['bytes']} bytes"
    if "reply_packets" in line:
        text += f", reply: {line['reply_packets']} packets, {line['reply_bytes']} bytes"
    return text


def _end(line: Mapping[str, Any], name: str) -> str:
    pod = line.get(f"{name}_pod")
    return _address(line, name) + (f" ({pod})" if pod else "")


def _address(line: Mapping[str, Any], name: str) -> str:
    address, port = line[name], line.get(f"{name}_port", "?")
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
