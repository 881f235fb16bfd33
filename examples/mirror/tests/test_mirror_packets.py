"""Whole packets through real programs, and their copies at the collector's end: needs root and BCC.

The pods a, b, c and d have 10.1.0.2 to 10.1.0.5; all packets leave by the port of d, and their
answers come from there.
"""

from __future__ import annotations

from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet_hooks.objects import Pod
from cubelet_mirror.cube import ANNOTATION, Mirror

ROUTER = "02:00:00:00:00:01"
A, D = "10.1.0.2", "10.1.0.5"
both_modes = pytest.mark.parametrize("mode", ["fused", "tailcall"])


def sent(flags: str = "S", data: bytes = b"", **fields: Any) -> Packet:
    """From a to d."""
    ether = Ether(src="02:00:00:00:01:00", dst=ROUTER)
    return ether / IP(src=A, dst=D) / TCP(sport=4000, dport=80, flags=flags, **fields) / Raw(data)


def answer(flags: str = "SA", data: bytes = b"", **fields: Any) -> Packet:
    """From d to a."""
    ether = Ether(src="02:00:00:00:01:03", dst=ROUTER)
    return ether / IP(src=D, dst=A) / TCP(sport=80, dport=4000, flags=flags, **fields) / Raw(data)


def pod(name: str, to: str = "") -> Pod:
    return Pod("default", name, annotations={ANNOTATION: to} if to else {})


@pytest.fixture
def made(datapath):
    def make(*pods: Pod, mode: str = "fused"):
        return datapath(stacks={"pod": [Mirror]}, mode=mode, objects=pods)

    return make


def connected(dp: Any) -> list[Packet]:
    """A connection from a to d and some data; the frames as they were sent."""
    frames = [
        (sent(), "default/a"),
        (answer(ack=1), "default/d"),
        (sent("A", seq=1, ack=1), "default/a"),
        *[(sent("PA", b"ask", seq=1, ack=1), "default/a")] * 3,
        (answer("PA", b"told", seq=1, ack=4), "default/d"),
    ]
    for frame, name in frames:
        assert dp.send(frame, pod=name).verdict == "redirect"
    assert len(dp.table("cubelet", "flows")) == 2, "the last ones went the established way"
    return [frame for frame, _ in frames]


def bare(frame: Packet) -> bytes:
    """What was sent, without the MAC that copies have for their own."""
    return bytes(frame)[6:]


@both_modes
@pytest.mark.parametrize("mirrored", ["a", "d"])
def test_all_packets_of_both_directions_are_copied_as_they_entered(made, mode, mirrored):
    dp = made(pod(mirrored, to="c"), mode=mode)
    with dp.collector("default/c") as collector, dp.collector("default/b") as other:
        frames = connected(dp)
        copies = collector.frames()
        assert [bare(each) for each in copies] == [bare(each) for each in frames]
        assert {each[Ether].dst for each in copies} == {ROUTER}, "nobody's own in the pod"
        assert other.frames() == []
    assert len(dp.flows()) == 2, "copies open no flow"


@both_modes
def test_a_mirror_changes_nothing_of_what_goes_on(made, mode):
    results = []
    for dp in (made(mode=mode), made(pod("a", to="c"), mode=mode)):
        frames = (sent(), sent("A", seq=1, ack=1))
        seen = [dp.send(each) for each in frames]
        counted = {key: (flow.packets, flow.bytes) for key, flow in dp.flows().items()}
        results.append(([(r.verdict, r.hop, bytes(r.packet)) for r in seen], counted))
    assert results[0] == results[1]


def test_a_copy_is_never_the_collectors_own_frame(made):
    """Whatever MAC the sender has put in: the collector's stack would take it, and answer it."""
    dp = made(pod("a", to="c"))
    frame = sent()
    frame[Ether].dst = dp.network.ports["default/c"].mac
    with dp.collector("default/c") as collector:
        assert dp.send(frame).verdict == "redirect"
        (copy,) = collector.frames()
        assert (copy[Ether].dst, bare(copy)) == (ROUTER, bare(frame))


def test_other_pods_packets_are_not_copied(made):
    dp = made(pod("b", to="c"))
    with dp.collector("default/c") as collector:
        connected(dp)
        assert collector.frames() == []


def test_who_is_part_of_a_flow_gets_no_copy_of_it(made):
    """The collector has what it is sent: it would have it twice."""
    dp = made(pod("a", to="d"))
    with dp.collector("default/d") as collector:
        connected(dp)
        assert collector.frames() == []


def test_both_ends_can_have_a_collector(made):
    dp = made(pod("a", to="b"), pod("d", to="c"))
    with dp.collector("default/b") as one, dp.collector("default/c") as other:
        frames = connected(dp)
        assert len(one.frames()) == len(other.frames()) == len(frames)


def test_open_connections_are_copied_from_now_on_and_no_longer(made):
    dp = made()
    with dp.collector("default/b") as before, dp.collector("default/c") as collector:
        connected(dp)
        more = sent("PA", b"ask", seq=4, ack=5)
        dp.apply(pod("a", to="c"))
        dp.send(more)
        assert [bare(each) for each in collector.frames()] == [bare(more)]
        dp.apply(pod("a", to="b"))
        dp.send(more)
        assert (len(before.frames()), collector.frames()) == (1, [])
        dp.apply(pod("a"))
        dp.send(more)
        dp.send(answer("PA", b"told", seq=5, ack=7), pod="default/d")
        assert (before.frames(), collector.frames()) == ([], [])


def test_a_collector_that_goes_gets_nothing_more(made):
    dp = made(pod("a", to="c"))
    collector_port = dp.network.ports["default/c"]
    with dp.collector("default/c") as collector:
        connected(dp)
        assert collector.frames()
        dp.delete(collector_port)
        assert dp.send(sent("PA", b"ask", seq=4, ack=5)).verdict == "redirect"
        assert collector.frames() == []
        dp.apply(collector_port)
        dp.send(sent("PA", b"ask", seq=4, ack=5))
        assert len(collector.frames()) == 1


def test_datagrams_that_the_pod_sends_to_many_are_copied(made):
    dp = made(pod("a", to="c"))
    with dp.collector("default/c") as collector:
        for last in range(20, 30):
            head = Ether(src="02:00:00:00:01:00", dst=ROUTER) / IP(src=A, dst=f"192.0.2.{last}")
            dp.send(head / UDP(sport=4000, dport=53) / b"ask")
        assert [each[IP].dst for each in collector.frames()] == [
            f"192.0.2.{last}" for last in range(20, 30)
        ]
