"""The numbers of drop reasons: the core's list, then a range for each kind of cube."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from cubelet.composer.core import MAX_CUBES
from cubelet_hooks.cube import Cube
from cubelet_hooks.reasons import CORE_REASONS, FIRST_CUBE_REASON, REASONS_PER_CUBE


@dataclass(frozen=True)
class NumberedReason:
    """A drop reason as metrics and `cubelet monitor` show it."""

    number: int
    cube: str
    name: str
    text: str


def number_reasons(cubes: Iterable[type[Cube]]) -> Mapping[int, NumberedReason]:
    """Number every reason. A kind's range comes from its name, so it seldom depends on others."""
    reasons = [NumberedReason(i, "core", r.name, r.text) for i, r in enumerate(CORE_REASONS)]
    for cube, base in reason_ranges(cubes).items():
        reasons += [
            NumberedReason(base + i, cube.kind, r.name, r.text) for i, r in enumerate(cube.reasons)
        ]
    return {reason.number: reason for reason in reasons}


def reason_ranges(cubes: Iterable[type[Cube]]) -> Mapping[type[Cube], int]:
    """The first number of each kind's range; kinds whose names collide take the next free one."""
    taken: set[int] = set()
    ranges = {}
    for cube in sorted(set(cubes), key=lambda c: c.kind):
        slot = zlib.crc32(cube.kind.encode()) % MAX_CUBES
        while slot in taken:
            slot = (slot + 1) % MAX_CUBES
        taken.add(slot)
        ranges[cube] = FIRST_CUBE_REASON + slot * REASONS_PER_CUBE
    return ranges
