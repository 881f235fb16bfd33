"""The commands about a node's cubes: ``cubelet cubes reload`` and ``forget``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from cubelet.cli import views
from cubelet.console.output import Format, print_as, told
from cubelet.ipc.client import DEFAULT_SOCKET, call

app = typer.Typer(name="cubes", help="The cubes that this node's agent runs.", no_args_is_help=True)

_PATIENCE = 600.0
"""Seconds: cubes are imported, planned, compiled and verified before they take over."""
Output = Annotated[Format, typer.Option("--output", "-o", help="How to print it.")]
Socket = Annotated[
    str, typer.Option("--socket", envvar="CUBELET_SOCKET", help="Where the agent listens.")
]


@app.callback()
def _cubes() -> None:
    """The cubes that this node's agent runs."""


@app.command()
def reload(output: Output = Format.TABLE, socket: Socket = DEFAULT_SOCKET) -> None:
    """Have the cubes that are installed now take over from those that run.

    They are tried first, in a process of their own. Exits with 1, and with the reason, if some do
    not take over; what runs goes on.
    """
    with told(output):
        found = call(socket, "reload", {}, _PATIENCE)
        _print(found, output)
        if any(each["state"] in ("kept", "quarantined") for each in found):
            raise typer.Exit(1)


@app.command()
def forget(
    kind: Annotated[str, typer.Argument(help="The kind of a cube that is kept as it was.")],
    output: Output = Format.TABLE,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Let go of a cube that runs though its package is gone or broken.

    Nothing does its work then: what an essential cube filtered is open.
    """
    with told(output):
        _print(call(socket, "forget", {"kind": kind}, _PATIENCE), output)


def _print(found: list[dict[str, Any]], output: Format) -> None:
    print_as(output, found, lambda: views.rows("plugins", found, output))
