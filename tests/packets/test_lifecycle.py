"""A flow's life: pending, replied, closing; evicted halves; a pod's share."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from cubelet_hooks.flows import Flow, FlowFlag, FlowState, PortKey

from .conftest import MakeRig
from .rig import NODE, OUTSIDE, A, B, C, Rig, arrives, kept, tuple_of
from .shapes import Ends, Peer, Shape, Talk, direct, echo, hopped, tcp, udp

CLIENT, SERVER = Peer("a", A, 1000), Peer("b", B, 8080)
TALK = direct(CLIENT, SERVER)
PENDING, ESTABLISHED, CLOSING = FlowState.PENDING, FlowState.ESTABLISHED, FlowState.CLOSING


def both(rig: Rig, talk: Talk = TALK) -> tuple[Flow, Flow]:
    forward, reply = rig.flow(talk.first), rig.flow(talk.answer)
    assert forward is not None
    assert reply is not None
    return forward, reply


def states(rig: Rig, talk: Talk = TALK) -> set[tuple[int, int]]:
    """State and timeout of the two records; one element as long as they agree."""
    return {(flow.state, flow.timeout) for flow in both(rig, talk)}


@pytest.mark.parametrize("shape", [udp, echo])
def test_a_reply_alone_establishes_what_is_not_tcp(rig: Rig, shape: Shape) -> None:
    server = Peer("b", B, 0) if shape is echo else SERVER
    talk = direct(CLIENT, server, shape)
    talk.forward(rig)
    talk.forward(rig)
    assert states(rig, talk) == {(PENDING, 30)}
    assert not rig.table("flows")
    talk.back(rig)
    assert states(rig, talk) == {(ESTABLISHED, 30 if shape is echo else 180)}
    assert not rig.table("pending")


def test_tcp_is_established_by_the_clients_packet_after_the_answer(rig: Rig) -> None:
    for speak, flags in (
        (TALK.forward, "S"),
        (TALK.forward, "S"),
        (TALK.forward, "A"),
        (TALK.back, "SA"),
        (TALK.back, "SA"),
        (TALK.forward, "S"),
        (TALK.back, "A"),
    ):
        speak(rig, flags)
        assert states(rig) == {(PENDING, 30)}
    TALK.forward(rig, "A")
    assert states(rig) == {(ESTABLISHED, 8000)}
    assert not rig.table("pending")


def test_a_reset_does_not_establish(rig: Rig) -> None:
    """A half-open scan, or the answer of a host whose address was forged."""
    TALK.forward(rig, "S")
    TALK.back(rig, "SA")
    TALK.forward(rig, "R")
    assert states(rig) == {(PENDING, 30)}


def test_a_flood_of_first_packets_takes_no_room_from_replied_flows(fused: Rig) -> None:
    for number in range(1000):
        client = Peer("a", A, 2000 + number)
        for packet, port in (
            (tcp(client.to(SERVER, "S")), "a"),
            (tcp(SERVER.to(client, "SA", back=True)), "b"),
        ):
            assert fused.trial(bytes(fused.framed(packet, port)), port)[0] == "redirect"
    assert len(fused.table("pending")) == 2000
    assert not fused.table("flows")


def test_a_pending_flow_outlives_a_flood(make_rig: MakeRig) -> None:
    rig = make_rig(pending_flows=256)
    talk = direct(CLIENT, SERVER, udp)
    for number in range(1000):
        stranger = rig.framed(tcp(Peer("c", C, 2000 + number).to(SERVER, "S")), "c")
        assert rig.trial(bytes(stranger), "c")[0] == "redirect"
        if number % 20 == 0:
            talk.forward(rig)
    assert len(rig.table("pending")) <= 256
    talk.back(rig)
    assert states(rig, talk) == {(ESTABLISHED, 180)}


@pytest.mark.parametrize("lost", ["forward", "reply"])
def test_an_evicted_half_is_restored_from_the_other(rig: Rig, lost: str) -> None:
    rig.masquerade(A, "uplink", NODE, 20007, 1)
    away = Peer("uplink", OUTSIDE, 53)
    talk = replace(direct(CLIENT, away, tcp), seen=Peer("", NODE, 20007))
    talk.opened(rig)
    before = both(rig, talk)
    rig.forget(talk.first if lost == "forward" else talk.answer)
    if lost == "reply":
        talk.forward(rig, "S")
        talk.back(rig, "SA")
    else:
        talk.back(rig, "SA")
    after = both(rig, talk)
    assert [(f.to, f.enters, f.leaves) for f in after] == [
        (f.to, f.enters, f.leaves) for f in before
    ]
    talk.forward(rig, "A")
    assert states(rig, talk) == {(ESTABLISHED, 8000)}


@pytest.mark.parametrize("lost", ["forward", "reply"])
def test_a_lost_established_half_is_restored_within_a_second(rig: Rig, lost: str) -> None:
    TALK.established(rig)
    gone, left = (TALK.first, TALK.answer)[:: 1 if lost == "forward" else -1]
    rig.forget(gone)
    unseen(rig, left)
    (TALK.back if lost == "forward" else TALK.forward)(rig)
    assert states(rig) == {(ESTABLISHED, 8000)}
    assert not rig.table("pending")


def unseen(rig: Rig, packet: Packet) -> None:
    """As if the flow had been quiet for a while."""
    flow = rig.flow(packet)
    assert flow is not None
    old = replace(flow, last_seen=(flow.last_seen - 100_000) % (1 << 32))
    rig.dp.put("cubelet", "flows", tuple_of(packet), old)


def test_the_once_a_second_write_marks_both(rig: Rig) -> None:
    TALK.established(rig)
    seen = both(rig)[0].last_seen
    for packet in (TALK.first, TALK.answer):
        unseen(rig, packet)
    TALK.forward(rig)
    for flow in both(rig):
        # the other direction's is a second old at most, so that its own packet refreshes it
        assert 0 <= (flow.last_seen + rig.dp.hz - seen) % (1 << 32) < 10_000


def share(rig: Rig, pod: str) -> int:
    counts = rig.dp.table("cubelet", "flow_counts")
    held = counts.get(PortKey(ifindex=rig.ifindex(pod)))
    return held.count if held else 0


@pytest.fixture
def narrow(make_rig: MakeRig) -> Rig:
    """Two replied flows a pod."""
    return make_rig(flows_per_pod=2)


def test_beyond_its_share_a_pods_flows_stay_pending(narrow: Rig) -> None:
    talks = [direct(Peer("a", A, port), Peer("uplink", OUTSIDE, 53), udp) for port in (1, 2, 3)]
    for talk in talks:
        talk.whole(narrow)
    assert [states(narrow, talk) for talk in talks] == [
        {(ESTABLISHED, 180)},
        {(ESTABLISHED, 180)},
        {(PENDING, 30)},
    ]
    assert share(narrow, "a") == 2


@pytest.mark.parametrize("full", ["a", "b"])
def test_a_flow_that_stays_pending_takes_no_ones_share(narrow: Rig, full: str) -> None:
    for port in (1, 2):
        away = Peer("uplink", OUTSIDE, 53)
        direct(Peer(full, A if full == "a" else B, port), away, udp).established(narrow)
    direct(CLIENT, SERVER, udp).whole(narrow)
    assert {pod: share(narrow, pod) for pod in "ab"} == {"a": 0, "b": 0} | {full: 2}


def test_a_pod_that_reaches_itself_takes_its_share_once(narrow: Rig) -> None:
    narrow.masquerade(A, "pod", NODE)
    narrow.vip("10.96.0.9", 80, A, 80)
    sent = udp(Ends(A, 20001, "10.96.0.9", 80))
    arrives(narrow.send(sent), "a", hopped(udp(Ends(NODE, 20001, A, 80))))
    narrow.send(udp(Ends(A, 80, NODE, 20001)))
    assert {flow.state for flow in narrow.dp.flows().values()} == {ESTABLISHED}
    assert share(narrow, "a") == 1


def test_two_fins_close_both_records(rig: Rig) -> None:
    TALK.established(rig)
    TALK.forward(rig, "FA")
    assert states(rig) == {(ESTABLISHED, 8000)}
    TALK.forward(rig, "FA")
    assert states(rig) == {(ESTABLISHED, 8000)}
    TALK.back(rig, "A")
    TALK.back(rig, "FA")
    assert states(rig) == {(CLOSING, 10)}
    TALK.forward(rig, "A")
    assert states(rig) == {(CLOSING, 10)}


@pytest.mark.parametrize("side", ["forward", "back"])
def test_a_reset_closes_both_records(rig: Rig, side: str) -> None:
    TALK.established(rig)
    getattr(TALK, side)(rig, "R")
    assert states(rig) == {(CLOSING, 10)}


def test_a_fin_also_marks_a_half_that_it_restores(rig: Rig) -> None:
    TALK.established(rig)
    rig.forget(TALK.answer)
    TALK.forward(rig, "FA")
    assert all(flow.flags & FlowFlag.FIN_FORWARD for flow in both(rig))
    TALK.back(rig, "FA")
    assert states(rig) == {(CLOSING, 10)}


@pytest.mark.parametrize("flags", ["R", "FA"])
@pytest.mark.parametrize(
    ("ahead", "believed"), [(-60_000, True), (60_000_000, True), (-70_000, False), (1 << 31, False)]
)
def test_only_a_believable_sequence_closes(
    rig: Rig, flags: str, ahead: int, believed: bool
) -> None:
    TALK.established(rig)
    TALK.back(rig, "FA")
    packet = TALK.shape(CLIENT.to(SERVER, flags))
    packet[TCP].seq = (packet[TCP].seq + ahead) % (1 << 32)
    arrives(rig.send(packet), "b", hopped(packet))
    assert states(rig) == {(CLOSING, 10) if believed else (ESTABLISHED, 8000)}


def test_data_moves_no_state(rig: Rig) -> None:
    TALK.established(rig)
    flags = [flow.flags for flow in both(rig)]
    for _ in range(3):
        TALK.forward(rig, "PA")
        TALK.back(rig, "PA")
    assert [flow.flags for flow in both(rig)] == flags


def test_a_syn_on_a_closing_flow_opens_a_new_one(rig: Rig) -> None:
    TALK.established(rig)
    TALK.forward(rig, "R")
    TALK.forward(rig, "S")
    assert states(rig) == {(PENDING, 30)}
    assert [flow.packets for flow in both(rig)] == [1, 0]
    assert not rig.table("flows")
    TALK.back(rig, "SA")
    TALK.forward(rig, "A")
    assert states(rig) == {(ESTABLISHED, 8000)}


def test_a_new_flow_on_a_closing_one_is_judged(rig: Rig) -> None:
    TALK.established(rig)
    TALK.forward(rig, "R")
    rig.close_gate(A, B)
    kept(rig.send(TALK.first), "gate/closed")
    assert not rig.dp.flows()


def test_the_server_may_open_a_flow_where_one_is_closing(rig: Rig) -> None:
    TALK.established(rig)
    TALK.back(rig, "R")
    direct(SERVER, CLIENT).established(rig)
    assert states(rig) == {(ESTABLISHED, 8000)}
    assert both(rig)[0].flags & FlowFlag.REPLY


@pytest.mark.parametrize("flags", ["S", "SA"])
def test_no_syn_opens_a_flow_anew_that_is_not_closing(rig: Rig, flags: str) -> None:
    TALK.established(rig)
    rig.close_gate(A, B)
    TALK.forward(rig, flags)
    assert states(rig) == {(ESTABLISHED, 8000)}


def test_a_syn_ack_opens_nothing_on_a_closing_flow(rig: Rig) -> None:
    TALK.established(rig)
    TALK.forward(rig, "R")
    rig.close_gate(A, B)
    TALK.forward(rig, "SA")
    assert states(rig) == {(CLOSING, 10)}


@pytest.mark.parametrize("port", ["b", "c", "host"])
def test_a_syn_by_another_port_does_not_end_a_closing_flow(rig: Rig, port: str) -> None:
    TALK.established(rig)
    TALK.forward(rig, "R")
    kept(rig.send(TALK.first, port), "core/wrong_port")
    assert states(rig) == {(CLOSING, 10)}


def test_a_full_table_of_replied_flows_keeps_others_pending(make_rig: MakeRig) -> None:
    rig = make_rig(flows=4)
    talks = [direct(Peer("a", A, port), SERVER, udp) for port in (1, 2, 3)]
    for talk in talks:
        talk.whole(rig)
    assert [states(rig, talk) for talk in talks][2] == {(PENDING, 30)}
    assert len(rig.table("flows")) == 4
    assert share(rig, "a") == 2
