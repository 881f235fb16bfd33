"""The commands. Each imports what it needs when it runs, so that all of them start quickly."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from cubelet.cli import author, config, cubes, views
from cubelet.cli.lazy import LabGroup, RootGroup
from cubelet.console import logs
from cubelet.console.output import CommandError, Format, print_as, tell, told
from cubelet.ipc.client import DEFAULT_SOCKET, AgentUnreachableError, call, stream

app = typer.Typer(
    cls=RootGroup,
    help="A Kubernetes network provider made of cubes: small eBPF network functions.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(
    typer.Typer(
        cls=LabGroup,
        help="A cluster in network namespaces of this machine, with real agents and real packets.",
        no_args_is_help=True,
    ),
    name="lab",
)

app.add_typer(config.app)
app.add_typer(cubes.app)
app.add_typer(author.cube)
app.command()(author.new)

Output = Annotated[Format, typer.Option("--output", "-o", help="How to print it.")]
Socket = Annotated[
    str, typer.Option("--socket", envvar="CUBELET_SOCKET", help="Where the agent listens.")
]


@app.command()
def agent(
    config: Annotated[
        Path | None, typer.Option("--config", help="Settings in YAML; without it, the defaults.")
    ] = None,
) -> None:
    """Run the node agent until it is told to stop. Programs go on forwarding after it."""
    from cubelet.config.node import load
    from cubelet.daemon.agent import CompositionError, SettingsError, run

    logs.configure()
    with told():
        try:
            run(load(config))
        except (SettingsError, CompositionError, OSError) as error:
            raise CommandError(str(error)) from error


@app.command()
def status(output: Output = Format.TABLE, socket: Socket = DEFAULT_SOCKET) -> None:
    """Say whether the agent is ready and what it runs; exits with 1 if anything is wrong."""
    with told(output):
        found = call(socket, "status")
        print_as(output, found, lambda: views.status(found))
        if not found["ready"] or found["problems"]:
            raise typer.Exit(1)


@app.command()
def get(
    noun: Annotated[
        str, typer.Argument(help="cubes, ports, flows, drops, or what a cube offers: routes...")
    ],
    output: Output = Format.TABLE,
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", help="Only rows with COLUMN=TEXT, a column of -o json (repeat it)."
        ),
    ] = None,
    limit: Annotated[int, typer.Option(min=0, help="At most so many rows; 0 for all.")] = 1000,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """List what the datapath on this node holds."""
    with told(output):
        params: dict[str, Any] = {"noun": noun, "limit": limit + 1 if limit else None}
        if where:
            params["where"] = dict(map(_column, where))
        found = call(socket, "get", params)
        shown = found[:limit] if limit else found
        print_as(output, shown, lambda: views.rows(noun, shown, output))
        if len(shown) < len(found):
            tell(f"there are more than {limit} {noun}: see --limit and --where")


@app.command()
def monitor(
    output: Output = Format.TABLE,
    count: Annotated[int, typer.Option(min=0, help="End after so many packets; 0: never.")] = 0,
    socket: Socket = DEFAULT_SOCKET,
) -> None:
    """Show dropped packets as they are dropped, with the cube that did it and why."""
    with told(output):
        if output.for_people:
            print(views.drop(None), flush=True)
        for event in _first(stream(socket, "monitor"), count):
            _print_event(event, output)


@app.command()
def plugins(output: Output = Format.TABLE, socket: Socket = DEFAULT_SOCKET) -> None:
    """List the cubes that are installed; only the agent can say which are active."""
    with told(output):
        try:
            found = call(socket, "plugins")
        except AgentUnreachableError:
            found = _discovered()
        print_as(output, found, lambda: views.rows("plugins", found, output))


@app.command()
def doctor(output: Output = Format.TABLE) -> None:
    """Check what this machine must offer, with a remedy for what is missing."""
    from cubelet.node.doctor import run_checks

    with told(output):
        found = [vars(check) for check in run_checks()]
        columns = views.fields("name", "ok", "detail", "remedy")
        print_as(output, found, lambda: views.in_columns(columns, found))
        if not all(check["ok"] for check in found):
            raise typer.Exit(1)


@app.command()
def uninstall(
    config: Annotated[
        Path | None, typer.Option("--config", help="The agent's settings, in YAML.")
    ] = None,
    keep_state: Annotated[
        bool, typer.Option("--keep-state", help="Leave what is known of addresses and pods.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Cut off pods that are attached.")] = False,
    output: Output = Format.TABLE,
) -> None:
    """Take cubelet off this node once its agent has ended; exits with 1 if anything stays."""
    from cubelet.config.node import SettingsError, load
    from cubelet.net import NetError
    from cubelet.node.uninstall import StillInUse, uninstall

    logs.configure()
    with told(output):
        try:
            report = uninstall(load(config), force=force, keep_state=keep_state)
        except (SettingsError, StillInUse, NetError, OSError) as error:
            raise CommandError(str(error)) from error
        print_as(output, vars(report), lambda: views.removed(report.removed))
        if report.failed and output.for_people:
            tell("\n".join(f"error: {each}" for each in report.failed))
        if report.failed:
            raise typer.Exit(1)


@app.command()
def version() -> None:
    """Print the version."""
    from importlib.metadata import version as version_of

    print(f"cubelet {version_of('cubelet')}")


def _column(pair: str) -> tuple[str, str]:
    column, equals, text = pair.partition("=")
    if not equals:
        raise CommandError(f"--where {pair}: COLUMN=TEXT is expected")
    return column, text


def _first(events: Iterator[Any], count: int) -> Iterator[Any]:
    """All events, or so many that `count` packets are among them; ends quietly on Ctrl-C."""
    try:
        for event in events:
            yield event
            count -= "lost" not in event
            if count == 0:
                return
    except KeyboardInterrupt:
        return


def _print_event(event: Any, output: Format) -> None:
    import json

    if output is Format.JSON:
        print(json.dumps(event), flush=True)
    elif output is Format.YAML:
        print("---")
        print_as(output, event, str)
    elif "lost" in event:
        tell(f"{event['lost']} packets are not shown: they came too fast")
    else:
        print(views.drop(event), flush=True)


def _discovered() -> list[dict[str, object]]:
    import logging

    from cubelet.cubes.discovery import discover

    logs.configure(logging.CRITICAL)  # no log lines: the table gives each plugin's reason
    return discover().rows()
