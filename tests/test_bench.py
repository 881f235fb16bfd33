"""The benchmark compares what is comparable: all variants do the same to the same packets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw

from bench import chain, cluster
from bench.__main__ import main
from bench.stats import median_interval, percentile, ratio_row
from bench.variants import FUSED, LONGER, MONOLITH, NOTHING, TAILCALL, Variant, Workshop
from cubelet.bpf.testrun import skb_context
from cubelet.testkit import Datapath
from cubelet.testkit.network import TestNetwork
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC, pod_mac
from cubelet_hooks.cube import PORT_CLASSES
from cubelet_hooks.flows import Counter as Count
from cubelet_hooks.flows import Flow, Index
from cubelet_hooks.objects import Endpoint, EndpointPort, EndpointSlice, Pod, Service, ServicePort

A, B, C = cluster.CLIENT, cluster.SERVER, "10.1.0.4"
REDIRECT = 7
COMPARED = (FUSED, TAILCALL, MONOLITH)
MANY, EMPTY, SELF = "10.96.0.11", "10.96.0.12", "10.96.0.13"
BACKENDS = [f"10.1.1.{n}" for n in range(20, 27)]


def service(name: str, vip: str, *backends: str) -> list[Service | EndpointSlice]:
    ports = (ServicePort("tcp", "TCP", 80, 8080),)
    endpoints = tuple(Endpoint((ip_address(address),)) for address in backends)
    served = (EndpointPort("tcp", "TCP", 8080),)
    return [
        Service("default", name, cluster_ips=(ip_address(vip),), ports=ports),
        EndpointSlice("default", f"{name}-1", service=name, endpoints=endpoints, ports=served),
    ]


def pod(name: str, address: str, **labels: str) -> Pod:
    return Pod(
        "default",
        name,
        labels=labels,
        node_name="node2" if labels else "node1",
        ips=(ip_address(address),),
        phase="Running",
        ready=True,
    )


@dataclass(frozen=True)
class Seen:
    """What a variant did with a packet, and what it left behind."""

    verdict: int
    packet: Packet
    flows: dict[Any, Flow]
    drops: Counter[str]


Frames = list[tuple[str, Packet]]
"""Each with the pod it comes from."""


class Rig:
    """All variants on one datapath."""

    def __init__(self, path: Datapath, workshop: Workshop, variants: list[Variant]) -> None:
        self.path = path
        self.workshop = workshop
        self.variants = {variant.name: variant for variant in variants}

    def reset(self) -> None:
        """Forget all flows, fragments, and how many errors were sent."""
        for name in ("flows", "pending", "fragments", "error_rates"):
            table = self.path.maps[f"cubelet_{name}"]
            table.delete_batch([key for key, _ in table.items()])
        for name in ("shares", "port_shares"):
            table = self.path.maps[f"cubelet_{name}"]
            table.update(bytes(4), bytes(table.layout.value_size))

    def run(self, variant: Variant, frames: Frames) -> list[Seen]:
        """A sequence of frames, on tables without a flow."""
        self.reset()
        return [self.step(variant, pod, packet) for pod, packet in frames]

    def step(self, variant: Variant, pod: str, packet: Packet) -> Seen:
        """One frame."""
        before = self._drops()
        ifindex = self.path.network.ports[f"default/{pod}"].ifindex
        run = variant.entry.test_run(bytes(packet), ctx_in=skb_context(ifindex=ifindex))
        flows = {key: comparable(flow) for key, flow in self.path.flows().items()}
        return Seen(run.retval, Ether(run.packet), flows, self._drops() - before)

    def _drops(self) -> Counter[str]:
        """Packets dropped by reason, on all CPUs."""
        found: Counter[str] = Counter()
        for key, value in self.path.maps["cubelet_drops"].items():
            if any(value):
                reason = self.path.reasons[Index.unpack(key).index // len(PORT_CLASSES)]
                found[f"{reason.cube}/{reason.name}"] += sum(
                    Count.unpack(value[at : at + 16]).packets for at in range(0, len(value), 16)
                )
        return found


def comparable(flow: Flow) -> Flow:
    """The record without its time. Checksum deltas are one's complement: 0xffff is 0."""
    return replace(
        flow,
        last_seen=0,
        l4_delta=flow.l4_delta % 0xFFFF,
        port_delta=flow.port_delta % 0xFFFF,
        l3_delta=flow.l3_delta % 0xFFFF,
    )


@pytest.fixture(scope="module")
def rig(cubelet_network: TestNetwork) -> Iterator[Rig]:
    path = cluster.default_datapath(cubelet_network)
    workshop = Workshop(path)
    path.apply(
        pod("c", C),
        *(pod(f"r{n}", address, app="server") for n, address in enumerate(BACKENDS)),
        *service("many", MANY, *BACKENDS),
        *service("empty", EMPTY),
        *service("self", SELF, C),
    )
    try:
        with workshop.loaded() as variants:
            yield Rig(path, workshop, variants)
    finally:
        workshop.close()
        path.close()


def frame(
    dst: str, l4: Packet, src: str = A, mac: str = ROUTER_MAC, source: str = pod_mac(0), **ip: Any
) -> Packet:
    return Ether(src=source, dst=mac) / IP(src=src, dst=dst, **ip) / l4 / Raw(b"x" * 64)


def syn(sport: int = 20_000, dport: int = 80) -> Packet:
    return TCP(sport=sport, dport=dport, flags="S", seq=7)


def opened(dst: str, l4: Packet, **fields: Any) -> Frames:
    return [("a", frame(dst, l4, **fields))]


def connection(case: cluster.Case) -> Frames:
    """Both directions of a TCP connection with a pod of this node, from its begin to its end."""
    steps = [
        ("S", ""),
        ("", "SA"),
        ("A", ""),
        ("PA", ""),
        ("", "A"),
        ("FA", ""),
        ("", "FA"),
        ("A", ""),
    ]
    return [
        ("a", case.frame(flags=mine)) if mine else ("b", case.answer(flags=theirs))
        for mine, theirs in steps
    ]


SEQUENCES: dict[str, tuple[Frames, str]] = {
    "a pod of the segment": (connection(cluster.TO_POD), "core/none"),
    "a Service": (connection(cluster.TO_SERVICE), "core/none"),
    "a Service by UDP": (
        [
            ("a", cluster.TO_SERVICE_UDP.frame()),
            ("a", cluster.TO_SERVICE_UDP.frame()),
            ("b", cluster.TO_SERVICE_UDP.answer()),
            ("a", cluster.TO_SERVICE_UDP.frame()),
        ],
        "core/none",
    ),
    "a pod of another node": (opened(cluster.REMOTE, syn(dport=8080)), "core/none"),
    "the outside": (opened(cluster.OUTSIDE, syn()), "core/none"),
    "the outside, from a port that is not ours": (
        opened(cluster.OUTSIDE, syn(45_000)),
        "core/none",
    ),
    "the outside by UDP without checksum": (
        opened(cluster.OUTSIDE, UDP(sport=20_000, dport=53, chksum=0)),
        "core/none",
    ),
    "the outside by ping": (opened(cluster.OUTSIDE, ICMP(id=77)), "core/none"),
    "the node": ([("c", frame("172.18.0.2", syn(), src=C, source=pod_mac(2)))], "core/none"),
    "the gateway by ping": (
        [("c", frame("10.1.0.1", ICMP(id=7), src=C, source=pod_mac(2)))],
        "core/none",
    ),
    "itself by a Service": ([("c", frame(SELF, syn(), src=C, source=pod_mac(2)))], "core/none"),
    "mid-stream": (opened(cluster.REMOTE, TCP(sport=9, dport=8080, flags="A")), "core/no_flow"),
    "a Service with many backends": (
        [("a", frame(MANY, syn(sport))) for sport in range(20_000, 20_030)],
        "core/none",
    ),
    "a Service without endpoints": (opened(EMPTY, syn()), "lbrp/no_endpoints"),
    "no port of the Service": (opened(cluster.SERVICE, syn(dport=81)), "lbrp/no_service"),
    "no port of the Service by UDP": (
        opened(cluster.SERVICE, UDP(sport=1, dport=81)),
        "lbrp/no_service",
    ),
    "what policy forbids to the sender": (opened(C, syn()), "firewall/egress_denied"),
    "what policy forbids to the receiver": (
        [("c", frame(B, syn(), src=C, source=pod_mac(2)))],
        "firewall/ingress_denied",
    ),
    "what may only be a reply": (
        opened(C, TCP(sport=9, dport=80, flags="A")),
        "core/no_flow",
    ),
    "another's address": (opened(cluster.REMOTE, syn(dport=8080), src=C), "core/spoofed"),
    "another's MAC address": (
        opened(cluster.REMOTE, syn(dport=8080), source=pod_mac(1)),
        "bridge/mac_spoofed",
    ),
    "the gateway's MAC address": (
        opened(cluster.REMOTE, syn(dport=8080), source=GATEWAY_MAC),
        "bridge/mac_spoofed",
    ),
    "a packet that expires": (opened(cluster.REMOTE, syn(dport=8080), ttl=1), "core/ttl"),
    "a loopback address": (
        [("c", frame("127.0.0.1", syn(), src=C, source=pod_mac(2)))],
        "router/martian",
    ),
    "a fragment": (
        opened(cluster.REMOTE, UDP(sport=9, dport=8080), flags="MF", id=5),
        "core/none",
    ),
    "a truncated packet": (
        [("a", Ether(bytes(frame(cluster.REMOTE, syn()))[:40]))],
        "core/malformed",
    ),
    "ARP": (
        [
            (
                "a",
                Ether(src=pod_mac(0), dst="ff:ff:ff:ff:ff:ff")
                / ARP(hwsrc=pod_mac(0), psrc=A, pdst=B),
            )
        ],
        "core/none",
    ),
}


@pytest.mark.parametrize("sequence", SEQUENCES.values(), ids=SEQUENCES)
def test_all_variants_do_the_same(rig: Rig, sequence: tuple[Frames, str]) -> None:
    packets, reason = sequence
    seen = {name: rig.run(rig.variants[name], packets) for name in COMPARED}
    for step, (fused, *others) in enumerate(zip(*seen.values(), strict=True)):
        for name, other in zip(COMPARED[1:], others, strict=True):
            at = f"{name}, packet {step}"
            assert other.verdict == fused.verdict, at
            assert bytes(other.packet) == bytes(fused.packet), (
                f"{at}\n{other.packet}\n{fused.packet}"
            )
            assert other.flows == fused.flows, at
            assert other.drops == fused.drops, at
    wanted = Counter() if reason == "core/none" else Counter([reason])
    assert seen[FUSED][-1].drops == wanted


@pytest.mark.parametrize("case", chain.FIRST, ids=lambda case: case.name)
def test_the_monolith_itself_opens_what_is_measured(rig: Rig, case: cluster.Case) -> None:
    """Without a composition to leave packets to: it would else measure that."""
    recipe = next(r for r in rig.workshop.recipes if r.name == MONOLITH)
    with rig.workshop.loaded([replace(recipe, composed=None)]) as (alone,):
        (seen,) = rig.run(alone, [("a", case.frame(flags="S"))])
        assert (seen.verdict, len(seen.flows)) == (REDIRECT, 2)


@pytest.mark.parametrize("case", chain.ESTABLISHED, ids=lambda case: case.name)
def test_the_monolith_itself_sends_what_is_measured(rig: Rig, case: cluster.Case) -> None:
    recipe = next(r for r in rig.workshop.recipes if r.name == MONOLITH)
    with rig.workshop.loaded([replace(recipe, composed=None)]) as (alone,):
        rig.reset()
        cluster.establish(rig.path, case)
        before = sum(flow.packets for flow in rig.path.flows().values())
        assert rig.step(alone, "a", case.frame()).verdict == REDIRECT
        assert sum(flow.packets for flow in rig.path.flows().values()) == before + 1


def test_the_benchmark_measures_every_case_and_variant(tmp_path: Path) -> None:
    assert main(["chain", "--rounds", "6", "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    assert all(
        {"case", "variant", "median", "p10", "p90", "unit", "runs"} <= r.keys() for r in rows
    )
    found = {(row["case"], row["variant"]): row for row in rows}
    variants = (FUSED, TAILCALL, MONOLITH, NOTHING, LONGER[FUSED], LONGER[TAILCALL])
    cases = [f"established, {case.name}" for case in chain.ESTABLISHED]
    cases += [f"first packet, {case.name}" for case in chain.FIRST]
    for case in cases:
        assert all(found[case, variant]["median"] > 0 for variant in variants)
        ratio = found[case, f"{FUSED}/{MONOLITH}"]
        assert ratio["low"] <= ratio["median"] <= ratio["high"]
    assert found["programs", FUSED]["median"] == 3
    assert found["programs", LONGER[TAILCALL]]["median"] > found["programs", TAILCALL]["median"]


def test_the_list_of_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert capsys.readouterr().out.startswith("chain ")


@pytest.mark.parametrize(
    ("count", "low", "high"),
    [(6, 1, 6), (20, 6, 15), (24, 7, 18), (40, 14, 27)],
)
def test_the_interval_of_a_median(count: int, low: int, high: int) -> None:
    """The ranks that tables of the sign test give for 95 %."""
    assert median_interval([float(n) for n in range(count, 0, -1)]) == (low, high)


def test_too_few_values_have_no_interval() -> None:
    with pytest.raises(ValueError, match="5 values are too few"):
        median_interval([1.0] * 5)


def test_percentiles_are_interpolated() -> None:
    assert percentile([4.0, 1.0, 3.0, 2.0, 5.0], 0.1) == pytest.approx(1.4)
    assert percentile([7.0], 0.9) == 7.0


def test_ratios_are_of_the_same_round() -> None:
    below = [1.0, 10.0, 100.0, 1.0, 10.0, 100.0]
    row = ratio_row("case", "a/b", [2 * value for value in below], below)
    assert (row.median, row.low, row.high, row.runs, row.unit) == (2, 2, 2, 6, "ratio")
