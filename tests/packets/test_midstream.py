"""TCP that is under way and has no record: one reading, or the other, or none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from cubelet_hooks.flows import FlowFlag

from .cubes import Way
from .rig import NODE, OUTSIDE, REMOTE, VIP, A, B, C, Rig, arrives, kept
from .shapes import Ends, Peer, Shape, direct, echo, hopped, tcp, through, udp

CLIENT, SERVER = Peer("a", A, 1000), Peer("b", B, 8080)
AWAY = Peer("uplink", OUTSIDE, 443)
TALK = direct(CLIENT, SERVER)
"""The peer is the client: what the tests send first comes from the server."""


def server_says(flags: str = "A", shape: Shape = tcp, peer: Peer = CLIENT) -> Packet:
    return shape(SERVER.to(peer, flags, back=True))


def directions(rig: Rig) -> dict[str, bool]:
    """Who sends a record's packets, and is it the reply's?"""
    return {str(key.src): bool(f.flags & FlowFlag.REPLY) for key, f in rig.dp.flows().items()}


def test_what_may_open_a_flow_is_its_first_packet(rig: Rig) -> None:
    rig.close_gate(A, B)
    TALK.back(rig, "PA")
    assert directions(rig) == {B: False, A: True}
    TALK.forward(rig)
    TALK.back(rig)
    assert len(rig.table("flows")) == 2


@pytest.mark.parametrize("flags", ["A", "PA", "FA", ""])
def test_what_may_only_reply_becomes_its_peers_reply(rig: Rig, flags: str) -> None:
    rig.close_gate(B, A)
    TALK.back(rig, flags)
    assert directions(rig) == {A: False, B: True}
    reply = rig.flow(TALK.answer)
    assert reply is not None
    assert (reply.packets, reply.flags & FlowFlag.TRANSLATED) == (1, 0)
    TALK.forward(rig)
    TALK.back(rig)
    TALK.forward(rig)
    TALK.back(rig)
    assert len(rig.table("flows")) == 2


@pytest.mark.parametrize("way", [Way.REFUSE, Way.REJECT])
def test_what_is_told_why_is_not_read_twice(rig: Rig, way: Way) -> None:
    rig.close_gate(B, A, way)
    result = rig.send(server_says(), "b")
    assert (result.reason, result.answered) == ("gate/closed", True)
    assert not rig.dp.flows()


def test_the_reply_reading_ages_with_its_peer(rig: Rig) -> None:
    rig.close_gate(B, A)
    TALK.back(rig)
    rig.age()
    TALK.back(rig)
    rig.close_gate(A, B)
    rig.age(A)
    for _ in range(2):
        kept(rig.send(server_says(), "b"), "gate/closed")


@pytest.mark.parametrize("client", [AWAY, Peer("overlay", REMOTE, 9)], ids=["uplink", "overlay"])
def test_a_peer_beyond_the_node(rig: Rig, client: Peer) -> None:
    rig.close_gate(B, client.address)
    talk = direct(client, SERVER)
    talk.back(rig)
    talk.forward(rig)
    talk.back(rig)


@pytest.mark.parametrize("second", [Way.DROP, Way.REFUSE])
def test_denied_both_ways_it_is_dropped(rig: Rig, second: Way) -> None:
    rig.close_gate(B, A, Way.DROP)
    rig.close_gate(A, B, second)
    result = rig.send(server_says(), "b")
    kept(result, "gate/closed")
    assert not result.answered
    assert not rig.dp.flows()


def test_the_first_reason_is_told(rig: Rig) -> None:
    """The second reading ends for want of a path to the peer."""
    nowhere = Peer("", "192.0.2.99", 80)
    rig.close_gate(B, nowhere.address)
    kept(rig.send(server_says(peer=nowhere), "b"), "gate/closed")


@pytest.mark.parametrize(
    ("shape", "flags", "reason"),
    [
        (tcp, "S", "gate/closed"),
        (tcp, "SA", "core/no_flow"),
        (tcp, "R", "core/no_flow"),
        (udp, "", "gate/closed"),
        (echo, "", "gate/closed"),
    ],
)
def test_only_tcp_under_way_is_read_twice(rig: Rig, shape: Shape, flags: str, reason: str) -> None:
    rig.close_gate(B, A)
    kept(rig.send(server_says(flags, shape), "b"), reason)
    assert not rig.dp.flows()


@pytest.mark.parametrize("denied", [(A, B), (B, A)])
def test_a_record_made_by_the_second_reading_lets_no_syn_through(
    rig: Rig, denied: tuple[str, str]
) -> None:
    """A bare acknowledgement may pass as the peer's reply; what it leaves opens nothing."""
    speaker, port = (A, "a") if denied == (A, B) else (B, "b")
    ends = Ends(A, 1000, B, 8080) if speaker == A else Ends(B, 8080, A, 1000)
    rig.close_gate(*denied)
    for flags in ("S", "A", "S", "S"):
        result = rig.send(tcp(replace(ends, flags=flags)), port)
        if flags == "S":
            kept(result, "gate/closed")


def test_a_syn_ack_whose_record_was_evicted_opens_no_flow(rig: Rig) -> None:
    """The client's retransmission restores the record, and with it the translation."""
    rig.vip(VIP, 80, B, 8080)
    talk = through(direct(Peer("a", A, 1000), Peer("b", B, 8080)), Peer("b", VIP, 80))
    talk.forward(rig, "S")
    rig.forget(talk.answer)
    kept(rig.send(talk.answer, "b"), "core/no_flow")
    talk.forward(rig, "S")
    talk.back(rig, "SA")
    talk.forward(rig, "A")


@pytest.mark.parametrize("sequence", [1, -1, 1 << 20])
def test_an_acknowledgement_that_proves_nothing_establishes_nothing(
    rig: Rig, sequence: int
) -> None:
    """Who forges an address cannot know what the answer's number is."""
    talk = direct(Peer("a", A, 1000), Peer("b", B, 8080))
    talk.forward(rig, "S")
    talk.back(rig, "SA")
    forged = tcp(Ends(A, 1000, B, 8080, "A"))
    forged[TCP].ack += sequence
    rig.send(forged)
    assert not rig.table("flows")
    talk.forward(rig, "A")
    assert len(rig.table("flows")) == 2


@pytest.mark.parametrize(("backend", "port"), [(C, 8080), (B, 9090)])
def test_no_reply_passes_whose_flow_would_have_another_destination(
    rig: Rig, backend: str, port: int
) -> None:
    """What the peer sent would have been translated, so its replies have to be, too."""
    rig.close_gate(B, A)
    rig.vip(B, 8080, backend, port)
    kept(rig.send(server_says(), "b"), "gate/closed")
    assert not rig.dp.flows()


@pytest.mark.parametrize("source", [NODE, A])
def test_no_reply_passes_whose_flow_would_have_another_source(rig: Rig, source: str) -> None:
    rig.close_gate(B, A)
    rig.masquerade(A, "pod", source)
    kept(rig.send(server_says(), "b"), "gate/closed")
    assert not rig.dp.flows()


def test_no_reply_passes_from_where_its_flow_would_not_lead(rig: Rig) -> None:
    """The address answers, but packets to it would go to another port."""
    rig.close_gate(B, A)
    rig.path(B, "c")
    kept(rig.send(server_says(), "b"), "gate/closed")
    assert not rig.dp.flows()


def test_a_forger_is_read_but_once(rig: Rig) -> None:
    kept(rig.send(tcp(Ends(C, 1, A, 2, "A")), "b"), "core/spoofed")


def test_a_mid_stream_packet_that_opens_is_translated_like_any(rig: Rig) -> None:
    rig.vip(VIP, 80, B, 8080)
    sent, wanted = tcp(Ends(A, 5, VIP, 80, "PA")), tcp(Ends(A, 5, B, 8080, "PA"))
    arrives(rig.send(sent), "b", hopped(wanted))


def test_what_expires_as_a_reply_is_told_so(rig: Rig) -> None:
    rig.close_gate(B, A)
    packet = tcp(SERVER.to(CLIENT, "A", back=True))
    packet.ttl = 1
    result = rig.send(packet, "b")
    assert (result.reason, result.answered) == ("core/ttl", True)
    assert not rig.dp.flows()
