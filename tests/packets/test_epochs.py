"""Verdicts that have aged: judged again for permission and path, in the flow's own direction."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from scapy.layers.inet import IP

from cubelet.testkit.samples import pod_mac
from cubelet_hooks.flows import Flow, PortInfo, PortKey, epoch_bucket

from .cubes import Way
from .rig import NODE, OUTSIDE, VIP, A, B, C, Rig, arrives, ip_of, kept
from .shapes import Ends, Peer, Shape, Talk, direct, hopped, tcp, through, udp

FAMILIES = (4, 6)

CLIENT, SERVER, OTHER = Peer("a", A, 1000), Peer("b", B, 8080), Peer("c", C, 8080)
SERVICE, AWAY = Peer("", VIP, 80), Peer("uplink", OUTSIDE, 443)
TALK = through(direct(CLIENT, SERVER), SERVICE)
both_ways = pytest.mark.parametrize("side", ["forward", "back"])
both_ages = pytest.mark.parametrize("replied", [False, True], ids=["pending", "replied"])


def opened(rig: Rig, replied: bool = True, talk: Talk = TALK) -> Talk:
    rig.vip(VIP, 80, B, 8080)
    if replied:
        return talk.established(rig)
    talk.opened(rig)
    return talk


def records(rig: Rig, talk: Talk = TALK) -> tuple[Flow, Flow]:
    forward, reply = rig.flow(talk.first), rig.flow(talk.answer)
    assert forward is not None
    assert reply is not None
    return forward, reply


def stays_ended(rig: Rig) -> None:
    """No packet of either side passes any more, nor opens a flow the other way round."""
    for _ in range(2):
        assert rig.send(tcp(CLIENT.to(SERVICE))).leaves is None
        assert rig.send(tcp(SERVER.to(CLIENT, back=True)), "b").leaves is None


@both_ways
@both_ages
@pytest.mark.parametrize("aged", [A, VIP, B, None], ids=["client", "service", "backend", "all"])
def test_permission_lost_ends_a_flow(rig: Rig, side: str, replied: bool, aged: str | None) -> None:
    opened(rig, replied)
    rig.close_gate(A, B)
    rig.age(aged)
    forward = tcp(CLIENT.to(SERVICE)), "a"
    back = tcp(SERVER.to(CLIENT, back=True)), "b"
    packet, port = forward if side == "forward" else back
    kept(rig.send(packet, port), "gate/closed")
    stays_ended(rig)


@both_ways
def test_after_permission_is_lost_replies_are_strangers(rig: Rig, side: str) -> None:
    """The reply's own direction was never permitted to open anything."""
    talk = opened(rig, talk=replace(TALK, shape=udp))
    rig.close_gate(A, B)
    rig.close_gate(B, A)
    rig.age(B)
    first, second = [(talk.first, "a"), (talk.answer, "b")][:: 1 if side == "forward" else -1]
    for packet, port in (first, second, first):
        kept(rig.send(packet, port), "gate/closed")


@both_ways
@both_ages
def test_what_is_still_permitted_goes_on(rig: Rig, side: str, replied: bool) -> None:
    talk = opened(rig, replied)
    before = records(rig)
    rig.age()
    getattr(talk, side)(rig, "SA" if side == "back" else "S")
    after = records(rig)
    assert {flow.epoch_sum for flow in after} == {before[0].epoch_sum + 1}
    assert [(f.to, f.leaves, f.enters, f.state) for f in after] == [
        (f.to, f.leaves, f.enters, f.state) for f in before
    ]
    rig.close_gate(A, B)  # from here on a packet that is judged is dropped
    talk.forward(rig)
    talk.back(rig)


def test_other_addresses_age_nothing(rig: Rig) -> None:
    talk = opened(rig)
    rig.close_gate(A, B)
    assert epoch_bucket(rig.address(C)) not in {epoch_bucket(rig.address(x)) for x in (A, B, VIP)}
    rig.age(C)
    talk.forward(rig)
    talk.back(rig)


@both_ages
def test_a_new_path_is_taken_by_both_records(rig: Rig, replied: bool) -> None:
    talk = opened(rig, replied)
    rig.path(B, "c")
    rig.age(B)
    moved = replace(talk, server=replace(SERVER, port="c"))
    moved.forward(rig)
    moved.back(rig)
    kept(rig.send(tcp(SERVER.to(CLIENT, back=True)), "b"), "core/wrong_port")


@both_ways
def test_a_path_that_becomes_bridged_stops_costing_ttl(rig: Rig, side: str) -> None:
    opened(rig)
    rig.path(B, "b", routed=False)
    rig.age()
    for way in (side, "forward", "back"):
        if way == "forward":
            arrives(rig.send(tcp(CLIENT.to(SERVICE))), "b", tcp(CLIENT.to(SERVER)))
        else:
            sent = tcp(SERVER.to(CLIENT, back=True))
            arrives(rig.send(sent, "b"), "a", tcp(SERVICE.to(CLIENT, back=True)))


def test_a_path_that_is_gone_ends_the_flow(rig: Rig) -> None:
    opened(rig)
    paths = rig.dp.maps["paths0_known"]
    paths.delete_batch([rig.address(B).packed])
    rig.age(B)
    kept(rig.send(tcp(CLIENT.to(SERVICE))), "core/no_path")
    stays_ended(rig)


@both_ways
@both_ages
def test_translation_is_never_judged_again(rig: Rig, side: str, replied: bool) -> None:
    rig.vip(VIP, 80, OUTSIDE, 443)
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    talk = Talk(tcp, CLIENT, AWAY, SERVICE, Peer("", NODE, 20001))
    talk.forward(rig, "S")
    if replied:
        talk.back(rig, "SA")
        talk.forward(rig)
    rig.vip(VIP, 80, B, 8080)
    rig.masquerade(A, "uplink", "203.0.113.1", 20002, 1)
    rig.age()
    getattr(talk, side)(rig)
    talk.forward(rig)
    talk.back(rig)
    assert len(rig.dp.flows()) == 2


@pytest.mark.parametrize("way", [Way.DROP, Way.REFUSE, Way.REJECT])
def test_what_is_turned_away_leaves_no_record(rig: Rig, way: Way) -> None:
    rig.close_gate(A, B, way)
    for shape in (tcp, udp):
        result = rig.send(shape(CLIENT.to(SERVER, "S")))
        assert (result.reason, result.answered) == ("gate/closed", way != Way.DROP)
    assert not rig.dp.flows()


@pytest.mark.parametrize("way", [Way.REFUSE, Way.REJECT])
@both_ways
def test_a_flow_that_is_turned_away_later_ends(rig: Rig, way: Way, side: str) -> None:
    opened(rig)
    rig.close_gate(A, B, way)
    rig.age(B)
    packet, port = (TALK.first, "a") if side == "forward" else (TALK.answer, "b")
    result = rig.send(packet, port)
    assert (result.reason, result.answered) == ("gate/closed", True)
    assert ip_of(result.packet).dst == rig.text(packet[IP].src)
    stays_ended(rig)


@pytest.mark.parametrize(
    ("ttl", "size", "reason"), [(1, 0, "core/ttl"), (64, 1501, "core/too_big")]
)
def test_what_cannot_travel_leaves_no_record(rig: Rig, ttl: int, size: int, reason: str) -> None:
    sent = udp(CLIENT.to(SERVER), bytes(max(0, size - 28)))
    sent.ttl, sent.flags = ttl, "DF"
    result = rig.send(sent)
    assert (result.reason, result.answered) == (reason, True)
    assert not rig.dp.flows()


def move(rig: Rig, address: str, pod: str) -> None:
    """Another pod has the address now."""
    info = PortInfo(address=rig.address(address), mac=pod_mac("abcd".index(pod)))
    rig.dp.put("cubelet", "ports", PortKey(ifindex=rig.ifindex(pod)), info)


@pytest.fixture
def moved(rig: Rig) -> Iterator[Rig]:
    """Pod c has been given a's address; it gets its own back."""
    move(rig, A, "c")
    yield rig
    move(rig, C, "c")


@both_ages
def test_a_stale_record_of_a_pod_that_was_replaced_is_forgotten(moved: Rig, replied: bool) -> None:
    opened(moved, replied)
    moved.path(A, "c")
    moved.age(A)
    replaced = replace(TALK, client=replace(CLIENT, port="c"))
    replaced.forward(moved, "S")
    assert [flow.packets for flow in records(moved)] == [1, 0]
    replaced.back(moved)


def test_a_stale_record_is_not_forgotten_for_a_forger(rig: Rig) -> None:
    opened(rig)
    rig.age()
    kept(rig.send(TALK.first, "c"), "core/spoofed")
    assert {flow.packets for flow in records(rig)} == {2, 1}
    TALK.forward(rig)


def test_a_restart_judges_the_clients_datagram_afresh(rig: Rig) -> None:
    rig.vip(VIP, 80, B, 8080)
    through(direct(CLIENT, SERVER, udp), SERVICE).whole(rig)
    rig.close_gate(A, B, Way.RESTART)
    rig.vip(VIP, 80, C, 8080)
    rig.age(VIP)
    sent = udp(CLIENT.to(SERVICE))
    arrives(rig.send(sent), "c", hopped(udp(CLIENT.to(OTHER))))
    assert len(rig.dp.flows()) == 2


def test_a_restart_refuses_the_clients_segment(rig: Rig) -> None:
    """Nobody else could go on with the connection."""
    opened(rig)
    rig.close_gate(A, B, Way.RESTART)
    rig.vip(VIP, 80, C, 8080)
    rig.age(VIP)
    result = rig.send(tcp(CLIENT.to(SERVICE)))
    assert (result.reason, result.answered) == ("core/no_flow", True)
    assert not rig.dp.flows()
    rig.open_gates()
    arrives(rig.send(tcp(CLIENT.to(SERVICE, "S"))), "c", hopped(tcp(CLIENT.to(OTHER, "S"))))


def test_a_restart_by_a_reply_drops_it_and_forgets_the_flow(rig: Rig) -> None:
    opened(rig)
    rig.close_gate(A, B, Way.RESTART)
    rig.age(VIP)
    kept(rig.send(tcp(SERVER.to(CLIENT, back=True)), "b"), "gate/closed")
    assert not rig.dp.flows()


@both_ways
def test_judging_again_restores_an_evicted_half(rig: Rig, side: str) -> None:
    """The one that the packet in hand is not found by."""
    opened(rig, replied=False)
    rig.forget(TALK.answer if side == "forward" else TALK.first)
    rig.age()
    getattr(TALK, side)(rig, "S" if side == "forward" else "SA")
    TALK.back(rig, "SA")
    TALK.forward(rig)
    assert len(rig.table("flows")) == 2


def test_no_pods_packet_ever_passes_to_the_stack_unseen(rig: Rig) -> None:
    """Whatever the cubes now say of a flow that came by the uplink."""
    talk = direct(Peer("uplink", OUTSIDE, 4000), Peer("a", A, 80))
    talk.established(rig)
    rig.close_gate(OUTSIDE, A, Way.TO_STACK)
    rig.age(A)
    kept(rig.send(tcp(Ends(A, 80, OUTSIDE, 4000, back=True))), "core/no_path")
    kept(rig.send(tcp(Ends(A, 80, OUTSIDE, 4000, back=True))), "core/no_path")


@pytest.mark.parametrize("shape", [tcp, udp])
def test_what_nobody_answered_begins_anew_where_another_translation_is_due(
    rig: Rig, shape: Shape
) -> None:
    """It began when no route led out, and so without a translation."""
    rig.masquerade(A, "uplink", NODE)
    rig.path(OUTSIDE, "host")
    first = shape(CLIENT.to(AWAY, "S"))
    assert rig.send(first, "a").leaves == "host"
    rig.path(OUTSIDE, "uplink")
    rig.age()
    result = rig.send(first, "a")
    assert (result.leaves, ip_of(result.packet).src) == ("uplink", rig.text(NODE))


def test_what_was_answered_keeps_its_translation_wherever_it_is_led(rig: Rig) -> None:
    rig.masquerade(A, "uplink", NODE)
    rig.path(OUTSIDE, "host")
    assert rig.send(udp(CLIENT.to(AWAY)), "a").leaves == "host"
    rig.send(udp(AWAY.to(CLIENT, back=True)), "host")
    rig.path(OUTSIDE, "uplink")
    rig.age()
    result = rig.send(udp(CLIENT.to(AWAY)), "a")
    assert (result.leaves, ip_of(result.packet).src) == ("uplink", rig.text(A))
