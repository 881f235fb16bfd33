"""The commands for authors of cubes: ``cubelet new``, ``cubelet cube check``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cubelet.console.output import CommandError, Format, print_as, table, tell, told

if TYPE_CHECKING:
    from cubelet.check.findings import Report

cube = typer.Typer(name="cube", help="What a cube's author needs.", no_args_is_help=True)


@cube.callback()
def _cube() -> None:
    """What a cube's author needs."""


@cube.command()
def check(
    what: Annotated[
        str, typer.Argument(metavar="PATH|KIND", help="A package's folder, or an installed cube.")
    ],
    output: Annotated[Format, typer.Option("--output", "-o", help="How to print it.")] = (
        Format.TABLE
    ),
) -> None:
    """Look for what a cube does wrong; needs no agent, and root to load its programs.

    Exits with 1 if there are findings, with 2 if something could not be checked.
    """
    import logging

    from cubelet.check.runner import check as run
    from cubelet.console import logs

    logs.configure(logging.CRITICAL)
    try:
        with told(output):
            found = list(run(what))
    except typer.Exit as error:
        raise typer.Exit(130 if error.exit_code == 130 else 2) from None
    print_as(output, [_document(each) for each in found], lambda: "\n\n".join(map(_text, found)))
    if any(True for each in found for _ in each.findings):
        raise typer.Exit(1)
    if any(each.unchecked for each in found):
        raise typer.Exit(2)


def _document(report: Report) -> dict[str, object]:
    return {
        "kind": report.kind,
        "source": report.source,
        "checks": [
            {"check": each.check, "state": each.state, "reason": each.reason}
            | {"findings": [vars(finding) for finding in each.findings]}
            for each in report.results
        ],
        "programs": [vars(each) for each in report.programs],
    }


def _text(report: Report) -> str:
    counts: dict[str, list[int]] = {}
    for each in report.programs:
        counts.setdefault(each.composition, []).append(each.instructions)
    results = [(report.kind, each.check, each.state, each.reason) for each in report.results]
    lines = [table(("CUBE", "CHECK", "RESULT", "WHY"), results)]
    if counts:
        rows = [(name, len(each), sum(each), max(each)) for name, each in counts.items()]
        lines += ["", table(("COMPOSITION", "PROGRAMS", "VERIFIED", "LARGEST"), rows)]
    for name, finding in report.findings:
        place = f"{finding.place}: " if finding.place else ""
        lines += ["", f"{place}{name}: {finding.message}", f"    {finding.remedy}"]
    return "\n".join(lines)


def new(
    name: Annotated[
        str, typer.Argument(help="What the cube is called: lower-case letters and digits.")
    ],
    directory: Annotated[
        Path, typer.Option(help="The folder in which the folder cubelet-NAME is made.")
    ] = Path(),
    ports: Annotated[
        str, typer.Option(help="The port classes it is for: pod, host, overlay, uplink.")
    ] = "pod",
    force: Annotated[
        bool, typer.Option("--force", help="Replace the template's files where they exist.")
    ] = False,
) -> None:
    """Make a package for a cube of your own, whose tests pass as they are."""
    from cubelet.scaffold.names import check_name
    from cubelet.scaffold.render import render
    from cubelet.scaffold.write import write_package

    with told():
        check_name(name)
        folder = directory / f"cubelet-{name}"
        files = render(name, _port_classes(ports))
        try:
            write_package(folder, files, force)
        except OSError as error:
            raise CommandError(f"{folder}: {error.strerror}", "nothing was written") from error
        print(folder)
        tell(f"next: cd {folder}; pip install -e '.[test]'; pytest")


def _port_classes(text: str) -> tuple[str, ...]:
    """The port classes in a comma-separated list, in the contract's order."""
    from cubelet_hooks.cube import PORT_CLASSES

    given = [each.strip() for each in text.split(",")]
    unknown = [each for each in given if each not in PORT_CLASSES]
    if unknown:
        known = ", ".join(PORT_CLASSES)
        raise CommandError(
            f"--ports {text}: {unknown[0]!r} is no port class",
            f"name some of {known}, with commas between them",
        )
    return tuple(each for each in PORT_CLASSES if each in given)
