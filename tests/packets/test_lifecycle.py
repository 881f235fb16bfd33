"""A flow's life: pending, replied, closing; evicted halves; a pod's share."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from cubelet.bpf.layout import possible_cpus
from cubelet_hooks.flows import (
    SHARE_HASH,
    SHARE_TOTAL,
    Flow,
    FlowFlag,
    FlowState,
    Hop,
    PortClass,
    share_slot,
)

from .conftest import MakeRig
from .rig import NODE, OUTSIDE, REMOTE, A, B, C, Rig, arrives, kept
from .shapes import Peer, Shape, Talk, direct, echo, hopped, tcp, udp

FAMILIES = (4, 6)

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


@pytest.mark.parametrize("further", ["question", "answer"])
@pytest.mark.parametrize("shape", [udp, echo])
def test_the_packet_after_the_reply_establishes_what_is_not_tcp(
    rig: Rig, shape: Shape, further: str
) -> None:
    server = Peer("b", B, 0) if shape is echo else SERVER
    talk = direct(CLIENT, server, shape)
    talk.forward(rig)
    talk.forward(rig)
    assert states(rig, talk) == {(PENDING, 30)}
    assert not rig.table("flows")
    talk.back(rig)
    assert states(rig, talk) == {(PENDING, 30)}, "a question and its answer are soon forgotten"
    (talk.forward if further == "question" else talk.back)(rig)
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
        assert states(rig) == {(PENDING, 10)}
    TALK.forward(rig, "A")
    assert states(rig) == {(ESTABLISHED, 86_400)}
    assert not rig.table("pending")


def test_a_reset_does_not_establish(rig: Rig) -> None:
    """A half-open scan, or the answer of a host whose address was forged."""
    TALK.forward(rig, "S")
    TALK.back(rig, "SA")
    TALK.forward(rig, "R")
    assert states(rig) == {(PENDING, 10)}


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
    talk.forward(rig)
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
    assert states(rig, talk) == {(ESTABLISHED, 86_400)}


@pytest.mark.parametrize("lost", ["forward", "reply"])
def test_a_lost_established_half_is_restored_within_a_second(rig: Rig, lost: str) -> None:
    TALK.established(rig)
    gone, left = (TALK.first, TALK.answer)[:: 1 if lost == "forward" else -1]
    rig.forget(gone)
    unseen(rig, left)
    (TALK.back if lost == "forward" else TALK.forward)(rig)
    assert states(rig) == {(ESTABLISHED, 86_400)}
    assert not rig.table("pending")


def unseen(rig: Rig, packet: Packet) -> None:
    """As if the flow had been quiet for a while."""
    flow = rig.flow(packet)
    assert flow is not None
    old = replace(flow, last_seen=(flow.last_seen - 100_000) % (1 << 32))
    rig.dp.put("cubelet", "flows", rig.key(packet), old)


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
    mac = "02:00:00:00:00:01"
    return rig.held(share_slot(Hop(rig.ifindex(pod), 0, mac, mac, 1500, PortClass.POD)))


def away(pod: str, number: int) -> Talk:
    address = {"a": A, "b": B, "c": C}[pod]
    return direct(Peer(pod, address, number), Peer("uplink", OUTSIDE, 53), udp)


@pytest.fixture
def narrow(make_rig: MakeRig) -> Rig:
    """Seven replied flows at a time, and one that closes on each of the CPUs."""
    return make_rig(flows=2 * (7 + possible_cpus()))


def test_whoever_opens_a_flow_is_charged(rig: Rig) -> None:
    TALK.established(rig)
    assert (share(rig, "a"), share(rig, "b"), rig.held(SHARE_TOTAL)) == (1, 0, 1)
    direct(Peer("uplink", OUTSIDE, 99), SERVER).established(rig)
    assert (share(rig, "b"), rig.held(2 * SHARE_HASH + PortClass.UPLINK)) == (0, 1)
    direct(Peer("overlay", REMOTE, 99), SERVER).established(rig)
    assert (share(rig, "b"), rig.held(SHARE_TOTAL)) == (0, 3)


def test_an_owner_holds_as_much_as_is_free_and_others_find_room(narrow: Rig) -> None:
    greedy = [away("a", port) for port in range(1, 7)]
    for talk in greedy:
        talk.whole(narrow)
    assert [flow.state for talk in greedy for flow in both(narrow, talk)[:1]] == [
        *4 * [ESTABLISHED],
        *2 * [PENDING],
    ]
    other = away("b", 1).established(narrow)
    assert states(narrow, other) == {(ESTABLISHED, 180)}
    assert (share(narrow, "a"), share(narrow, "b")) == (4, 1)


def test_a_servers_clients_use_their_own_shares(narrow: Rig) -> None:
    """What many ask of a pod never keeps it from asking others."""
    for port in range(1, 7):
        direct(Peer("uplink", OUTSIDE, port), Peer("b", B, 53), udp).established(narrow)
    assert states(narrow, away("b", 1).established(narrow)) == {(ESTABLISHED, 180)}


def test_what_closes_gives_back_its_share_at_once(narrow: Rig) -> None:
    for port in range(1, 30):
        talk = direct(Peer("a", A, port), SERVER).established(narrow)
        assert states(narrow, talk) == {(ESTABLISHED, 86_400)}
        talk.forward(narrow, "FA")
        talk.back(narrow, "FA")
        assert states(narrow, talk) == {(CLOSING, 10)}
        assert (share(narrow, "a"), narrow.held(SHARE_TOTAL)) == (0, 0)
    assert len(narrow.table("flows")) <= 2 * possible_cpus(), "without any sweep"


def test_a_flow_that_is_opened_anew_counts_once(rig: Rig) -> None:
    for _ in range(3):
        TALK.established(rig)
        TALK.forward(rig, "R")
        assert share(rig, "a") == 0
    TALK.established(rig)
    assert (share(rig, "a"), rig.held(SHARE_TOTAL)) == (1, 1)


def test_two_fins_close_both_records(rig: Rig) -> None:
    TALK.established(rig)
    TALK.forward(rig, "FA")
    assert states(rig) == {(ESTABLISHED, 86_400)}
    TALK.forward(rig, "FA")
    assert states(rig) == {(ESTABLISHED, 86_400)}
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
    last = TALK.shape(SERVER.to(CLIENT, "FA", back=True))
    last[TCP].seq += 1  # as the client has acknowledged it
    rig.send(last, "b")
    assert states(rig) == {(CLOSING, 10)}


@pytest.mark.parametrize("flags", ["R", "FA"])
@pytest.mark.parametrize(
    ("ahead", "believed"),
    [(0, True), (50, True), (-1, False), (200, False), (60_000, False), (1 << 31, False)],
)
def test_only_a_believable_sequence_closes(
    rig: Rig, flags: str, ahead: int, believed: bool
) -> None:
    TALK.established(rig)
    TALK.back(rig, "FA")
    packet = TALK.shape(CLIENT.to(SERVER, flags))
    packet[TCP].seq = (packet[TCP].seq + ahead) % (1 << 32)
    arrives(rig.send(packet), "b", hopped(packet))
    assert states(rig) == {(CLOSING, 10) if believed else (ESTABLISHED, 86_400)}


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
    assert states(rig) == {(PENDING, 10)}
    assert [flow.packets for flow in both(rig)] == [1, 0]
    assert not rig.table("flows")
    TALK.back(rig, "SA")
    TALK.forward(rig, "A")
    assert states(rig) == {(ESTABLISHED, 86_400)}


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
    assert states(rig) == {(ESTABLISHED, 86_400)}
    assert both(rig)[0].flags & FlowFlag.REPLY


@pytest.mark.parametrize("flags", ["S", "SA"])
def test_no_syn_opens_a_flow_anew_that_is_not_closing(rig: Rig, flags: str) -> None:
    TALK.established(rig)
    rig.close_gate(A, B)
    TALK.forward(rig, flags)
    assert states(rig) == {(ESTABLISHED, 86_400)}


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


def test_a_syn_against_a_live_connection_reaches_nobody(rig: Rig) -> None:
    """No policy has judged it; and forged, it must not end anything (RFC 5961)."""
    TALK.established(rig)
    kept(rig.send(tcp(SERVER.to(CLIENT, "S")), "b"), "core/live_flow")
    assert states(rig) == {(ESTABLISHED, 86_400)}
    TALK.back(rig)


def test_nor_against_one_that_is_over_its_owners_share(narrow: Rig) -> None:
    for port in range(1, 5):
        direct(Peer("a", A, port), SERVER).established(narrow)
    talk = direct(Peer("a", A, 9), SERVER).established(narrow)
    assert {state for state, _ in states(narrow, talk)} == {PENDING}
    kept(narrow.send(tcp(SERVER.to(talk.client, "S")), "b"), "core/live_flow")
    talk.back(narrow)


@pytest.mark.parametrize("ended", [False, True], ids=["open", "closing"])
def test_nor_against_one_whose_record_for_replies_was_lost(rig: Rig, ended: bool) -> None:
    TALK.established(rig)
    if ended:
        TALK.forward(rig, "R")
    rig.forget(TALK.answer)
    against = direct(SERVER, CLIENT)
    if not ended:
        kept(rig.send(against.first, "b"), "core/live_flow")
        TALK.forward(rig)
        return
    against.whole(rig)
    assert states(rig, against) == {(ESTABLISHED, 86_400)}


def test_many_forged_resets_end_nothing(rig: Rig) -> None:
    TALK.established(rig)
    for number in range(200):
        packet = TALK.shape(SERVER.to(CLIENT, "R", back=True))
        packet[TCP].seq = (packet[TCP].seq + 1_000 + number * 20_000_003) % (1 << 32)
        arrives(rig.send(packet, "b"), "a", hopped(packet))
    assert states(rig) == {(ESTABLISHED, 86_400)}


def test_forged_data_does_not_move_what_is_believed(rig: Rig) -> None:
    """Else a forger could first lead the numbers away and then end the connection."""
    TALK.established(rig)
    unseen(rig, TALK.answer)
    forged = tcp(SERVER.to(CLIENT, "PA", back=True), b"x")
    forged[TCP].seq = (forged[TCP].seq + (1 << 29)) % (1 << 32)
    rig.send(forged, "b")
    reset = tcp(SERVER.to(CLIENT, "R", back=True))
    reset[TCP].seq = (reset[TCP].seq + (1 << 29) - 5) % (1 << 32)
    rig.send(reset, "b")
    assert states(rig) == {(ESTABLISHED, 86_400)}
    TALK.back(rig, "R")
    assert states(rig) == {(CLOSING, 10)}


def test_data_of_both_sides_undoes_a_believed_close(rig: Rig) -> None:
    TALK.established(rig)
    TALK.forward(rig, "R")
    assert states(rig) == {(CLOSING, 10)}
    for packet in (TALK.first, TALK.answer):
        unseen(rig, packet)
    for _ in range(2):
        rig.send(tcp(SERVER.to(CLIENT, "PA", back=True), b"data"), "b")
        assert states(rig) == {(CLOSING, 10)}
    rig.send(tcp(CLIENT.to(SERVER, "PA"), b"data"))
    assert states(rig) == {(ESTABLISHED, 86_400)}
    assert share(rig, "a") == 1
    assert not both(rig)[0].flags & (FlowFlag.FIN_FORWARD | FlowFlag.ALIVE_FORWARD)
