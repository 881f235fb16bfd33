"""What programs and sweeps tell of flows that have ended, while some cube asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cubelet_hooks import flows
from cubelet_hooks.cube import Cube
from cubelet_hooks.flows import Index
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import U8, U64, Area, Record

RING, RATE, LOST = "ended_ring", "ended_rate", "ended_lost"
"""The maps' names, after ``cubelet_``."""
RING_BYTES = 1 << 20
"""Room for some 2,500 records that wait for the agent."""

TELLING = frozenset(("bpf_ringbuf_reserve", "bpf_ringbuf_submit", "bpf_ringbuf_discard"))
"""The helpers that programs tell by."""


class Rate(Record):
    """A rate of the node, as the time at which its bucket is empty again: see ``rate.h``."""

    until: U64


class Lost(Record):
    """What exceeded a rate, or found no room."""

    lost: U64


class Ended(Record):
    """A record of a flow that was forgotten, and its key.

    ``paired``: behind it are the other record's counts and cubes' fields. A sweep tells of the two
    one by one.
    """

    key: flows.Tuple
    paired: U8
    flow: flows.Flow
    packets: U64
    bytes: U64
    area: Area


def ends_per_second(cubes: Iterable[Cube]) -> int:
    """How many flows' ends are told of: as many as the cube wants that wants the most; 0: none."""
    return max((cube.number(cube.ended) for cube in cubes), default=0)


def ended_maps(cubes: Iterable[Cube]) -> Iterator[Map]:
    """The core's maps for that; none if no cube asks."""
    if ends_per_second(cubes):
        yield Map(RING, MapType.RINGBUF, Index, Ended, RING_BYTES, planned=False)
        yield Map(RATE, MapType.ARRAY, Index, Rate, 1, planned=False)
        yield Map(LOST, MapType.ARRAY, Index, Lost, 1, planned=False)
