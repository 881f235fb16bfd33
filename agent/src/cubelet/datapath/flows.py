"""What the agent does with flow records: removes idle ones, counts them, lists them.

Connections that close remove themselves in the programs; what a sweep finds was left silently.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog

from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram
from cubelet.bpf.syscalls import BpfError
from cubelet.composer.ends import LOST, RING
from cubelet.datapath import sweeping
from cubelet.datapath.names import class_name, protocol_name, state_name
from cubelet.datapath.shared import SharedWords
from cubelet.datapath.slow_sweep import sweep_slowly
from cubelet_hooks.flows import SHARE_TOTAL, Flow, FlowFlag, Hop, Tuple, pod_share
from cubelet_hooks.records import Family

log = structlog.get_logger()
Row = dict[str, Any]
"""One line of a table: column names and plain values."""

OWNED = "cubelet_flows"
"""The table in which owners have shares: of replied flows."""
TABLES = (OWNED, "cubelet_pending")

_PRESSED = 0.8
"""The part of the shares from which on idle UDP gives way early, and people are told."""
_UDP_SECONDS = 30
"""How long UDP flows may be idle then."""
_MASK = 0xFFFFFFFF
_AHEAD = 60
"""Seconds by which a stamp may be ahead of the sweep, which began before the packet came."""
_BLOCK = 1024
"""Words that are compared at once."""


@dataclass(frozen=True)
class SweepResult:
    """What a sweep left and took: records, two a connection.

    ``used`` is the part of the flow table's shares that replied connections hold.
    """

    total: int
    removed: int
    states: Mapping[str, int]
    protocols: Mapping[str, int]
    tables: Mapping[str, int]
    used: float = 0.0

    @property
    def warning(self) -> str:
        """What people are told before the table is full; '' below four fifths."""
        if self.used < _PRESSED:
            return ""
        return (
            f"{self.used:.0%} of the flow table are in use: owners of many flows get no more, idle "
            f"UDP ends after {_UDP_SECONDS} s; remedy: raise core.flows"
        )


class FlowSweeper:
    """Reads and tidies the flow tables ``cubelet_flows`` and ``cubelet_pending``.

    ``maps`` must stay open for as long as a call runs; ``live`` is how many replied connections
    have room (``CoreSettings.live_flows``), ``ends`` how many flows' ends a second may be told
    of. Close it.
    """

    def __init__(
        self,
        maps: Mapping[str, BpfMap],
        clock: Clock,
        live: int,
        family: Family = 4,
        ends: int = 0,
    ) -> None:
        self._maps = maps
        self._clock = clock
        self._live = live
        self._family = family
        self._ends = ends
        self._swept = time.monotonic()
        self._held = SharedWords(maps["cubelet_shares"])
        self._ports = SharedWords(maps["cubelet_port_shares"])
        self._recovery = SharedWords(maps["cubelet_recovery"])
        layout = MapLayout(MapType.ARRAY, 4, 4 * sweeping.WORDS, 1, MapFlags.MMAPABLE)
        self._table = BpfMap.create("sweep", layout)
        self._counts = SharedWords(self._table)
        self._programs = self._load()
        self.last: SweepResult | None = None

    def _load(self) -> Mapping[str, BpfProgram]:
        made: dict[str, BpfProgram] = {}
        ends = None
        if self._ends:
            ends = sweeping.Ends(self._maps[f"cubelet_{RING}"], self._maps[f"cubelet_{LOST}"])
        try:
            for name in TABLES:
                made[name] = sweeping.load_sweep(
                    self._maps[name],
                    self._table,
                    self._clock.hz,
                    name == OWNED,
                    self._family,
                    ends,
                )
        except BpfError as error:
            log.info("flows are swept one by one", why=str(error).partition("\n")[0])
            return {}
        return made

    def close(self) -> None:
        """Let go of programs and memory."""
        for program in self._programs.values():
            program.close()
        for shared in (self._held, self._ports, self._recovery, self._counts):
            shared.close()
        self._table.close()

    def recover(self, seconds: float) -> None:
        """For so long TCP that is under way may open flows: records were lost."""
        until = self._clock.now() + self._clock.ticks(seconds) & _MASK
        self._recovery.words[0] = until or 1

    def held(self, ifindex: int) -> int:
        """How many replied connections count in the share of the pod with this port."""
        count: int = self._held.words[pod_share(ifindex)]
        return count if count <= _MASK >> 1 else 0

    def sweep(self) -> SweepResult:
        """Remove idle records, and put right the counts of what owners hold.

        Flows that open or end while this runs may count wrongly until the next time.
        """
        words = self._counts.words
        words[:] = memoryview(bytes(words.nbytes)).cast("I")
        pressed = self.last is not None and self.last.used >= _PRESSED
        words[sweeping.ENDS_LEFT] = self._ends_left()
        words[sweeping.IDLE_UDP] = _UDP_SECONDS * self._clock.hz if pressed else _MASK
        held, ports = bytes(self._held.words), bytes(self._ports.words)
        tables = {name: self._sweep(name) for name in TABLES}
        first, last = sweeping.SHARES_AT, sweeping.PORTS_AT
        _put_right(self._held.words, held, words[first:last])
        _put_right(self._ports.words, ports, words[last:])
        until = self._recovery.words[0]
        if until and self._clock.now() - until & _MASK <= _MASK >> 1:
            self._recovery.words[0] = 0  # it would come again when the ticks have wrapped
        self.last = self._result(tables)
        return self.last

    def _ends_left(self) -> int:
        """How many records of ended flows may be told of now, two of a flow."""
        before, self._swept = self._swept, time.monotonic()
        return min(round(2 * self._ends * (self._swept - before)), _MASK)

    def _sweep(self, name: str) -> int:
        """Records that are left in a table."""
        before = self._total()
        if self._programs:
            self._programs[name].test_run(bytes(64))
        else:
            sweep_slowly(
                self._maps[name], self._counts.words, self._clock, name == OWNED, self._family
            )
        return self._total() - before

    def _total(self) -> int:
        return sum(self._counts.words[: sweeping.REMOVED])

    def _result(self, tables: Mapping[str, int]) -> SweepResult:
        words, states, protocols = self._counts.words, Counter[str](), Counter[str]()
        for at, count in enumerate(words[: sweeping.REMOVED]):
            if count:
                state, protocol = divmod(at, sweeping.PROTOCOLS)
                states[state_name(state)] += count
                protocols[protocol_name(protocol)] += count
        replied = words[sweeping.SHARES_AT + SHARE_TOTAL]
        return SweepResult(
            sum(tables.values()),
            words[sweeping.REMOVED],
            dict(states),
            dict(protocols),
            tables,
            replied / self._live,
        )

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
    """A sort key that puts a flow's two records together: the forward tuple, then the direction."""
    if not flow.flags & FlowFlag.REPLY:
        return key.pack(family), False
    to = flow.to
    forward = Tuple(src=to.dst, dst=to.src, sport=to.dport, dport=to.sport, protocol=to.protocol)
    return forward.pack(family), True


def _age(now: int, stamp: int, hz: int) -> int:
    """Ticks since a stamp, negative if it is up to 60 s ahead; right for 49 days at 1000 Hz."""
    ahead = _AHEAD * hz
    return ((now + ahead - stamp) & _MASK) - ahead


def _put_right(live: memoryview, before: bytes, counted: memoryview) -> None:
    """Have the live counts be what was counted, and keep what programs have added meanwhile."""
    old = memoryview(before).cast("I")
    for start in range(0, len(live), _BLOCK):
        block = slice(start, start + _BLOCK)
        if old[block] == counted[block]:
            continue
        for at in range(start, min(start + _BLOCK, len(live))):
            if old[at] != counted[at]:
                live[at] = live[at] + counted[at] - old[at] & _MASK
