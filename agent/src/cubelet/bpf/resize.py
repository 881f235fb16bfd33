"""Resizes a pinned map: its records are copied into a new map under the same pin."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

from cubelet.bpf.constants import MapType
from cubelet.bpf.layout import ARRAYS, MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.syscalls import BpfError

_COPYABLE = ARRAYS | {
    MapType.HASH,
    MapType.PERCPU_HASH,
    MapType.LRU_HASH,
    MapType.LRU_PERCPU_HASH,
    MapType.LPM_TRIE,
}
"""Types whose values mean the same in another map (others read as ids but write as descriptors)."""


def resize(path: Path | str, wanted: MapLayout) -> BpfMap:
    """Replace the map pinned at `path` by one of `wanted` size with the same records; return it.

    `wanted` may differ from the pinned map in `max_entries` only (`ValueError`). A map that cannot
    hold all records (of an array: all that are not zero) is refused with E2BIG and nothing is
    changed. Programs keep the old map until they are loaded again: their writes after the copy are
    lost.
    """
    with BpfMap.open(path) as old:
        if old.layout.type not in _COPYABLE:
            raise ValueError(f"{old.label}: a {old.layout.type.name} map cannot be copied")
        if set(old.layout.differences(wanted)) - {"max_entries"}:
            raise ValueError(f"{old.label}: {old.layout} and {wanted} differ in more than size")
        records = list(_records(old))
        if not _fit(records, wanted):
            remedy = f"it holds records that do not fit into {wanted.max_entries}"
            raise BpfError(errno.E2BIG, "resize", old.label, remedy)
        new = BpfMap.create(old.name, wanted)
    try:
        new.update_batch(records)
        new.pin(path, replace=True)
    except BaseException:
        new.close()
        raise
    return new


def _records(table: BpfMap) -> Iterator[tuple[bytes, bytes]]:
    if table.layout.type not in ARRAYS:
        return table.items()
    return ((key, value) for key, value in table.items() if any(value))


def _fit(records: list[tuple[bytes, bytes]], wanted: MapLayout) -> bool:
    if wanted.type in ARRAYS:
        return all(int.from_bytes(key, "little") < wanted.max_entries for key, _ in records)
    return len(records) <= wanted.max_entries
