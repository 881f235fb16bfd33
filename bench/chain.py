"""What the chain costs per packet: composed in one program, in many, and written by hand.

Every number is of ``BPF_PROG_TEST_RUN``, on one CPU, all variants on the same maps, interleaved. A
round loads all programs afresh, because where code and scratch come to lie makes some per cent of
difference by itself; it measures each variant in several turns, each turn in an order of its own,
and keeps the least. Ratios are of the same round, their interval of the median of all rounds.

A trial run with ``repeat`` hands each run the packet that the run before it left, and keeps the
maps. So every variant is entered through the same small program (``feed.bpf.c``): it puts the
frame's headers back, sets the source port, and jumps. What that costs, and the trial run itself,
is measured as the variant ``nothing`` in every round and subtracted: numbers are of the datapath
alone.

* Established: one replied flow, whose port stays as it is. About once a second a packet takes the
  way through the tracker that marks the flow as seen; this is in the numbers.
* First packet: each run has the next source port, so that each opens a flow, and all variants open
  the same ones. The records are removed between measurements, so the table never evicts.

Programs are those of production: nothing is traced. After each measurement the records are looked
at, all of an established flow's and a sample of those opened: a packet that took another way is an
error, never a number.
"""

from __future__ import annotations

import os
import random
import struct
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

from scapy.packet import Packet

from bench.cluster import (
    CLIENT_ADDRESS,
    FIRST_PORT,
    TO_OUTSIDE,
    TO_POD,
    TO_REMOTE,
    TO_SERVICE,
    TO_SERVICE_UDP,
    Case,
    default_datapath,
    establish,
)
from bench.stats import Row, ratio_row, row
from bench.variants import FUSED, LONGER, MONOLITH, NOTHING, TAILCALL, Variant, Workshop
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.testrun import skb_context
from cubelet.testkit import Datapath
from cubelet.testkit.network import build_network, private_network
from cubelet_hooks.flows import Flow, Tuple

ROUNDS = 24
TURNS = 7
ESTABLISHED = (TO_POD, TO_SERVICE, TO_REMOTE)
FIRST = (TO_POD, TO_SERVICE, TO_SERVICE_UDP, TO_REMOTE, TO_OUTSIDE)
RATIOS = (
    (FUSED, MONOLITH),
    (TAILCALL, MONOLITH),
    (TAILCALL, FUSED),
    (LONGER[FUSED], FUSED),
    (LONGER[TAILCALL], TAILCALL),
)
Measure = Callable[[Variant], float]
Series = dict[str, list[float]]

_REDIRECT = 7
_SPOTS = 10
_FEED = struct.Struct("=64sHH4x")


class Wrong(Exception):
    """A measurement that did not measure what it should."""


class Meter:
    """Times one variant after the other on one datapath."""

    def __init__(self, path: Datapath, feed: BpfMap) -> None:
        self._path = path
        self._feed = feed
        self._opened: dict[Case, list[bytes]] = {}
        self._context = skb_context(ifindex=path.network.ports["default/a"].ifindex)

    def _run(self, variant: Variant, packet: Packet, step: int, repeat: int) -> float:
        frame = bytes(packet)
        self._feed.update(bytes(4), _FEED.pack(frame[:64], packet.sport, step))
        run = variant.feed.test_run(frame, repeat, self._context)
        if variant.name != NOTHING and run.retval != _REDIRECT:
            raise Wrong(f"{variant.name} answered {run.retval}")
        return float(run.duration_ns)

    def established(self, case: Case, variant: Variant, repeat: int = 5_000) -> float:
        """Nanoseconds of a packet whose flow is known."""
        before = self._counted(case)
        taken = self._run(variant, case.frame(), 0, repeat)
        self._check(variant, self._counted(case) - before, repeat)
        return taken

    def first(self, case: Case, variant: Variant, repeat: int = 250) -> float:
        """Nanoseconds of a packet that opens a flow."""
        taken = self._run(variant, case.frame(FIRST_PORT, "S"), 1, repeat)
        pending = self._path.maps["cubelet_pending"]
        if variant.name != NOTHING:
            keys = self._opened.setdefault(case, [])
            if not keys:
                keys += [key for key, _ in pending.items()]
            spot = keys[:: len(keys) // _SPOTS]
            found = sum(pending.lookup(key) is not None for key in spot)
            self._check(variant, len(keys) + found, 2 * repeat + len(spot))
            pending.delete_batch(keys)
        return taken

    def _counted(self, case: Case) -> int:
        key = Tuple(CLIENT_ADDRESS, case.address, case.sport, case.dport, case.number)
        value = self._path.maps["cubelet_flows"].lookup(key.pack())
        return Flow.unpack(value).packets if value else 0

    @staticmethod
    def _check(variant: Variant, seen: int, expected: int) -> None:
        if seen != (0 if variant.name == NOTHING else expected):
            raise Wrong(f"{variant.name}: {seen} packets or records, not {expected}")


@contextmanager
def one_cpu() -> Iterator[None]:
    """Stay on one CPU: per-CPU state, caches and the timing are then of that one."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def run(rounds: int = ROUNDS) -> list[Row]:
    """All rows: costs, ratios, then the programs' sizes."""
    with private_network():
        path = default_datapath(build_network())
        workshop = Workshop(path)
        try:
            for case in ESTABLISHED:
                establish(path, case)
            with one_cpu():
                results, sizes = _rounds(workshop, Meter(path, workshop.feed_map), rounds)
        finally:
            workshop.close()
            path.close()
    return [row for case, series in results.items() for row in _rows(case, series)] + sizes


def _rounds(workshop: Workshop, meter: Meter, rounds: int) -> tuple[dict[str, Series], list[Row]]:
    measures = {f"established, {c.name}": partial(meter.established, c) for c in ESTABLISHED}
    measures |= {f"first packet, {c.name}": partial(meter.first, c) for c in FIRST}
    results: dict[str, Series] = {case: defaultdict(list) for case in measures}
    shuffled = random.Random(rounds)
    for _ in range(rounds):
        with workshop.loaded() as variants:
            for case, measure in measures.items():
                for name, value in _round(variants, measure, shuffled).items():
                    results[case][name].append(value)
            sizes = _sizes(variants)
    return results, sizes


def _round(
    variants: Sequence[Variant], measure: Measure, shuffled: random.Random
) -> dict[str, float]:
    """Nanoseconds of each variant, the least of some turns; what feeding costs is subtracted.

    What else runs on the machine can only add to a turn, so the least of a few is the nearest to
    what the program itself costs.
    """
    order = list(variants)
    taken: Series = defaultdict(list)
    for _ in range(TURNS):
        shuffled.shuffle(order)
        for variant in order:
            taken[variant.name].append(measure(variant))
    feeding = min(taken[NOTHING])
    return {
        variant.name: min(taken[variant.name]) - (feeding if variant.name != NOTHING else 0.0)
        for variant in variants
    }


def _rows(case: str, series: Series) -> list[Row]:
    return [
        *(row(case, name, values, "ns") for name, values in series.items()),
        *(ratio_row(case, f"{a}/{b}", series[a], series[b]) for a, b in RATIOS),
    ]


def _sizes(variants: Sequence[Variant]) -> list[Row]:
    """Of the programs that a pod's packet may pass until its flow is open, and of all of them."""
    rows = []
    for variant in variants:
        infos = [program.info() for program in variant.first.values()]
        numbers = {
            "verified instructions": (sum(i.verified_insns for i in infos), "instructions"),
            "translated code": (sum(i.xlated_length for i in infos), "bytes"),
            "JITed code": (sum(i.jited_length for i in infos), "bytes"),
            "programs": (len(infos), "programs"),
        }
        rows += [row(case, variant.name, [value], unit) for case, (value, unit) in numbers.items()]
    return rows
