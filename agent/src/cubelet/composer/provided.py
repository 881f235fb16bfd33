"""What the composer provides to a cube: flow fields, events, and packets for its Python.

The C is in ``bpf/provide.h``; this module has the maps and structs that it needs, and the macro
lines that make an instance's functions.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterable, Iterator

from cubelet.composer.core import PuntedHead
from cubelet.composer.ends import Lost, Rate
from cubelet.composer.slots import Slots, keepers
from cubelet_hooks.cube import Cube
from cubelet_hooks.flows import Index
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import Record

PUNT_BYTES = 2_048
"""The longest frame that is handed to Python."""
EVENT_RING, EVENT_RATE, EVENT_LOST = "event_ring", "event_rate", "event_lost"
PACKET_RING, PACKET_RATE, PACKET_LOST = "packet_ring", "packet_rate", "packet_lost"
_EVENTS = (EVENT_RING, EVENT_RATE, EVENT_LOST)
_PACKETS = (PACKET_RING, PACKET_RATE, PACKET_LOST)
FIELDS, EVENT = "flow_fields", "event"
"""The structs' names in C, after the instance's prefix; the Python records may have others."""
_NUMBERS = ("events_per_second", "event_bytes", "packets_per_second", "packet_bytes", "ended")

_LEAST_TICK, _LONGEST_TICK = 0.1, 86_400
"""Seconds between two ticks."""


def check_provided(cube: Cube) -> None:
    """Check rates, sizes and map names. Raises ValueError naming the cube and its attribute."""
    for name in _NUMBERS:
        value = getattr(cube, name)
        try:
            number = cube.number(value)
        except (AttributeError, TypeError, ValueError):
            settings = cube.settings_type.__name__
            text = f"cube {cube.kind}: {name} is {value!r}, which is no number of {settings}"
            raise ValueError(text) from None
        if not 0 <= number < 1 << 32:
            raise ValueError(f"cube {cube.kind}: {name} is {number}, not 0 to 4,294,967,295")
    _check_ticks(cube)
    taken = {each.name for each in provided_maps(cube)} & {each.name for each in cube.maps}
    if taken:
        name = min(taken)
        raise ValueError(f"cube {cube.kind}: {name} is a map of the composer's; remedy: rename it")


def _check_ticks(cube: Cube) -> None:
    try:
        seconds = cube.tick_seconds
    except (AttributeError, TypeError, ValueError):
        text = f"every is {cube.every!r}, which is no number of {cube.settings_type.__name__}"
        raise ValueError(f"cube {cube.kind}: {text}") from None
    if seconds and not _LEAST_TICK <= seconds <= _LONGEST_TICK:
        text = f"every is {seconds:g}, not 0 or {_LEAST_TICK} to {_LONGEST_TICK:,} seconds"
        raise ValueError(f"cube {cube.kind}: {text}")


def provided_maps(cube: Cube) -> tuple[Map, ...]:
    """The maps that the composer adds to an instance; the cube's own cannot have their names."""
    maps: list[Map] = []
    if cube.event is not None:
        maps += _ring(_EVENTS, cube.event, cube.number(cube.event_bytes))
    if cube.punts:
        maps += _ring(_PACKETS, PuntedHead, cube.number(cube.packet_bytes))
    return tuple(maps)


def _ring(names: tuple[str, str, str], record: type[Record], size: int) -> Iterator[Map]:
    ring, rate, lost = names
    # A ring has no values; its record is declared so that a ring of other records is another map.
    # The kernel demands a power of two of whole pages.
    rounded = mmap.PAGESIZE
    while rounded < size:
        rounded *= 2
    yield Map(ring, MapType.RINGBUF, Index, record, rounded, planned=False)
    yield Map(rate, MapType.ARRAY, Index, Rate, 1, planned=False)
    yield Map(lost, MapType.PERCPU_ARRAY, Index, Lost, 1, planned=False)


def provided_structs(cube: Cube) -> Iterator[tuple[str, type[Record]]]:
    """The C structs, by their names without the instance's prefix."""
    if cube.flow_fields is not None:
        yield FIELDS, cube.flow_fields
    if cube.event is not None:
        yield EVENT, cube.event


def provided_functions(cubes: Iterable[Cube], slots: Slots) -> list[str]:
    """The lines that make the instances' C functions; none if no cube asks for any."""
    lines = []
    for cube in cubes:
        name = cube.instance
        if cube.flow_fields is not None:
            slot = slots.held[name]
            lines.append(f"cubelet_provide_fields({name}, {slot.offset}, {slot.generation})")
        if cube.event is not None:
            lines.append(f"cubelet_provide_events({name}, {cube.number(cube.events_per_second)})")
        if cube.punts:
            limit = cube.number(cube.packets_per_second)
            lines.append(f"cubelet_provide_packets({name}, {limit})")
        if cube.mirrors:
            lines.append(f"cubelet_provide_mirror({name})")
    return lines


def area_used(cubes: Iterable[Cube], slots: Slots) -> int:
    """How many bytes of a flow's area, from its start, what these cubes keep of it takes."""
    return max((slots.held[name].end for name in keepers(cubes)), default=0)


def split_punted(raw: bytes) -> tuple[PuntedHead, bytes]:
    """Split a record of the packet ring into its head and the frame."""
    head = PuntedHead.unpack(raw)
    start = PuntedHead.layout().size
    return head, raw[start : start + head.length]
