"""What is told of whole packets that go through real programs: needs root and BCC."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from ipaddress import IPv4Address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.packet import Raw

from cubelet.composer.ends import Ended
from cubelet.cubes.ends import ended_flow
from cubelet.testkit import Datapath
from cubelet_flowlog.commands import in_words
from cubelet_flowlog.cube import Flowlog
from cubelet_flowlog.lines import describe
from cubelet_flowlog.names import Names
from cubelet_flowlog.records import ASKED, How, Told, What
from cubelet_hooks.cube import PORT_CLASSES
from cubelet_hooks.flows import Index, PortClass, Tuple
from cubelet_hooks.maps import EVERYTHING
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
    dp.tick("flowlog")
    assert records(dp) == [], "it may still be on its way"
    time.sleep(1.05)
    dp.tick("flowlog")
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
def test_counts_are_told_by_direction(path: Make, mode: str) -> None:
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
    dp.send(tcp("FA", 7, seq=1, ack=2))
    (counted,) = dp.events("flowlog")  # once a second; ends are told by the core
    assert (counted.what, counted.how, counted.packets) == (What.COUNTED, How.REPLY, 2)
    assert counted.arrived == pair(4000, 7, TCP_NUMBER, D, A)


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


@both_modes
def test_what_flows_older_than_the_cube_carry_is_counted(path: Make, mode: str) -> None:
    dp = path(mode, interval=1)
    dp.send(udp(53))
    flows = dp.flows()
    for key, flow in flows.items():
        dp.put("cubelet", "pending", key, dataclasses.replace(flow, area=bytes(64)))
    dp.events("flowlog")
    dp.context("flowlog").judge_again(EVERYTHING)
    dp.send(udp(53))
    time.sleep(1.05)
    dp.send(udp(53))
    (counted,) = dp.events("flowlog")
    assert (counted.what, counted.arrived, counted.packets) == (What.COUNTED, pair(53), 3)


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


@both_modes
def test_the_name_that_is_asked_for_is_told(path: Make, mode: str) -> None:
    dp = path(mode, names=True)
    question = b"\3Web\4shop\0\0\1\0\1"
    for port in (53, 54):
        packet = udp(port)
        packet[UDP].payload = Raw(bytes(12) + question)
        dp.send(packet)
    asked, other = dp.events("flowlog")
    assert asked.asked == question.ljust(ASKED, b"\0")
    assert other.asked == bytes(ASKED)
    line = describe(asked, dp.state, 0, Names())
    assert line["asked"] == "web.shop"
    assert ", for web.shop" in in_words(line)
    assert "asked" not in describe(other, dp.state, 0, Names())


@both_modes
def test_the_end_of_a_chosen_flow_is_told_with_all_that_it_carried(path: Make, mode: str) -> None:
    dp = path(mode)
    for flags in ("S", "A", "A", "FA"):
        dp.send(tcp(flags, 7, seq=int(flags != "S"), ack=int(flags != "S")))
        if flags in ("S", "FA"):
            answer = tcp(f"{flags[0]}A", 4000, 7, D, A, seq=int(flags != "S"), ack=1)
            dp.send(answer, pod="default/d")
    assert dp.ended("flowlog") == [], "what is under way may still come"
    dp.send(tcp("S", 7, seq=9))
    (flow,) = dp.ended("flowlog")
    assert flow.sent == pair(7, 4000, TCP_NUMBER)
    assert (flow.forward.packets, flow.reply.packets) == (4, 2)
    cube, context = dp.composition.cubes[0], dp.context("flowlog")
    cube.on_ended(flow, context)
    ((_, line),) = records(dp)
    assert (line["event"], line["closed"]) == ("ended", True)
    assert (line["packets"], line["bytes"], line["reply_packets"]) == (4, 4 * 54, 2)
    assert in_words(line).endswith(f"reply: 2 packets, {2 * 54} bytes")


def test_the_end_of_a_flow_that_was_not_chosen_is_not_told(path: Make) -> None:
    dp = path(sample=1_000_000)
    dp.send(udp(53))
    dp.send(udp(4000, sport=53, src=D, dst=A), pod="default/d")
    (forward,) = [f for f in dp.flows().values() if f.to == pair(53)]
    ended = Ended(pair(53), 0, forward, 0, 0, bytes(64))
    cube = dp.composition.cubes[0]
    flow = ended_flow(cube, dp.composition.slots, ended, None)
    assert flow.forward.packets == 1
    cube.on_ended(flow, dp.context("flowlog"))
    assert records(dp) == []
