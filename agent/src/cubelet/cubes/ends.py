"""Tells cubes of flows that have ended, from what programs and sweeps say of their records."""

from __future__ import annotations

import os
import time
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import islice

from cubelet.bpf.maps import BpfMap
from cubelet.bpf.ringbuf import RingBuffer
from cubelet.composer.ends import Ended
from cubelet.composer.slots import Slots, read_fields
from cubelet.cubes.callbacks import Failures, Tally
from cubelet.cubes.context import CubeContext
from cubelet_hooks.cube import Cube
from cubelet_hooks.ends import EndedFlow
from cubelet_hooks.flows import Counter, Flow, FlowFlag, FlowState, Tuple
from cubelet_hooks.records import Family

_BATCH = 256
"""Records that are read before others get their turn."""
_BATCH_SECONDS = 0.05
"""The time after which a batch ends early."""
_HALVES, _APART = 4_096, 60.0
"""Records that may wait for their partners, and for how many seconds: a sweep may find one of a
flow's two a second before the other is idle for long enough."""


class Halves:
    """Puts a flow's two records together where a sweep has told of them one by one."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[Tuple, tuple[Ended, float]] = OrderedDict()

    def joined(self, ended: Ended) -> Iterator[tuple[Ended, Ended | None]]:
        """The flows that are complete with this record: each a record and, if known, its partner.

        Those whose partner has not come for too long are among them.
        """
        if ended.paired:
            yield ended, None
            return
        sent = _sent(ended)
        partner, _ = self._waiting.pop(sent, (None, 0.0))
        if partner is not None and _is_reply(partner) != _is_reply(ended):
            yield ended, partner
            return
        if partner is not None:
            yield partner, None
        self._waiting[sent] = ended, time.monotonic()
        yield from self._overdue()

    def _overdue(self) -> Iterator[tuple[Ended, None]]:
        while self._waiting:
            first, (ended, since) = next(iter(self._waiting.items()))
            if len(self._waiting) <= _HALVES and time.monotonic() - since < _APART:
                return
            del self._waiting[first]
            yield ended, None


class EndsTap:
    """Reads the core's ring of ended flows, and tells those cubes that ask for it."""

    def __init__(
        self,
        contexts: Sequence[CubeContext],
        tallies: Sequence[Tally],
        slots: Slots,
        ring: BpfMap,
        family: Family,
    ) -> None:
        self._cubes = [
            (context, tally, Failures(context.cube.instance, "on_ended", tally))
            for context, tally in zip(contexts, tallies, strict=True)
        ]
        self._slots = slots
        self._family = family
        self._halves = Halves()
        self._table = BpfMap(os.dup(ring.fd), ring.label)
        self._ring = RingBuffer(self._table)
        self.retired = False

    def fileno(self) -> int:
        """The ring's, readable while records wait."""
        return self._ring.fileno()

    def batch(self) -> float:
        """Tell of some of the waiting records; returns the seconds that it took."""
        began = time.monotonic()
        if self.retired:
            return 0.0
        for raw in islice(self._ring.records(), _BATCH):
            for ended, partner in self._halves.joined(Ended.unpack(raw, self._family)):
                self._tell(ended, partner)
            if time.monotonic() - began > _BATCH_SECONDS:
                break
        return time.monotonic() - began

    def _tell(self, ended: Ended, partner: Ended | None) -> None:
        for context, tally, failures in self._cubes:
            tally.ended += 1
            try:
                flow = ended_flow(context.cube, self._slots, ended, partner)
                context.cube.on_ended(flow, context)
            except Exception as error:  # a cube's bug is not the agent's
                failures.note(error)

    def close(self) -> None:
        """Let go of the ring."""
        self._ring.close()
        self._table.close()


def ended_flow(cube: Cube, slots: Slots, ended: Ended, partner: Ended | None) -> EndedFlow:
    """What a cube is told of a flow, by one of its records and what is known of the other."""
    flow, reply = ended.flow, _is_reply(ended)
    own, others = Counter(flow.packets, flow.bytes), Counter(0, 0)
    fields, others_fields = _fields(cube, slots, flow.area), None
    if ended.paired:
        others = Counter(ended.packets, ended.bytes)
        others_fields = _fields(cube, slots, ended.area)
    elif partner is not None:
        others = Counter(partner.flow.packets, partner.flow.bytes)
        others_fields = _fields(cube, slots, partner.flow.area)
    return EndedFlow(
        sent=_sent(ended),
        became=_inverted(ended.key) if reply else flow.to,
        enters=flow.leaves if reply else flow.enters,
        leaves=flow.enters if reply else flow.leaves,
        state=FlowState(flow.state),
        forward=others if reply else own,
        reply=own if reply else others,
        fields=others_fields if reply else fields,
        reply_fields=fields if reply else others_fields,
    )


def _fields(cube: Cube, slots: Slots, area: bytes) -> object:
    if cube.flow_fields is None:
        return None
    return read_fields(cube, slots.held[cube.instance], area)


def _is_reply(ended: Ended) -> bool:
    flow: Flow = ended.flow
    return bool(flow.flags & FlowFlag.REPLY)


def _sent(ended: Ended) -> Tuple:
    """The tuple that the flow's first packet was sent with."""
    return _inverted(ended.flow.to) if _is_reply(ended) else ended.key


def _inverted(each: Tuple) -> Tuple:
    return Tuple(each.dst, each.src, each.dport, each.sport, each.protocol)
