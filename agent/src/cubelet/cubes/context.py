"""The context that a cube's callbacks get while the instance's composition is in force."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import structlog

from cubelet.bpf.layout import split_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.composer.ends import Lost
from cubelet.cubes.tables import Table
from cubelet.datapath.epochs import Epochs
from cubelet_hooks.context import Logger
from cubelet_hooks.cube import Cube
from cubelet_hooks.maps import Concerned
from cubelet_hooks.view import View

Send = Callable[[bytes, int], None]
"""Sends a frame by the device with this ifindex."""


@dataclass(frozen=True)
class Counts:
    """How often an instance's Python was called, and what for, since the agent's start.

    ``lost_events``, ``lost_packets`` and ``lost_ended`` (flows' ends) count those over the rate or
    without room in the ring, since the maps were made. ``failures`` counts exceptions of the cube's
    callbacks.
    """

    events: int = 0
    packets: int = 0
    ticks: int = 0
    gone: int = 0
    ended: int = 0
    failures: int = 0
    lost_events: int = 0
    lost_packets: int = 0
    lost_ended: int = 0


class CubeContext:
    """The :class:`cubelet_hooks.context.Context` of one instance; it closes its maps itself."""

    def __init__(self, cube: Cube, view: View, maps: Mapping[str, BpfMap], send: Send) -> None:
        self.cube = cube
        self.view = view
        self.log: Logger = structlog.get_logger().bind(instance=cube.instance)
        self._send = send
        with ExitStack() as opened:
            # Duplicate them: a composition's descriptors close when another one takes over.
            self._maps = {
                name: opened.enter_context(BpfMap(os.dup(table.fd), name))
                for name, table in maps.items()
                if name.startswith(f"{cube.instance}_")
            }
            self._epochs = Epochs(maps["cubelet_epochs"], view)
            opened.callback(self._epochs.close)
            self._opened = opened.pop_all()

    def map(self, name: str) -> BpfMap:
        """A map of the instance, by its name in the cube's declaration or the composer's."""
        return self._maps[f"{self.cube.instance}_{name}"]

    def table(self, name: str) -> Table:
        """See the protocol."""
        for declared in self.cube.maps:
            if declared.name == name:
                return Table(self.cube, declared, self.map(name), self._epochs.raise_for)
        known = ", ".join(each.name for each in self.cube.maps) or "none"
        raise KeyError(f"{self.cube.instance} has no map {name!r}; it declares {known}")

    def judge_again(self, *concerned: Concerned) -> None:
        """See the protocol."""
        self._epochs.raise_for(concerned)

    def send(self, frame: bytes, ifindex: int) -> None:
        """See the protocol."""
        local = self.view.local
        if local is not None and ifindex == local.overlay_ifindex:
            raise ValueError("frames for the overlay need a tunnel's far end: send by another port")
        self._send(frame, ifindex)

    def lost(self, name: str) -> int:
        """How many records the map ``name`` counts as lost; 0 if the cube has none."""
        table = self._maps.get(f"{self.cube.instance}_{name}")
        raw = table.lookup(bytes(4)) if table else None
        if table is None or raw is None:
            return 0
        return sum(Lost.unpack(each).lost for each in split_cpus(raw, table.layout))

    def close(self) -> None:
        """Close the maps."""
        self._opened.close()
