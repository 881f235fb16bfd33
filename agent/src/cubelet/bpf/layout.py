"""A map's layout: the properties in which a pinned map must equal one that would be created."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path

from cubelet.bpf.constants import MapFlags, MapType

PER_CPU = frozenset({MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH})
"""Map types with one value per possible CPU."""

ARRAYS = frozenset({MapType.ARRAY, MapType.PERCPU_ARRAY})
"""Map types whose records always exist, keyed by a 32-bit index."""

_POSSIBLE = Path("/sys/devices/system/cpu/possible")
_NOT_KEPT = MapFlags.RDONLY | MapFlags.WRONLY


@dataclass(frozen=True, slots=True)
class MapLayout:
    """Type, sizes in bytes (`value_size` is one CPU's), number of records, creation flags."""

    type: MapType
    key_size: int
    value_size: int
    max_entries: int
    flags: MapFlags = MapFlags.NONE

    def differences(self, wanted: MapLayout) -> tuple[str, ...]:
        """Names of the fields in which this map's layout is not the wanted one."""
        have, want = self._as_kept(), wanted._as_kept()
        names = (field.name for field in fields(self))
        return tuple(name for name in names if getattr(have, name) != getattr(want, name))

    @property
    def value_stride(self) -> int:
        """Bytes of a whole value in a system call: per-CPU values are 8-byte padded and joined."""
        if self.type not in PER_CPU:
            return self.value_size
        return _padded(self.value_size) * possible_cpus()

    def _as_kept(self) -> MapLayout:
        # The kernel changes these at creation: access flags stay with the descriptor, and an LRU
        # with lists per CPU gets the same number of records on each.
        entries = self.max_entries
        if self.flags & MapFlags.NO_COMMON_LRU:
            entries = -(-entries // possible_cpus()) * possible_cpus()
        return MapLayout(
            self.type, self.key_size, self.value_size, entries, self.flags & ~_NOT_KEPT
        )


@dataclass(frozen=True, slots=True)
class MapInfo:
    """What the kernel says of a map; `name` is cut to 15 bytes."""

    id: int
    name: str
    layout: MapLayout


def same_layout(info: MapInfo, wanted: MapLayout) -> bool:
    """Whether a pinned map can be used where `wanted` would be created."""
    return not info.layout.differences(wanted)


def split_cpus(value: bytes, layout: MapLayout) -> tuple[bytes, ...]:
    """A per-CPU map's value taken apart: one `value_size` long value per possible CPU."""
    step = _padded(layout.value_size)
    return tuple(value[i : i + layout.value_size] for i in range(0, len(value), step))


def join_cpus(values: tuple[bytes, ...], layout: MapLayout) -> bytes:
    """The inverse of `split_cpus`: one value per possible CPU, as an update takes them."""
    return b"".join(value.ljust(_padded(layout.value_size), b"\0") for value in values)


@cache
def possible_cpus() -> int:
    """Number of CPUs that may ever come online: how many values a per-CPU record has."""
    ranges = (part.partition("-") for part in _POSSIBLE.read_text().strip().split(","))
    return sum(int(last or first) - int(first) + 1 for first, _, last in ranges)


def _padded(size: int) -> int:
    return -(-size // 8) * 8
