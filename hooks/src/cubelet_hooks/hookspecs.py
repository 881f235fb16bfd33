"""The hooks of a plugin. They register cube classes and observe; behaviour is in the classes."""

from __future__ import annotations

from collections.abc import Sequence

import pluggy

from cubelet_hooks.cube import Cube
from cubelet_hooks.objects import Change

PROJECT = "cubelet"
ENTRY_POINT_GROUP = "cubelet.cubes"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def cubelet_cubes() -> Sequence[type[Cube]]:
    """Return the cube classes that this package offers. Called once, when the agent starts."""
    raise NotImplementedError


@hookspec
def cubelet_changed(change: Change) -> None:
    """Observe a change of a Kubernetes object, after the agent's state contains it.

    Runs in the package's own process, a batch after each pass, within the limits of one question:
    what comes after a call that hangs is lost. An exception is logged and otherwise ignored.
    """


@hookspec
def cubelet_composed(mode: str, instances: Sequence[str]) -> None:
    """Observe that a composition has taken over every port; ``instances`` in chain order."""
