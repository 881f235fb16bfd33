"""Dropped packets: their events as they come, and their numbers by drop reason."""

from __future__ import annotations

import asyncio
import os
import struct
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from itertools import islice
from typing import Any

from cubelet.bpf.layout import split_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.ringbuf import RingBuffer
from cubelet.composer.core import PORT_CLASS_COUNT, DropEvent
from cubelet.composer.reasons import NumberedReason
from cubelet.datapath.names import class_name, ethertype_name, protocol_name, tcp_flags
from cubelet.ipc.client import INTERNAL_ERROR, AgentError
from cubelet_hooks.flows import Counter, Tuple
from cubelet_hooks.records import Family

Row = dict[str, Any]
Reasons = Mapping[int, NumberedReason]
Maps = Mapping[str, BpfMap]

_BURST = 256
"""Events read before the agent's other work gets its turn."""
_SWITCH_KEY = bytes(4)
_ON, _OFF = struct.pack("=II", 1, 0), bytes(8)
_IP = frozenset({0x0800, 0x86DD})
_WITH_PORTS = frozenset({"TCP", "UDP", "SCTP"})


class Monitor:
    """Hands the datapath's drop events to any number of clients.

    Programs write events only while there is a client. ``maps`` gives the maps in force by C name;
    ``stages`` are the names of the numbers in ``DropEvent.stage``, 0 being the core.
    """

    def __init__(
        self,
        maps: Callable[[], Maps],
        reasons: Reasons,
        stages: Sequence[str],
        family: Family = 4,
        backlog: int = 4096,
    ) -> None:
        self.reasons = reasons
        self._maps = maps
        self.stages = stages
        self._family = family
        self._backlog = backlog
        self._clients: set[_Client] = set()
        self._tap: _Tap | None = None

    async def events(self) -> AsyncIterator[Row]:
        """Yield events from now on: a drop as ``describe`` gives it, or ``{"lost": count}``.

        A client that reads too slowly loses events; their count is yielded in their place.
        Raises AgentError while nothing is composed.
        """
        client = _Client(self._backlog)
        if self._tap is None:
            self._tap = _Tap(self._maps(), self._read)
        self._clients.add(client)
        try:
            while True:
                yield await client.next()
        finally:
            self._clients.discard(client)
            if not self._clients and self._tap is not None:
                self._tap.close()
                self._tap = None

    def silence(self) -> None:
        """Switch events off if there is no client: an agent that was killed left them on."""
        if self._tap is None:
            _switch(self._maps()).update(_SWITCH_KEY, _OFF)

    def _read(self, ring: RingBuffer) -> None:
        for raw in islice(ring.records(), _BURST):
            ready = [client for client in self._clients if client.takes()]
            if ready:
                event = DropEvent.unpack(raw, self._family)
                row = describe(event, datetime.now(UTC), self.reasons, self.stages)
                for client in ready:
                    client.put(row)


class _Client:
    """A client's backlog; ``lost`` counts the events since the last one that fitted."""

    def __init__(self, backlog: int) -> None:
        self._queue: asyncio.Queue[Row] = asyncio.Queue()
        self._backlog = backlog
        self._lost = 0

    def takes(self) -> bool:
        """Whether there is room for one more; counts it as lost if not."""
        if self._queue.qsize() < self._backlog:
            return True
        self._lost += 1
        return False

    def put(self, row: Row) -> None:
        if self._lost:
            self._queue.put_nowait({"lost": self._lost})
            self._lost = 0
        self._queue.put_nowait(row)

    async def next(self) -> Row:
        if self._lost and self._queue.empty():
            lost, self._lost = self._lost, 0
            return {"lost": lost}
        return await self._queue.get()


class _Tap:
    """Switches the datapath's events on, and reads them as they come.

    It duplicates the maps' descriptors, since those of a composition close when another takes over.
    """

    def __init__(self, maps: Maps, read: Callable[[RingBuffer], None]) -> None:
        with ExitStack() as opened:
            self._switch = opened.enter_context(_own(_switch(maps)))
            events = opened.enter_context(_own(maps["cubelet_events"]))
            self._switch.update(_SWITCH_KEY, _OFF)
            self._ring = opened.enter_context(RingBuffer(events))
            for _ in self._ring.records():
                pass  # left over from earlier clients
            asyncio.get_running_loop().add_reader(events.fd, read, self._ring)
            self._events = events
            self._switch.update(_SWITCH_KEY, _ON)
            self._opened = opened.pop_all()

    def close(self) -> None:
        with self._opened:
            asyncio.get_running_loop().remove_reader(self._events.fd)
            self._switch.update(_SWITCH_KEY, _OFF)


def _switch(maps: Maps) -> BpfMap:
    if "cubelet_monitor" not in maps:
        raise AgentError(INTERNAL_ERROR, "nothing is composed yet", "see: cubelet status")
    return maps["cubelet_monitor"]


def _own(table: BpfMap) -> BpfMap:
    return BpfMap(os.dup(table.fd), table.name)


def describe(event: DropEvent, when: datetime, reasons: Reasons, stages: Sequence[str]) -> Row:
    """An event as a row. ``cube`` is the owner of the drop reason: ``core``, or an instance."""
    reason = _reason(event.reason, reasons)
    spoke = stages[event.stage] if event.stage < len(stages) else reason.cube
    return {
        "time": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "class": class_name(event.entered),
        "ifindex": event.ifindex,
        "cube": reason.cube if reason.cube == "core" else spoke,
        "stage": spoke,
        "reason": reason.name,
        "text": reason.text,
        "packet": summary(event),
        "length": event.length,
    }


def summary(event: DropEvent) -> str:
    """The packet in a few words, such as ``10.1.0.2:1000 > 10.96.0.1:80 TCP [S]``."""
    if event.ethertype not in _IP or not event.tuple.protocol:
        return f"{ethertype_name(event.ethertype)} frame of {event.length} bytes"
    protocol = protocol_name(event.tuple.protocol)
    flags = f" [{tcp_flags(event.tcp_flags)}]" if protocol == "TCP" else ""
    return f"{_ends(event.tuple, protocol in _WITH_PORTS)} {protocol}{flags}"


def _ends(ends: Tuple, with_ports: bool) -> str:
    if not with_ports:
        return f"{ends.src} > {ends.dst}"
    brackets = ends.src.version == 6
    src, dst = (f"[{a}]" if brackets else str(a) for a in (ends.src, ends.dst))
    return f"{src}:{ends.sport} > {dst}:{ends.dport}"


def drop_rows(maps: Maps, reasons: Reasons) -> list[Row]:
    """How many packets were dropped, and their bytes, for each reason and port class."""
    table = maps["cubelet_drops"]
    nothing = bytes(table.layout.value_stride)
    rows = []
    for key, value in table.items():
        if value != nothing:
            number, port_class = divmod(int.from_bytes(key, "little"), PORT_CLASS_COUNT)
            counters = [Counter.unpack(each) for each in split_cpus(value, table.layout)]
            reason = _reason(number, reasons)
            rows.append(
                {
                    "cube": reason.cube,
                    "reason": reason.name,
                    "class": class_name(port_class),
                    "packets": sum(counter.packets for counter in counters),
                    "bytes": sum(counter.bytes for counter in counters),
                    "text": reason.text,
                }
            )
    return rows


def _reason(number: int, reasons: Reasons) -> NumberedReason:
    unknown = NumberedReason(number, "unknown", f"reason-{number}", "of a cube that is not known")
    return reasons.get(number, unknown)
