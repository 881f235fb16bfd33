"""The commands of who writes a cube: ``cubelet new``, ``cubelet cube check``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from cubelet.output import CommandError, tell, told


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
    """The port classes in a list with commas, in the order of the contract's."""
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
