"""The commands that cubes bring: ``cubelet KIND ...``, found by the kind's entry point.

Only the package of that kind is imported.
"""

from __future__ import annotations

import importlib
from importlib.metadata import EntryPoint, entry_points
from typing import TYPE_CHECKING

import typer

from cubelet.console.output import CommandError

if TYPE_CHECKING:
    from typer.core import TyperGroup

    from cubelet_hooks.cube import Cube

_ENTRY_POINTS = "cubelet.cubes"


def installed() -> list[str]:
    """The names of all installed cubes; only importing them would tell which have commands."""
    return sorted(entry_points(group=_ENTRY_POINTS).names)


def commands_of(kind: str) -> TyperGroup | None:
    """The commands of a kind; None if no cube of this name is installed.

    Raises CommandError for a cube without commands, or that cannot be used.
    """
    point = next(iter(entry_points(group=_ENTRY_POINTS, name=kind)), None)
    if point is None:
        return None
    cube = _cube(kind, point)
    if not cube.commands:
        raise CommandError(f"the cube {kind} has no commands of its own", "see: cubelet get cubes")
    module, _, name = cube.commands.partition(":")
    try:
        app = getattr(importlib.import_module(module), name)
    except Exception as error:  # any error of the package is reported with its name
        raise _unusable(kind, point, f"{cube.commands}: {error!r}") from error
    if not isinstance(app, typer.Typer):
        raise _unusable(kind, point, f"{cube.commands} is no Typer application")
    app.rich_markup_mode = None  # help looks the same everywhere
    group = typer.main.get_group(app)
    group.name = kind
    return group


def _cube(kind: str, point: EntryPoint) -> type[Cube]:
    import logging

    from cubelet.console import logs
    from cubelet.cubes.discovery import discover

    logs.configure(logging.CRITICAL)  # no log lines: the error below gives the reason
    discovery = discover([point])
    (plugin,) = discovery.plugins
    if plugin.quarantined:
        raise _unusable(kind, point, plugin.reason)
    if kind not in discovery.cubes:
        offered = ", ".join(discovery.cubes) or "none"
        raise _unusable(kind, point, f"its package offers {offered}")
    return discovery.cubes[kind]


def _unusable(kind: str, point: EntryPoint, reason: str) -> CommandError:
    whose = f"{point.dist.name} {point.dist.version}" if point.dist else point.value
    return CommandError(f"the commands of {kind} ({whose}) cannot be used", reason)
