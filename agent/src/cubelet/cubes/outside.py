"""Instances whose Python runs in another process, and what it is handed there."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from cubelet.bpf.maps import BpfMap
from cubelet.composer.provided import split_punted
from cubelet_hooks.context import Context, Packet
from cubelet_hooks.cube import PORT_CLASSES, Cube

Ring = Literal["event", "packet"]
"""What a record is of that a cube's C has sent."""


@dataclass(frozen=True)
class Tally:
    """How many callbacks failed, and how the first one did."""

    failures: int = 0
    error: str = ""


class Outside(Cube):
    """An instance that is asked elsewhere, and handed what its C sends there."""

    @abstractmethod
    def serve(self, maps: Mapping[str, BpfMap]) -> None:
        """Let its Python use these maps of the composition in force, by C name."""

    @abstractmethod
    def deliver(self, ring: Ring, records: Sequence[bytes]) -> Tally:
        """Hand records over. Raises what says why that cannot be."""


def call_back(ring: Ring, raw: bytes, cube: Cube, context: Context) -> None:
    """Call the cube's callback for one record; raises what that raises."""
    if ring == "event":
        assert cube.event is not None
        cube.on_event(cube.event.unpack(raw, cube.family), context)
    else:
        head, frame = split_punted(raw)
        port_class = PORT_CLASSES[head.entered]
        cube.on_packet(Packet(frame, port_class, head.ifindex, cube.instance), context)
