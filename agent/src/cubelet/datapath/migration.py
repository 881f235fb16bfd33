"""Carries entries over from a map of an earlier layout, as its cube says."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import structlog

from cubelet.bpf.layout import ARRAYS, PER_CPU, join_cpus, split_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.syscalls import BpfError
from cubelet.composer.layout import MapSpec
from cubelet_hooks.maps import Earlier
from cubelet_hooks.records import Family

log = structlog.get_logger()
_CHUNK = 1_024
"""Entries that are written at once."""


def carry_over(spec: MapSpec, created: BpfMap, folder: Path, family: Family = 4) -> None:
    """Fill a map that has just been made from the pin of the latest earlier layout, if any.

    Entries at which the cube's function fails, or for which there is no room, are left out and
    counted in the log: a map without them is better than a cube that cannot be upgraded.
    """
    for identity, earlier in spec.earlier:
        path = folder / f"{spec.c_name}-{identity}"
        if path.exists():
            with BpfMap.open(path) as old:
                _copy(spec, earlier, old, created, family)
            return


def _copy(spec: MapSpec, earlier: Earlier, old: BpfMap, created: BpfMap, family: Family) -> None:
    carried, lost, why = 0, 0, ""
    chunk: list[tuple[bytes, bytes]] = []
    for key, value in old.items():
        if old.layout.type in ARRAYS and not any(value):
            continue
        try:
            chunk += _migrated(spec, earlier, old, created, key, value, family)
        except Exception as error:  # a cube's bug is not the agent's
            lost, why = lost + 1, repr(error)
        if len(chunk) >= _CHUNK:
            written = _written(created, chunk)
            carried, lost, chunk = carried + written, lost + len(chunk) - written, []
    written = _written(created, chunk)
    carried, lost = carried + written, lost + len(chunk) - written
    log.info("entries carried over", map=spec.c_name, carried=carried, lost=lost, why=why)


def _written(created: BpfMap, chunk: list[tuple[bytes, bytes]]) -> int:
    try:
        created.update_batch(chunk)
    except BpfError:
        return sum(_fits(created, key, value) for key, value in chunk)
    return len(chunk)


def _fits(created: BpfMap, key: bytes, value: bytes) -> bool:
    try:
        created.update(key, value)
    except BpfError:
        return False
    return True


def _migrated(
    spec: MapSpec,
    earlier: Earlier,
    old: BpfMap,
    created: BpfMap,
    key: bytes,
    value: bytes,
    family: Family,
) -> Iterator[tuple[bytes, bytes]]:
    """The entry of today, or none; of a map with values by CPU each CPU's is migrated."""
    record = earlier.key.unpack(key, family)
    values = split_cpus(value, old.layout) if old.layout.type in PER_CPU else (value,)
    found = [earlier.migrate(record, earlier.value.unpack(each, family)) for each in values]
    kept = [each for each in found if each is not None]
    if not kept or spec.declared is None:
        return
    packed = [_packed(spec.declared, each, family) for each in kept]
    if created.layout.type not in PER_CPU:
        yield packed[0]
        return
    parts = [each for _, each in packed]
    parts += [bytes(created.layout.value_size)] * (len(values) - len(parts))
    yield packed[0][0], join_cpus(tuple(parts), created.layout)


def _packed(declared: Any, entry: tuple[Any, Any], family: Family) -> tuple[bytes, bytes]:
    key, value = entry
    if type(key) is not declared.key or type(value) is not declared.value:
        raise TypeError(f"{declared.name} holds {declared.key.__name__}, not {entry!r}")
    return key.pack(family), value.pack(family)
