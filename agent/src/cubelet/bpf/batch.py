"""Reads and writes many records of a map in few system calls.

Where the kernel or the map type has no batches, each record takes a call. A record costs about
1 µs in a batch, 8 µs alone, most of it Python's. `BpfMap` has checked all lengths before.
"""

from __future__ import annotations

import ctypes
import errno
from collections.abc import Iterator, Sequence

from cubelet.bpf.attrs import MapBatch
from cubelet.bpf.constants import Cmd, MapType
from cubelet.bpf.elements import MapRecords
from cubelet.bpf.syscalls import ENOTSUPP, BpfError, address_of, bpf

_READ_IN_BATCHES = frozenset(
    {
        MapType.HASH,
        MapType.LRU_HASH,
        MapType.PERCPU_HASH,
        MapType.LRU_PERCPU_HASH,
        MapType.ARRAY,
        MapType.PERCPU_ARRAY,
    }
)
_UNSUPPORTED = frozenset({errno.EINVAL, errno.EOPNOTSUPP, ENOTSUPP})
"""Errors of kernels older than the command (EINVAL), or of map types without it."""

_BATCH_RECORDS = 4096
_BATCH_BYTES = 1 << 20
_TOKEN_BYTES = 4
"""Hash maps continue from a bucket number, all others from a key; the buffer takes either."""

_WALKS = 16
"""How often a map may be walked from the start before it counts as changing too fast."""


def items(table: MapRecords) -> Iterator[tuple[bytes, bytes]]:
    """All records of `table`; see `BpfMap.items`."""
    if table.layout.type in _READ_IN_BATCHES:
        batches = _read_batches(table)
        try:
            first = next(batches)
        except BpfError as error:
            if error.errno not in _UNSUPPORTED:
                raise
        else:
            yield from first
            for records in batches:
                yield from records
            return
    yield from _walk(table)


def update(table: MapRecords, records: Sequence[tuple[bytes, bytes]]) -> None:
    """Write `records` in order; see `BpfMap.update_batch`."""
    size = _batch_size(table)
    for start in range(0, len(records), size):
        part = records[start : start + size]
        keys, values = b"".join(k for k, _ in part), b"".join(v for _, v in part)
        attr = MapBatch(
            keys=address_of(keys), values=address_of(values), count=len(part), map_fd=table.fd
        )
        try:
            bpf(Cmd.MAP_UPDATE_BATCH, attr, f"write {len(part)} records of", table.label)
        except BpfError as error:
            if error.errno not in _UNSUPPORTED:
                raise
            for key, value in part:
                table.update(key, value)


def delete(table: MapRecords, keys: Sequence[bytes]) -> None:
    """Remove `keys`; see `BpfMap.delete_batch`."""
    start, size = 0, _batch_size(table)
    while start < len(keys):
        part = keys[start : start + size]
        joined = b"".join(part)
        attr = MapBatch(keys=address_of(joined), count=len(part), map_fd=table.fd)
        try:
            bpf(Cmd.MAP_DELETE_BATCH, attr, f"delete {len(part)} records of", table.label)
        except BpfError as error:
            if error.errno == errno.ENOENT:
                # The kernel stops at the first absent key and says how many went before it.
                start += attr.count + 1
                continue
            if error.errno not in _UNSUPPORTED:
                raise
            for key in part:
                table.delete(key)
        start += len(part)


def _read_batches(table: MapRecords) -> Iterator[list[tuple[bytes, bytes]]]:
    key_size, value_size = table.layout.key_size, table.layout.value_stride
    token = ctypes.create_string_buffer(max(key_size, _TOKEN_BYTES))
    room = min(_batch_size(table), table.layout.max_entries)
    started = False
    while True:
        keys = ctypes.create_string_buffer(room * key_size)
        values = ctypes.create_string_buffer(room * value_size)
        attr = MapBatch(
            in_batch=ctypes.addressof(token) if started else 0,
            out_batch=ctypes.addressof(token),
            keys=ctypes.addressof(keys),
            values=ctypes.addressof(values),
            count=room,
            map_fd=table.fd,
        )
        at_end = False
        try:
            bpf(Cmd.MAP_LOOKUP_BATCH, attr, "read the records of", table.label)
        except BpfError as error:
            if error.errno == errno.ENOSPC:  # one hash bucket holds more than `room`
                room *= 2
                continue
            if error.errno != errno.ENOENT:
                raise
            at_end = True
        yield list(
            zip(
                _cut(keys.raw, key_size, attr.count),
                _cut(values.raw, value_size, attr.count),
                strict=True,
            )
        )
        if at_end:
            return
        started = True


def _walk(table: MapRecords) -> Iterator[tuple[bytes, bytes]]:
    """Read key by key. After a deleted key the kernel starts over: records seen are skipped."""
    seen: set[bytes] = set()
    key = None
    for _ in range(_WALKS * (table.layout.max_entries + 1)):
        key = table.next_key(key)
        if key is None:
            return
        if key in seen:
            continue
        seen.add(key)
        value = table.lookup(key)
        if value is not None:
            yield key, value
    raise BpfError(
        errno.EAGAIN, "list", table.label, "its records change faster than they are read"
    )


def _batch_size(table: MapRecords) -> int:
    record = table.layout.key_size + table.layout.value_stride
    return max(1, min(_BATCH_RECORDS, _BATCH_BYTES // record))


def _cut(data: bytes, size: int, count: int) -> Iterator[bytes]:
    return (data[i * size : (i + 1) * size] for i in range(count))
