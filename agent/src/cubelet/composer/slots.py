"""Places each instance's fields in the 64 bytes that a flow record has for cubes.

A slot outlives compositions, as do the flow records with bytes in it. Each slot has a generation,
which is written behind the fields in every record: bytes of another generation belong to another
instance or layout, and are read as zero.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable, Mapping

import msgspec

from cubelet.composer.mirrors import MirrorTargets, mirroring
from cubelet_hooks.cube import Cube
from cubelet_hooks.records import Family, Record

AREA = 64
"""Bytes in a flow record that cubes share (``area`` in cubelet_hooks/flows.py)."""
GENERATION_BYTES = 2
MIRROR = "mirror"
"""Whose slot says where a flow's packets are copied to, beside those of instances (``kind0``)."""
_JUDGED = 0x8000
"""Beside a generation: the fields were there when the flow was judged (``provide.h``)."""
_LAST = _JUDGED - 1
_ALIGNMENT = 8


Keepers = Mapping[str, tuple[type[Record], Family]]
"""The fields that are kept of a flow, by instance, and their family."""


class Slot(msgspec.Struct, frozen=True):
    """Bytes ``offset`` to ``offset + size`` of the area; ``layout`` hashes the fields in them."""

    offset: int
    size: int
    layout: str
    generation: int

    @property
    def end(self) -> int:
        """The offset of the first byte behind it."""
        return self.offset + self.size


class Slots(msgspec.Struct, frozen=True):
    """Slots by instance, also of instances that are gone; ``generation`` is the last one given."""

    held: Mapping[str, Slot] = {}
    generation: int = 0

    @classmethod
    def forgotten(cls) -> Slots:
        """No slots, for when the record of those given out earlier is lost.

        Generations start at a random number, so that fields of earlier slots in flow records are
        not taken for current ones.
        """
        return cls(generation=secrets.randbelow(_LAST))


def keepers(cubes: Iterable[Cube]) -> Keepers:
    """What is kept of flows: by instances in their fields, and of copies while a cube mirrors."""
    cubes = tuple(cubes)
    found: dict[str, tuple[type[Record], Family]] = {
        cube.instance: (cube.flow_fields, cube.family)
        for cube in cubes
        if cube.flow_fields is not None
    }
    if mirroring(cubes):
        found[MIRROR] = (MirrorTargets, cubes[0].family)
    return found


def allot_slots(cubes: Iterable[Cube], known: Slots) -> Slots:
    """A slot for each instance that has flow fields; instances in ``known`` keep theirs.

    The slot of changed fields is free at once, that of an instance that is gone only when there is
    no other room. If the free room is too fragmented, all instances get new slots. Raises
    ValueError naming the instances and their sizes when there is not enough room.
    """
    wanted = keepers(cubes)
    sizes = {name: _size(*fields) for name, fields in wanted.items()}
    if sum(sizes.values()) > AREA:
        raise ValueError(_no_room(sizes))
    layouts = {name: _layout(*fields) for name, fields in wanted.items()}
    held = {
        name: slot
        for name, slot in known.held.items()
        if slot.generation <= _LAST and (name not in wanted or slot.layout == layouts[name])
    }
    generation = known.generation
    for name in sorted(wanted.keys() - held.keys(), key=lambda each: (-sizes[each], each)):
        offset = _make_room(held, wanted, sizes[name])
        if offset is None:
            return _afresh(sizes, layouts, generation)
        generation = _next(generation, held)
        held[name] = Slot(offset, sizes[name], layouts[name], generation)
    return Slots(held, generation)


def read_fields(cube: Cube, slot: Slot, area: bytes) -> Record:
    """The instance's fields in a record's ``area``: zero if they have not been written."""
    fields = cube.flow_fields
    assert fields is not None
    size = fields.layout(cube.family).size
    at = slot.offset + size + size % GENERATION_BYTES
    stands = int.from_bytes(area[at : at + GENERATION_BYTES], "little")
    written = stands & ~_JUDGED == slot.generation
    return fields.unpack(area[slot.offset :] if written else bytes(size), cube.family)


def _size(fields: type[Record], family: Family) -> int:
    """Bytes that the C struct of the fields and their generation takes, rounded up to eight."""
    size = fields.layout(family).size
    return -(-(size + size % GENERATION_BYTES + GENERATION_BYTES) // _ALIGNMENT) * _ALIGNMENT


def _layout(fields: type[Record], family: Family) -> str:
    members = "\n".join(fields.layout(family).c_members())
    return hashlib.sha256(members.encode()).hexdigest()[:12]


def _no_room(sizes: Mapping[str, int]) -> str:
    each = ", ".join(f"{name} ({size} bytes)" for name, size in sorted(sizes.items()))
    return (
        f"flow fields: {each} need {sum(sizes.values())} bytes, and a flow's record has {AREA} "
        "for all cubes; remedy: leave one of them out, or keep less in Cube.flow_fields"
    )


def _make_room(held: dict[str, Slot], wanted: Keepers, size: int) -> int | None:
    """The first free offset for ``size`` bytes, if need be of a gone instance; None if none."""
    while (offset := _first_free(held.values(), size)) is None:
        stranger = next((name for name in held if name not in wanted), None)
        if stranger is None:
            return None
        del held[stranger]
    return offset


def _first_free(slots: Iterable[Slot], size: int) -> int | None:
    start = 0
    for slot in sorted(slots, key=lambda each: each.offset):
        if slot.offset - start >= size:
            break
        start = slot.end
    return start if start + size <= AREA else None


def _next(generation: int, held: Mapping[str, Slot]) -> int:
    """A generation that no slot has; never 0, the generation of a new record."""
    taken = {slot.generation for slot in held.values()}
    generation = generation % _LAST + 1
    while generation in taken:
        generation = generation % _LAST + 1
    return generation


def _afresh(sizes: Mapping[str, int], layouts: Mapping[str, str], generation: int) -> Slots:
    held: dict[str, Slot] = {}
    offset = 0
    for name in sorted(sizes):
        generation = _next(generation, held)
        held[name] = Slot(offset, sizes[name], layouts[name], generation)
        offset += sizes[name]
    return Slots(held, generation)
