"""What is known of an installed plugin, and how people are told of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cubelet.cubes.declarations import exposed_name
from cubelet_hooks.cube import Cube

PluginState = Literal["active", "inactive", "excluded", "kept", "quarantined"]


@dataclass(frozen=True)
class Plugin:
    """One installed plugin: its name and cubes, or the reason why it cannot be used.

    ``digest`` is that of the copy it was loaded from, empty if of none. ``kept`` says why this copy
    of what was in force stands in for the installed package.
    """

    name: str
    distribution: str
    version: str
    hooks: tuple[str, ...] = ()
    cubes: tuple[type[Cube], ...] = ()
    reason: str = ""
    digest: str = ""
    kept: str = ""

    @property
    def quarantined(self) -> bool:
        """Found, but unusable."""
        return bool(self.reason)

    @property
    def title(self) -> str:
        """The distribution and its version."""
        return f"{self.distribution} {self.version}".strip()


LEFT_OUT = "the configuration leaves it out, though it is essential: nothing does its work"


def row(plugin: Plugin, kind: str, state: PluginState, reason: str) -> dict[str, object]:
    """One of a plugin's cubes, as `cubelet plugins` prints it."""
    return {
        "kind": kind,
        "distribution": plugin.distribution,
        "version": plugin.version,
        "hooks": list(plugin.hooks),
        "state": state,
        "reason": reason,
    }


def offers(cube: type[Cube] | None) -> dict[str, object]:
    """The metrics, commands and kinds of objects of a cube, for `cubelet plugins`."""
    names = [exposed_name(cube.kind, metric) for metric in cube.metrics] if cube else []
    return {
        "metrics": names,
        "commands": f"cubelet {cube.kind}" if cube and cube.commands else "",
        "watches": [resource.definition for resource in cube.watches] if cube else [],
    }
