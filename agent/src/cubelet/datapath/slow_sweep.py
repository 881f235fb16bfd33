"""The sweep where the kernel calls no program back (before Linux 5.13): record by record.

Fills the same words as the program of ``sweeping.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.maps import BpfMap
from cubelet.datapath.sweeping import IDLE_UDP, PORTS_AT, PROTOCOLS, REMOVED, SHARES_AT
from cubelet_hooks.flows import (
    SHARE_TOTAL,
    Flow,
    FlowFlag,
    FlowState,
    Tuple,
    port_slots,
    share_slot,
)
from cubelet_hooks.records import Family

_UDP = 17
_MASK = 0xFFFFFFFF
_CHUNK = 128
"""Records between whose second look and removal no more than about a millisecond passes."""


def sweep_slowly(
    table: BpfMap, words: memoryview, clock: Clock, owned: bool, family: Family
) -> None:
    """Remove what is idle from a table, and count what is left."""
    idle = _idle(table.items(), words, clock, owned, family)
    while chunk := list(islice(idle, _CHUNK)):
        words[REMOVED] += _remove(table, chunk, words, clock, owned, family)


def _remove(
    table: BpfMap,
    keys: Sequence[bytes],
    words: memoryview,
    clock: Clock,
    owned: bool,
    family: Family,
) -> int:
    """Remove those that are still idle: a packet may have come since they were read."""
    now = ((key, table.lookup(key)) for key in keys)
    read = ((key, value) for key, value in now if value is not None)
    idle = list(_idle(read, words, clock, owned, family))
    table.delete_batch(idle)
    return len(idle)


def _idle(
    records: Iterable[tuple[bytes, bytes]],
    words: memoryview,
    clock: Clock,
    owned: bool,
    family: Family,
) -> Iterator[bytes]:
    """The keys of records past their timeout; all others are counted."""
    for raw, value in records:
        key, flow = Tuple.unpack(raw, family), Flow.unpack(value, family)
        age = clock.now() - flow.last_seen & _MASK
        limit = flow.timeout * clock.hz
        if key.protocol == _UDP:
            limit = min(limit, words[IDLE_UDP])
        if limit < age <= _MASK >> 1:
            yield raw
            continue
        words[flow.state * PROTOCOLS + key.protocol] += 1
        if owned and flow.state == FlowState.ESTABLISHED and not flow.flags & FlowFlag.REPLY:
            _count_owner(flow, words)


def _count_owner(flow: Flow, words: memoryview) -> None:
    owner = share_slot(flow.enters)
    words[SHARES_AT + owner] += 1
    words[SHARES_AT + SHARE_TOTAL] += 1
    if flow.flags & FlowFlag.RANGE:
        for slot in port_slots(flow.to, owner):
            words[PORTS_AT + slot] += 1
