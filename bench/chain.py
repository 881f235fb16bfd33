"""Measures the chain's cost per packet: fused in one program, by tail calls, and hand-written.

Every number comes from ``BPF_PROG_TEST_RUN`` on one CPU, with all variants on the same maps. A
round loads all programs again, because the placement of code and scratch memory alone makes some
per cent of difference; it measures each variant in several turns, each in another order, and keeps
the least. Ratios are within a round; their interval is that of the median of all rounds.

A trial run with ``repeat`` gives each run the packet that the run before it left, and keeps the
maps. So every variant is entered through the same small program (``feed.bpf.c``), which restores
the frame's headers, sets the source port, and jumps. The cost of that and of the trial run is
measured as the variant ``nothing`` in every round and subtracted: numbers are the datapath's alone.

* Established: one answered flow with a fixed source port. About once a second a packet takes the
  slow path that refreshes the flow record; this is in the numbers.
* First packet: each run has the next source port and so opens a flow, and all variants open the
  same ones. The records are removed between measurements, so the table never evicts.

Programs are those of production, without tracing. After each measurement flow records are checked,
both of an established flow or a sample of the opened ones: a packet that took another path is an
error.
"""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from collections.abc import Callable, Sequence
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
from cubelet.bpf.testrun import one_cpu, skb_context
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
    """Packets of a measurement did not take the path to be measured."""


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
        """Nanoseconds for a packet of an established flow."""
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
    """Nanoseconds of each variant, the least of some turns, without the cost of feeding.

    Other load on the machine can only add to a turn, so the least of a few is nearest to the cost
    of the program itself.
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
    """Sizes and number of the programs that a pod's first packet may pass."""
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
