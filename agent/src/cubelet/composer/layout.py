"""The maps of a composition: C names, kernel layouts, and a hash of each one's record type."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from cubelet.bpf.constants import MapFlags
from cubelet.bpf.constants import MapType as KernelType
from cubelet.bpf.layout import MapLayout
from cubelet.composer.core import JUMPS, SCRATCH, SCRATCH_BYTES, VALUE_MAPS, Core
from cubelet.composer.ends import ended_maps
from cubelet.composer.mirrors import mirror_maps
from cubelet.composer.provided import provided_maps
from cubelet_hooks.cube import Cube
from cubelet_hooks.maps import Earlier, Map, MapType
from cubelet_hooks.records import Family, Record

JUMP_SLOTS = 256
_KERNEL_TYPES = {
    MapType.HASH: KernelType.HASH,
    MapType.ARRAY: KernelType.ARRAY,
    MapType.LPM_TRIE: KernelType.LPM_TRIE,
    MapType.LRU_HASH: KernelType.LRU_HASH,
    MapType.PERCPU_HASH: KernelType.PERCPU_HASH,
    MapType.PERCPU_ARRAY: KernelType.PERCPU_ARRAY,
    MapType.RINGBUF: KernelType.RINGBUF,
}
_ON_DEMAND = frozenset({MapType.HASH, MapType.LPM_TRIE})
"""Types whose entries are allocated one by one, so that a large size costs no memory."""


@dataclass(frozen=True)
class MapSpec:
    """One map of a composition.

    ``owner`` is the instance (``cubelet`` for the core's own), ``declared`` its declaration, None
    for maps that no cube declares. ``identity`` hashes all properties but the number of records.
    """

    owner: str
    name: str
    layout: MapLayout
    identity: str
    declared: Map | None = None
    direct: bool = False
    per_composition: bool = False
    earlier: tuple[tuple[str, Earlier], ...] = ()
    """Layouts of before, each behind the identity that a map of it has."""

    @property
    def c_name(self) -> str:
        """The identifier in C, also the pin's name."""
        return f"{self.owner}_{self.name}"


def map_specs(core: Core, cubes: Sequence[Cube]) -> list[MapSpec]:
    """Every map that these cubes and the core use."""
    specs = list(_plain_maps())
    for cube in (core, *cubes):
        specs += [
            _declared(cube.instance, declared, cube.size_of(declared), cube.family)
            for declared in (*cube.maps, *provided_maps(cube))
        ]
    specs += [
        _declared(core.instance, each, core.size_of(each), core.family)
        for each in (*ended_maps(cubes), *mirror_maps(cubes))
    ]
    return specs


def _plain_maps() -> Iterator[MapSpec]:
    for value in VALUE_MAPS:
        layout = MapLayout(KernelType.ARRAY, 4, value.size, 1, MapFlags.MMAPABLE)
        yield MapSpec("cubelet", value.name, layout, _hash(str(layout)), direct=True)
    scratch = MapLayout(KernelType.PERCPU_ARRAY, 4, SCRATCH_BYTES, 1)
    yield MapSpec("cubelet", SCRATCH, scratch, _hash(str(scratch)), per_composition=True)
    jumps = MapLayout(KernelType.PROG_ARRAY, 4, 4, JUMP_SLOTS)
    yield MapSpec("cubelet", JUMPS, jumps, _hash(str(jumps)), per_composition=True)


def _declared(owner: str, declared: Map, size: int, family: Family) -> MapSpec:
    flags = _flags(declared.type)
    key, value = declared.key.layout(family), declared.value.layout(family)
    ring = declared.type is MapType.RINGBUF
    layout = MapLayout(
        _KERNEL_TYPES[declared.type],
        0 if ring else key.size,
        0 if ring else value.size,
        size,
        flags,
    )
    earlier = tuple(
        (_identity(each.type or declared.type, each.key, each.value, family), each)
        for each in declared.earlier
    )
    identity = _identity(declared.type, declared.key, declared.value, family)
    return MapSpec(owner, declared.name, layout, identity, declared, earlier=earlier)


def _flags(kind: MapType) -> MapFlags:
    return MapFlags.NO_PREALLOC if kind in _ON_DEMAND else MapFlags.NONE


def _identity(kind: MapType, key: type[Record], value: type[Record], family: Family) -> str:
    fields = (*key.layout(family).c_members(), "", *value.layout(family).c_members())
    return _hash("\n".join([kind.value, str(_flags(kind)), *fields]))


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
