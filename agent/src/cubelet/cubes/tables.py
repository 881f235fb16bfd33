"""A cube's own maps as tables that it reads and writes while it runs."""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, MutableMapping, ValuesView
from typing import Any

from cubelet.bpf.layout import ARRAYS, PER_CPU, join_cpus, possible_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.datapath.records import Records
from cubelet_hooks.cube import Cube
from cubelet_hooks.maps import Concerned, Map, MapType
from cubelet_hooks.records import Record

Raise = Callable[[Iterable[Concerned]], None]
"""Makes the cached verdicts stale that depend on these."""


class Table(MutableMapping[Any, Any]):
    """One map, as :meth:`cubelet_hooks.context.Context.table` describes it."""

    def __init__(self, cube: Cube, declared: Map, table: BpfMap, stale: Raise) -> None:
        if declared.type is MapType.RINGBUF:
            raise TypeError(f"{cube.instance}_{declared.name} is a ring buffer, which has no keys")
        self._name = f"{cube.instance}_{declared.name}"
        self._family = cube.family
        self._declared = declared
        self._table = table
        self._stale = stale

    def _now(self) -> Records:
        return Records(self._declared, self._table, self._family)

    def __getitem__(self, key: Record) -> Record:
        self._check(key, self._declared.key)
        return self._now()[key]

    def __iter__(self) -> Iterator[Record]:
        return iter(self._now())

    def __len__(self) -> int:
        return len(self._now())

    def items(self) -> ItemsView[Record, Record]:
        """All records, as they are now: the map is read once."""
        return self._now().items()

    def values(self) -> ValuesView[Record]:
        """All values, as they are now."""
        return self._now().values()

    def __setitem__(self, key: Record, value: Record) -> None:
        self._own()
        self._check(key, self._declared.key)
        self._check(value, self._declared.value)
        concerns = self._concerns(key, value)
        self._write(key.pack(self._family), value.pack(self._family))
        self._stale(concerns)

    def __delitem__(self, key: Record) -> None:
        self._own()
        concerns = self._concerns(key)
        self[key]  # raises KeyError
        packed = key.pack(self._family)
        if self._table.layout.type in ARRAYS:
            self._write(packed, bytes(self._table.layout.value_size))
        else:
            self._table.delete(packed)
        self._stale(concerns)

    def clear(self) -> None:
        """Remove every entry; of an array, which keeps its keys, zeros are written to all."""
        self._own()
        for key in list(self):
            self.pop(key, None)

    def _write(self, key: bytes, value: bytes) -> None:
        layout = self._table.layout
        if layout.type in PER_CPU:
            # Reading sums up the CPUs' values: the first gets the value, the others zero.
            others = (bytes(layout.value_size),) * (possible_cpus() - 1)
            value = join_cpus((value, *others), layout)
        self._table.update(key, value)

    def _own(self) -> None:
        if self._declared.planned:
            raise TypeError(
                f"{self._name} holds what the plan wants, and nothing else; "
                "remedy: plan other entries, or declare the map with planned=False"
            )

    def _check(self, record: Record, wanted: type[Record]) -> None:
        if not isinstance(record, wanted):
            raise TypeError(
                f"{self._name} has records of {wanted.__name__}, not {type(record).__name__}"
            )

    def _concerns(self, key: Record, *fresh: Record) -> set[Concerned]:
        """What the entry concerns, before and after the write."""
        if self._declared.concerns is None:
            return set()
        values = (each for each in (self.get(key), *fresh) if each is not None)
        return set().union(*(self._declared.concerned(key, each) for each in values))
