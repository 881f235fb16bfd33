"""What is told of whole packets that go through real programs: needs root and BCC."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, fragment

from cubelet.testkit import Datapath
from cubelet_flowlog.cube import Flowlog
from cubelet_flowlog.records import How, Told, What
from cubelet_hooks.cube import PORT_CLASSES
from cubelet_hooks.flows import Index, PortClass, Tuple
from cubelet_hooks.objects import Pod

from .warden import NODE, SERVICE, STACKS, TCP_NUMBER, A, D, ShutValue, Warden, pair, tcp, udp

MULTICAST, OUTSIDE = IPv4Address("224.0.0.251"), IPv4Address("192.0.2.9")
SNAT_FIRST = 12_000
"""The core's first port of translation, unless it is told another one."""
POD, OVERLAY = PortClass.POD, PortClass.OVERLAY

Make = Callable[..., Datapath]
both_modes = pytest.mark.parametrize("mode", ["fused", "tailcall"])


@pytest.fixture
def path(datapath: Make) -> Make:
    """Makes paths with the warden between two flowlogs; settings are flowlog's."""

    def make(mode: str = "fused", leaves: str = "pod", **settings: Any) -> Datapath:
        chosen = {"outlet": {"leaves": leaves}, "flowlog": settings}
        return datapath(stacks=STACKS, settings=chosen, mode=mode)

    return make


def told(dp: Datapath) -> list[tuple[What, Tuple, Tuple]]:
    return [(What(e.what), e.arrived, e.left) for e in dp.events("flowlog")]


def records(dp: Datapath, after: int = 0) -> list[tuple[int, dict[str, Any]]]:
    cube = dp.composition.cubes[0]
    found: Any = cube.answer("records", {"after": after}, dp.context("flowlog"))
    return [(number, line) for number, line in found]


@both_modes
def test_a_flow_is_told_once_when_it_opens(path: Make, mode: str) -> None:
    dp = path(mode, leaves="overlay")
    before = time.monotonic_ns()
    sent = udp(53)
    assert dp.send(sent).verdict == "redirect"
    assert dp.send(sent).verdict == "redirect"
    (event,) = dp.events("flowlog")
    assert before < event.time < time.monotonic_ns()
    assert event == Told(event.time, 0, 0, pair(53), pair(53), POD, OVERLAY, What.OPENED, 0)


@both_modes
def test_translation_is_told_and_the_answer_opens_nothing(path: Make, mode: str) -> None:
    dp = path(mode)
    dp.send(udp(80, dst=SERVICE))
    answer = dp.send(udp(4000, sport=8080, src=D, dst=A), pod="default/d")
    assert answer.packet[IP].src == str(SERVICE)
    assert told(dp) == [(What.OPENED, pair(80, dst=SERVICE), pair(8080))]


def test_a_source_port_that_is_chosen_later_is_not_told(path: Make) -> None:
    dp = path(leaves="uplink")
    dp.send(udp(81))
    (event,) = dp.events("flowlog")
    assert (event.left.src, event.how) == (NODE, How.PORT_UNKNOWN)


@both_modes
@pytest.mark.parametrize("port", [90, 91])
def test_what_nobody_lets_out_is_told_by_the_next_packet(path: Make, mode: str, port: int) -> None:
    dp = path(mode)
    assert dp.send(udp(port)).reason in ("warden/in", "warden/out")
    assert told(dp) == []
    dp.send(udp(53))
    assert told(dp) == [(What.DENIED, pair(port), pair(port)), (What.OPENED, pair(53), pair(53))]


def test_what_is_denied_can_be_left_out(path: Make) -> None:
    dp = path(denied=False)
    dp.send(udp(90))
    dp.send(udp(53))
    assert told(dp) == [(What.OPENED, pair(53), pair(53))]


def test_what_is_denied_is_told_where_no_packet_follows(path: Make) -> None:
    dp = path()
    dp.apply(Pod("default", "a", ips=(A,)))
    cube, context = dp.composition.cubes[0], dp.context("flowlog")
    dp.send(udp(90))
    assert records(dp) == [], "it may still be on its way"
    time.sleep(1.05)
    ((number, line),) = records(dp)
    assert (line["event"], line["source_pod"], line["destination_port"]) == (
        "denied",
        "default/a",
        90,
    )
    dp.send(udp(53))
    for event in dp.events("flowlog"):
        cube.on_event(event, context)
    ((_, line),) = records(dp, number)
    assert line["event"] == "opened", "what was denied is told once"


@both_modes
def test_a_known_flow_is_denied_when_its_permission_ends(path: Make, mode: str) -> None:
    dp = path(mode)
    gate = dp.context("warden").table("shut")
    dp.send(udp(92))
    gate[Index(0)] = ShutValue(0)
    dp.send(udp(92))
    assert told(dp) == [(What.OPENED, pair(92), pair(92))], "judged again, it opens nothing"
    gate[Index(0)] = ShutValue(1)
    assert dp.send(udp(92)).verdict == "drop"
    dp.send(udp(53))
    assert told(dp)[0] == (What.DENIED, pair(92), pair(92))


@both_modes
def test_a_flow_that_begins_anew_is_told_anew_and_was_not_denied(path: Make, mode: str) -> None:
    dp = path(mode)
    dp.send(udp(93))
    dp.context("warden").table("shut")[Index(0)] = ShutValue(1)
    assert dp.send(udp(93)).verdict == "redirect"
    dp.send(udp(53))
    assert told(dp) == [(What.OPENED, pair(port), pair(port)) for port in (93, 93, 53)]


@both_modes
def test_an_answer_without_a_flow_is_one_packet(path: Make, mode: str) -> None:
    dp = path(mode)
    dp.lose_records()
    # Denied as a first packet to port 90, allowed as the answer of one from there.
    answer = tcp("A", 90, sport=5000, src=D, dst=A)
    assert dp.send(answer, pod="default/d").verdict == "redirect"
    first = pair(5000, sport=90, protocol=TCP_NUMBER)
    dp.send(udp(53))
    assert told(dp) == [(What.OPENED, first, first), (What.OPENED, pair(53), pair(53))]


def test_what_may_be_flooded_is_not_taken_for_denied(path: Make) -> None:
    dp = path()
    assert dp.send(udp(90, dst=MULTICAST)).verdict == "drop"
    dp.send(udp(53))
    assert told(dp) == [(What.OPENED, pair(53), pair(53))]


def test_what_the_nodes_stack_may_take_is_not_taken_for_denied(path: Make) -> None:
    dp = path()
    assert dp.send(udp(SNAT_FIRST, src=OUTSIDE, dst=NODE), enters="uplink").reason == "warden/in"
    assert dp.send(udp(SNAT_FIRST, sport=4001)).reason == "warden/in"
    dp.send(udp(53))
    assert [(what, each.src) for what, each, _ in told(dp)] == [(What.DENIED, A), (What.OPENED, A)]


@both_modes
def test_two_nodes_choose_the_same_flows(path: Make, mode: str) -> None:
    here, there = path(mode, leaves="overlay", sample=4), path(mode, sample=4)
    for sport in range(10_000, 10_200):
        here.send(udp(80, sport=sport, dst=SERVICE))
        there.send(udp(8080, sport=sport), enters="overlay")
    sent = {event.left for event in here.events("flowlog")}
    assert sent == {event.arrived for event in there.events("flowlog")}
    assert 25 <= len(sent) <= 75, "one of four, of 200"


@both_modes
def test_counts_are_told_by_direction_and_at_the_end(path: Make, mode: str) -> None:
    dp = path(mode, interval=1)
    dp.send(tcp("S", 7))
    dp.send(tcp("SA", 4000, 7, D, A, ack=1), pod="default/d")
    dp.send(tcp("A", 7, seq=1, ack=1))
    assert [e.what for e in dp.events("flowlog")] == [What.OPENED]
    time.sleep(1.05)
    dp.send(tcp("A", 7, seq=1, ack=1))
    dp.send(tcp("A", 7, seq=1, ack=1))
    (counted,) = dp.events("flowlog")
    assert (counted.what, counted.how) == (What.COUNTED, 0)
    assert (counted.packets, counted.bytes) == (3, 3 * 54)
    dp.send(tcp("FA", 4000, 7, D, A, seq=1, ack=1), pod="default/d")
    dp.send(tcp("FA", 4000, 7, D, A, seq=1, ack=1), pod="default/d")
    (ended,) = dp.events("flowlog")
    assert (ended.what, ended.how, ended.packets) == (What.ENDED, How.REPLY, 2)
    assert ended.arrived == pair(4000, 7, TCP_NUMBER, D, A)


def test_counts_of_a_sample_are_of_the_flows_that_were_told(path: Make) -> None:
    dp = path(interval=1, sample=2)
    for sport in range(40):
        dp.send(udp(53, sport=sport + 1))
    opened = {event.arrived for event in dp.events("flowlog")}
    time.sleep(1.05)
    for sport in range(40):
        dp.send(udp(53, sport=sport + 1))
    assert {event.arrived for event in dp.events("flowlog")} == opened
    assert 0 < len(opened) < 40


def test_all_fragments_count_for_their_flow_and_errors_about_it_do_not(path: Make) -> None:
    dp = path(interval=1)
    parts = fragment(udp(53, size=2000), fragsize=800)
    dp.send(parts[0])
    dp.send(udp(4000, sport=53, src=D, dst=A), pod="default/d")
    assert [e.what for e in dp.events("flowlog")] == [What.OPENED]
    time.sleep(1.05)
    error = udp(53, src=D, dst=A)
    error[IP].payload = ICMP(type=3, code=3) / udp(53)[IP]
    assert dp.send(error, pod="default/d").verdict == "redirect"
    assert dp.events("flowlog") == []
    dp.send(parts[1])
    (counted,) = dp.events("flowlog")
    assert (counted.arrived, counted.packets) == (pair(53), 2)


@both_modes
def test_established_packets_pay_nothing_without_counts(datapath: Make, mode: str) -> None:
    with_it, without = (
        datapath(stacks=dict.fromkeys(PORT_CLASSES, cubes), mode=mode).compiled.code
        for cubes in ([Flowlog, Warden], [Warden])
    )
    for name in PORT_CLASSES:
        assert with_it[f"cubelet_{name}"] == without[f"cubelet_{name}"]
