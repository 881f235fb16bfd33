"""The numbers of drop reasons: the core's list, then a range for each kind of cube."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cubelet_hooks.cube import Cube
from cubelet_hooks.reasons import CORE_REASONS, FIRST_CUBE_REASON, MAX_CUBES, REASONS_PER_CUBE


@dataclass(frozen=True)
class NumberedReason:
    """A drop reason as metrics and `cubelet monitor` show it."""

    number: int
    cube: str
    name: str
    text: str


def number_reasons(
    cubes: Iterable[type[Cube]], places: Mapping[str, int]
) -> Mapping[int, NumberedReason]:
    """Every reason by its number; ``places`` are those of :func:`allot`.

    Counters outlive compositions and packages. What a cube with a place has none of these cubes'
    reasons for, because it was uninstalled or had more of them once, has the cube and a number.
    """
    known = {cube.kind: cube.reasons for cube in cubes}
    reasons = [NumberedReason(i, "core", r.name, r.text) for i, r in enumerate(CORE_REASONS)]
    for kind, place in places.items():
        base, own = first_reason(place), known.get(kind, ())
        reasons += [NumberedReason(base + i, kind, r.name, r.text) for i, r in enumerate(own)]
        reasons += [
            NumberedReason(base + i, kind, f"reason-{i}", "of a version that is not installed")
            for i in range(len(own), REASONS_PER_CUBE)
        ]
    return {reason.number: reason for reason in reasons}


def first_reason(place: int) -> int:
    """The number of the first reason of the kind with this place."""
    return FIRST_CUBE_REASON + place * REASONS_PER_CUBE


def allot(kinds: Iterable[str], known: Mapping[str, int] | None = None) -> Mapping[str, int]:
    """A place from 0 to MAX_CUBES - 1 for each kind; kinds in ``known`` keep theirs.

    A kind's place is a hash of its name, or the next free one, so that it seldom depends on other
    kinds. Counters are kept by place, so remember the result: a kind keeps its place, also after
    it is gone, as long as there is room. Raises ValueError for more than MAX_CUBES kinds.
    """
    places = dict(known or {})
    wanted = set(kinds)
    if len(wanted) > MAX_CUBES:
        raise ValueError(f"{len(wanted)} kinds of cubes, and at most {MAX_CUBES} can be composed")
    for kind in sorted(wanted - places.keys()):
        if len(places) == MAX_CUBES:
            del places[next(old for old in places if old not in wanted)]
        place = zlib.crc32(kind.encode()) % MAX_CUBES
        while place in places.values():
            place = (place + 1) % MAX_CUBES
        places[kind] = place
    return places
