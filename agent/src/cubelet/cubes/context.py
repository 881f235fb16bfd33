"""What surrounds one instance of a cube while its composition is in force."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass

import structlog

from cubelet.bpf.layout import split_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.composer.core import Rate
from cubelet.cubes.tables import Table
from cubelet.datapath.applier import Epochs
from cubelet_hooks.context import Logger
from cubelet_hooks.cube import Cube
from cubelet_hooks.view import View

Send = Callable[[bytes, int], None]
"""Puts a frame out of a device, given by its index."""


@dataclass(frozen=True)
class Counts:
    """An instance's since the agent began: what was delivered, what was lost before that.

    ``lost_events`` and ``lost_packets`` count since the maps were made: what was over the rate or
    found no room. ``failures`` are deliveries that the cube's Python answered with an exception.
    """

    events: int = 0
    packets: int = 0
    failures: int = 0
    lost_events: int = 0
    lost_packets: int = 0


class CubeContext:
    """The :class:`cubelet_hooks.context.Context` of one instance; its maps are its own to close."""

    def __init__(self, cube: Cube, view: View, maps: Mapping[str, BpfMap], send: Send) -> None:
        self.cube = cube
        self.view = view
        self.log: Logger = structlog.get_logger().bind(instance=cube.instance)
        self._send = send
        with ExitStack() as opened:
            # Descriptors of its own: those of a composition close when another one takes over.
            self._maps = {
                name: opened.enter_context(BpfMap(os.dup(table.fd), name))
                for name, table in maps.items()
                if name.startswith(f"{cube.instance}_")
            }
            self._epochs = Epochs(maps["cubelet_epochs"])
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

    def send(self, frame: bytes, ifindex: int) -> None:
        """See the protocol."""
        local = self.view.local
        if local is not None and ifindex == local.overlay_ifindex:
            raise ValueError("frames for the overlay need a tunnel's far end: send by another port")
        self._send(frame, ifindex)

    def lost(self, rate: str) -> int:
        """What the rate's map counts as lost; 0 if the cube has none."""
        table = self._maps.get(f"{self.cube.instance}_{rate}")
        raw = table.lookup(bytes(4)) if table else None
        if table is None or raw is None:
            return 0
        return sum(Rate.unpack(each).lost for each in split_cpus(raw, table.layout))

    def close(self) -> None:
        """Let go of the maps."""
        self._opened.close()
