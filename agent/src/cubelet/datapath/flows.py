"""What the agent does with flow records: removes idle ones, counts them per pod, lists them.

A node may hold hundreds of thousands, so the sweep looks at raw bytes, at the places that the
record's own layout gives.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.maps import BpfMap
from cubelet.datapath.names import class_name, protocol_name, state_name
from cubelet_hooks.flows import Count, Flow, FlowFlag, Hop, PortClass, PortKey, Tuple
from cubelet_hooks.records import Family, Record

Row = dict[str, Any]
"""One line of a table: column names and plain values."""

TABLES = ("cubelet_flows", "cubelet_pending")
_COUNTED = "cubelet_flows"
"""The table in which pods have quotas."""

_MASK = 0xFFFFFFFF
_AHEAD = 60
"""Seconds by which a stamp may be ahead of the sweep, which began before the packet came."""
_CHUNK = 128
"""Records between whose second look and removal no more than about a millisecond passes."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left and took: records, two a connection."""

    total: int
    removed: int
    states: Mapping[str, int]
    protocols: Mapping[str, int]
    tables: Mapping[str, int]


@dataclass
class _Tally:
    """What a sweep has seen so far: by state and protocol, and connections by port."""

    records: Counter[tuple[int, int]] = field(default_factory=Counter)
    tables: dict[str, int] = field(default_factory=dict)
    ports: Counter[int] = field(default_factory=Counter)

    def result(self, removed: int) -> SweepResult:
        states: Counter[str] = Counter()
        protocols: Counter[str] = Counter()
        for (state, protocol), count in self.records.items():
            states[state_name(state)] += count
            protocols[protocol_name(protocol)] += count
        total = self.records.total()
        return SweepResult(total, removed, dict(states), dict(protocols), self.tables)


class FlowSweeper:
    """Reads and tidies the flow tables ``cubelet_flows``, ``cubelet_pending`` and their counts.

    ``maps`` must stay open for as long as a call runs.
    """

    def __init__(self, maps: Mapping[str, BpfMap], clock: Clock, family: Family = 4) -> None:
        self._maps = maps
        self._clock = clock
        self._family = family
        self._head = _head(family)
        self._protocol_at = _offset(Tuple, "protocol", family)
        self.last: SweepResult | None = None

    def sweep(self) -> SweepResult:
        """Remove idle records and put the counts of pods right. About 2 µs a record.

        Flows that open while this runs may be missing from the counts until the next time.
        """
        tally, removed = _Tally(), 0
        for name in TABLES:
            before = tally.records.total()
            idle = list(self._idle(name, self._maps[name].items(), tally))
            for start in range(0, len(idle), _CHUNK):
                removed += self._remove(name, idle[start : start + _CHUNK], tally)
            tally.tables[name] = tally.records.total() - before
        self._write_counts(tally.ports)
        self.last = tally.result(removed)
        return self.last

    def _idle(
        self, name: str, records: Iterable[tuple[bytes, bytes]], tally: _Tally
    ) -> Iterator[bytes]:
        """The keys of records past their timeout; all others go into the tally."""
        unpack, at, hz = self._head.unpack_from, self._protocol_at, self._clock.hz
        seen, ports, now = tally.records, tally.ports, self._clock.now()
        counted = name == _COUNTED
        for key, value in records:
            enters, entered, leaves, left, stamp, timeout, state, flags = unpack(value)
            if _age(now, stamp, hz) > timeout * hz:
                yield key
                continue
            seen[state, key[at]] += 1
            if counted and not flags & FlowFlag.REPLY:
                if entered == PortClass.POD:
                    ports[enters] += 1
                if left == PortClass.POD and (entered, enters) != (left, leaves):
                    ports[leaves] += 1

    def _remove(self, name: str, keys: Sequence[bytes], tally: _Tally) -> int:
        """Remove those that are still idle: a packet may have come since they were read."""
        table = self._maps[name]
        now = ((key, table.lookup(key)) for key in keys)
        idle = list(self._idle(name, ((k, v) for k, v in now if v is not None), tally))
        table.delete_batch(idle)
        return len(idle)

    def _write_counts(self, ports: Mapping[int, int]) -> None:
        table = self._maps["cubelet_flow_counts"]
        counts = {
            PortKey(ifindex=ifindex).pack(): Count(count=count).pack()
            for ifindex, count in ports.items()
        }
        held = dict(table.items())
        table.delete_batch(held.keys() - counts.keys())
        table.update_batch((k, v) for k, v in counts.items() if held.get(k) != v)

    def list(
        self, limit: int | None = None, filter: Callable[[Row], bool] = lambda _row: True
    ) -> Sequence[Row]:
        """The records that pass the filter, at most ``limit``, a flow's two one after another."""
        now = self._clock.now()
        rows = ((key, flow, self._row(key, flow, now)) for key, flow in self._records())
        found = islice((each for each in rows if filter(each[2])), limit)
        return [
            row for _, _, row in sorted(found, key=lambda f: _connection(f[0], f[1], self._family))
        ]

    def _records(self) -> Iterator[tuple[Tuple, Flow]]:
        for name in TABLES:
            for key, value in self._maps[name].items():
                yield Tuple.unpack(key, self._family), Flow.unpack(value, self._family)

    def _row(self, key: Tuple, flow: Flow, now: int) -> Row:
        idle = _age(now, flow.last_seen, self._clock.hz) / self._clock.hz
        return {
            "protocol": protocol_name(key.protocol),
            **_ends(key),
            "state": state_name(flow.state),
            "direction": "reply" if flow.flags & FlowFlag.REPLY else "forward",
            **{f"to_{name}": value for name, value in _ends(flow.to).items()},
            **_hop("enters", flow.enters),
            **_hop("leaves", flow.leaves),
            "packets": flow.packets,
            "bytes": flow.bytes,
            "idle": round(max(0.0, idle), 1),
            "timeout": flow.timeout,
        }


def _ends(ends: Tuple) -> Row:
    return {"src": ends.src, "sport": ends.sport, "dst": ends.dst, "dport": ends.dport}


def _hop(name: str, hop: Hop) -> Row:
    return {name: class_name(hop.port_class), f"{name}_ifindex": hop.ifindex}


def _connection(key: Tuple, flow: Flow, family: Family) -> tuple[bytes, bool]:
    """What brings a flow's two records together: the forward tuple, then the direction."""
    if not flow.flags & FlowFlag.REPLY:
        return key.pack(family), False
    to = flow.to
    forward = Tuple(src=to.dst, dst=to.src, sport=to.dport, dport=to.sport, protocol=to.protocol)
    return forward.pack(family), True


def _age(now: int, stamp: int, hz: int) -> int:
    """Ticks since a stamp. Right for 49 days at 1000 Hz, less what a stamp may be ahead by."""
    ahead = _AHEAD * hz
    return ((now + ahead - stamp) & _MASK) - ahead


def _offset(record: type[Record], name: str, family: Family) -> int:
    return next(f.offset for f in record.layout(family).fields if f.name == name)


def _head(family: Family) -> struct.Struct:
    """Reads of a raw flow record: by what it enters and leaves (ifindex and class of each), then
    last_seen, timeout, state and flags."""
    ifindex, port_class = (_offset(Hop, name, family) for name in ("ifindex", "port_class"))
    hops = [_offset(Flow, name, family) for name in ("enters", "leaves")]
    places = [(hop + at, code) for hop in hops for at, code in ((ifindex, "I"), (port_class, "B"))]
    for name, code in (("last_seen", "I"), ("timeout", "H"), ("state", "B"), ("flags", "B")):
        places.append((_offset(Flow, name, family), code))
    text, end = "=", 0
    for offset, code in places:
        text += f"{offset - end}x{code}"
        end = offset + struct.calcsize(f"={code}")
    return struct.Struct(text)
