"""The records of BPF maps: as Python mappings, and as rows for people to read.

It works for any map, by the declarations of maps and of their records.
"""

from __future__ import annotations

import dataclasses
import enum
import ipaddress
import typing
from collections.abc import Callable, Iterator, Mapping
from functools import cache, cached_property
from typing import Any

from cubelet.bpf.layout import ARRAYS, PER_CPU, split_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.datapath.flows import Row
from cubelet.datapath.names import class_name, protocol_name
from cubelet_hooks import cube as hooks
from cubelet_hooks.cube import Cube, Read
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import Family, Record

_NAMED: Mapping[str, Callable[[int], str]] = {
    "protocol": protocol_name,
    "port_class": class_name,
}
"""Functions that name a field's numbers, by the field's name."""


class Records(Mapping[Record, Record]):
    """A map's records, in the order of the keys' bytes.

    An array's empty records are left out; numbers kept per CPU are summed up. Iterating dumps the
    map once; without that, each key is looked up by itself.
    """

    def __init__(self, declared: Map, table: BpfMap, family: Family) -> None:
        self._declared = declared
        self._table = table
        self._family = family

    @cached_property
    def _held(self) -> Mapping[bytes, bytes]:
        return {key: raw for key, raw in sorted(self._table.items()) if self._is_used(raw)}

    def _is_used(self, raw: bytes) -> bool:
        return any(raw) or self._table.layout.type not in ARRAYS

    def __iter__(self) -> Iterator[Record]:
        return (self._declared.key.unpack(key, self._family) for key in self._held)

    def __len__(self) -> int:
        return len(self._held)

    def __getitem__(self, key: Record) -> Record:
        packed = key.pack(self._family)
        # A lookup in a trie gives the longest prefix that covers the key, not the key itself.
        listed = "_held" in vars(self) or self._declared.type is MapType.LPM_TRIE
        raw = self._held.get(packed) if listed else self._table.lookup(packed)
        if raw is None or not self._is_used(raw):
            raise KeyError(key)
        return self._value(raw)

    def _value(self, raw: bytes) -> Record:
        record = self._declared.value
        if self._table.layout.type not in PER_CPU:
            return record.unpack(raw, self._family)
        parts = split_cpus(raw, self._table.layout)
        each = [record.unpack(part, self._family) for part in parts]
        numbers = {k for k, v in vars(each[0]).items() if isinstance(v, int)}
        return dataclasses.replace(
            each[0], **{k: sum(getattr(r, k) for r in each) for k in numbers}
        )


def reader_of(cube: Cube, table: Callable[[str], BpfMap]) -> Read:
    """Gives the records of a cube's maps by their names; ``table`` gives a map by its C name."""
    declared = {each.name: each for each in cube.maps}

    def read(name: str) -> Mapping[Record, Record]:
        return Records(declared[name], table(f"{cube.instance}_{name}"), cube.family)

    return read


def record_row(record: Record) -> Row:
    """A record's fields in readable form; a nested record's fields get its name as prefix."""
    row: Row = {}
    hints = _hints(type(record))  # type: ignore[arg-type]
    for name, value in vars(record).items():
        if isinstance(value, Record):
            row |= {f"{name}_{inner}": each for inner, each in record_row(value).items()}
        else:
            row[name] = readable(name, value, getattr(hints[name], "__metadata__", ()))
    return row


def readable(name: str, value: Any, metadata: tuple[Any, ...] = ()) -> Any:
    """The value of the field ``name`` in readable form; ``metadata`` is its annotation's."""
    if isinstance(value, enum.Enum):
        return value.name.lower()
    names = next((m for m in metadata if isinstance(m, enum.EnumType)), None)
    if names is not None and value in [member.value for member in names]:  # type: ignore[var-annotated]
        return names(value).name.lower()
    if "be32" in metadata:  # an IPv4 address of the underlay
        return ipaddress.IPv4Address(value) if value else None
    if isinstance(value, bytes):
        return value.hex()
    return _NAMED[name](value) if name in _NAMED else value


class Shown(dict[str, Any]):
    """A line of a table that is as people read it already."""


def shown_row(cube: Cube, given: hooks.Row) -> Row:
    """A line of a table as people read it, of what :meth:`Cube.rows` gives."""
    if isinstance(given, Shown):
        return given
    if not isinstance(given, tuple):
        return {name: readable(name, value) for name, value in given.items()}
    key, value = given
    tries = tuple(each.key for each in cube.maps if each.type is MapType.LPM_TRIE)
    fields = prefix_row(key, cube.family) if isinstance(key, tries) else record_row(key)
    return {**fields, **record_row(value)}


def prefix_row(key: Record, family: Family) -> Row:
    """A trie's key in readable form.

    The key holds the prefix length in bits, then other fields, an address last. The address and
    its part of the prefix length become one column, ``prefix``.
    """
    length, *others = key.layout(family).fields
    address = others[-1]
    bits = getattr(key, length.name) - 8 * (address.offset - length.scalar.size)
    network = ipaddress.ip_network((getattr(key, address.name), bits), strict=False)
    row = record_row(key)
    inner = {name: row[name] for name in (field.name for field in others[:-1])}
    return {"prefix": network, **inner}


@cache
def _hints(record: type[Record]) -> Mapping[str, Any]:
    return typing.get_type_hints(record, include_extras=True)
