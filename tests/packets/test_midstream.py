"""TCP that is under way and has no record: refused; or read twice, while records were lost."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Packet

from cubelet_hooks.flows import FlowFlag

from .cubes import Way
from .rig import GATEWAY, NODE, OUTSIDE, REMOTE, VIP, A, B, C, Rig, arrives, ip_of, kept
from .shapes import Ends, Peer, Shape, direct, echo, hopped, tcp, through, udp

FAMILIES = (4, 6)

CLIENT, SERVER = Peer("a", A, 1000), Peer("b", B, 8080)
AWAY = Peer("uplink", OUTSIDE, 443)
TALK = direct(CLIENT, SERVER)
"""The peer is the client: what the tests send first comes from the server."""


@pytest.fixture
def lost(rig: Rig) -> Rig:
    """The agent has just made the tables anew."""
    rig.records_lost()
    return rig


def server_says(flags: str = "A", shape: Shape = tcp, peer: Peer = CLIENT) -> Packet:
    return shape(SERVER.to(peer, flags, back=True))


def directions(rig: Rig) -> dict[str, bool]:
    """Who sends a record's packets, and is it the reply's?"""
    return {str(key.src): bool(f.flags & FlowFlag.REPLY) for key, f in rig.dp.flows().items()}


def test_what_may_open_a_flow_is_its_first_packet(lost: Rig) -> None:
    lost.close_gate(A, B)
    TALK.back(lost, "PA")
    assert directions(lost) == {lost.text(B): False, lost.text(A): True}
    TALK.forward(lost)
    TALK.back(lost)
    assert len(lost.table("flows")) == 2


@pytest.mark.parametrize("flags", ["A", "PA", "FA", ""])
def test_what_may_only_reply_becomes_its_peers_reply(lost: Rig, flags: str) -> None:
    lost.close_gate(B, A)
    TALK.back(lost, flags)
    assert directions(lost) == {lost.text(A): False, lost.text(B): True}
    reply = lost.flow(TALK.answer)
    assert reply is not None
    assert (reply.packets, reply.flags & FlowFlag.TRANSLATED) == (1, 0)
    TALK.forward(lost)
    TALK.back(lost)
    TALK.forward(lost)
    TALK.back(lost)
    assert len(lost.table("flows")) == 2


@pytest.mark.parametrize("way", [Way.REFUSE, Way.REJECT])
def test_what_is_told_why_is_not_read_twice(lost: Rig, way: Way) -> None:
    lost.close_gate(B, A, way)
    result = lost.send(server_says(), "b")
    assert (result.reason, result.answered) == ("gate/closed", True)
    assert not lost.dp.flows()


def test_the_reply_reading_ages_with_its_peer(lost: Rig) -> None:
    lost.close_gate(B, A)
    TALK.back(lost)
    lost.age()
    TALK.back(lost)
    lost.close_gate(A, B)
    lost.age(A)
    for _ in range(2):
        kept(lost.send(server_says(), "b"), "gate/closed")


def test_a_peer_on_another_node(lost: Rig) -> None:
    client = Peer("overlay", REMOTE, 9)
    lost.close_gate(B, client.address)
    talk = direct(client, SERVER)
    talk.back(lost)
    talk.forward(lost)
    talk.back(lost)


@pytest.mark.parametrize("client", [AWAY, Peer("host", GATEWAY, 9)], ids=["uplink", "host"])
def test_nothing_is_read_as_a_reply_to_outsiders_or_the_host(lost: Rig, client: Peer) -> None:
    lost.close_gate(B, client.address)
    kept(lost.send(server_says("PA", peer=client), "b"), "gate/closed")
    assert not lost.dp.flows()


@pytest.mark.parametrize("flags", ["A", "PA", "FA", "F", "FPU", "", "SF"])
@pytest.mark.parametrize("dst", [A, REMOTE, OUTSIDE, GATEWAY, VIP])
def test_a_segment_that_no_record_knows_opens_nothing_and_is_refused(
    rig: Rig, flags: str, dst: str
) -> None:
    """Read as its peer's reply it would pass by every policy. The sender need not wait."""
    rig.vip(VIP, 80, A, 80)
    result = rig.send(tcp(Ends(B, 8080, dst, 80, flags), b"payload"), "b")
    assert (result.verdict, result.reason) == (
        "drop" if "S" in flags else "redirect",
        "core/no_flow",
    )
    assert result.answered is ("S" not in flags)
    assert not rig.dp.flows()
    if result.answered:
        answer = result.packet[TCP]
        assert (answer.flags, ip_of(result.packet).dst) == (
            "R" if "A" in flags else "RA",
            rig.text(B),
        )


@pytest.mark.parametrize("port", ["uplink", "overlay"])
def test_nor_does_one_from_elsewhere(rig: Rig, port: str) -> None:
    sender = OUTSIDE if port == "uplink" else REMOTE
    result = rig.send(tcp(Ends(sender, 80, A, 1000, "PA"), b"payload"), port)
    assert (result.reason, result.leaves) == ("core/no_flow", None)
    assert not rig.dp.flows()


@pytest.mark.parametrize("client", [AWAY, Peer("host", GATEWAY, 9)], ids=["uplink", "host"])
def test_what_is_under_way_to_outsiders_or_the_host_never_opens(lost: Rig, client: Peer) -> None:
    result = lost.send(server_says("PA", peer=client), "b")
    assert (result.reason, result.leaves) == ("core/no_flow", None)
    assert not lost.dp.flows()


def test_the_window_ends(rig: Rig) -> None:
    rig.records_lost(-1)
    assert rig.send(server_says("PA"), "b").reason == "core/no_flow"
    assert not rig.dp.flows()


@pytest.mark.parametrize("second", [Way.DROP, Way.REFUSE])
def test_denied_both_ways_it_is_dropped(lost: Rig, second: Way) -> None:
    lost.close_gate(B, A, Way.DROP)
    lost.close_gate(A, B, second)
    result = lost.send(server_says(), "b")
    kept(result, "gate/closed")
    assert not result.answered
    assert not lost.dp.flows()


def test_the_first_reason_is_told(lost: Rig) -> None:
    """The second reading ends for want of a path to the peer."""
    nowhere = Peer("", "192.0.2.99", 80)
    lost.close_gate(B, nowhere.address)
    kept(lost.send(server_says(peer=nowhere), "b"), "gate/closed")


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
def test_only_tcp_under_way_is_read_twice(lost: Rig, shape: Shape, flags: str, reason: str) -> None:
    lost.close_gate(B, A)
    kept(lost.send(server_says(flags, shape), "b"), reason)
    assert not lost.dp.flows()


@pytest.mark.parametrize("denied", [(A, B), (B, A)])
def test_a_record_made_by_the_second_reading_lets_no_syn_through(
    lost: Rig, denied: tuple[str, str]
) -> None:
    """A bare acknowledgement may pass as the peer's reply; what it leaves opens nothing."""
    speaker, port = (A, "a") if denied == (A, B) else (B, "b")
    ends = Ends(A, 1000, B, 8080) if speaker == A else Ends(B, 8080, A, 1000)
    lost.close_gate(*denied)
    for flags in ("S", "A", "S", "S"):
        result = lost.send(tcp(replace(ends, flags=flags)), port)
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
    lost: Rig, backend: str, port: int
) -> None:
    """What the peer sent would have been translated, so its replies have to be, too."""
    lost.close_gate(B, A)
    lost.vip(B, 8080, backend, port)
    kept(lost.send(server_says(), "b"), "gate/closed")
    assert not lost.dp.flows()


@pytest.mark.parametrize("source", [NODE, A])
def test_no_reply_passes_whose_flow_would_have_another_source(lost: Rig, source: str) -> None:
    lost.close_gate(B, A)
    lost.masquerade(A, "pod", source)
    kept(lost.send(server_says(), "b"), "gate/closed")
    assert not lost.dp.flows()


def test_no_reply_passes_from_where_its_flow_would_not_lead(lost: Rig) -> None:
    """The address answers, but packets to it would go to another port."""
    lost.close_gate(B, A)
    lost.path(B, "c")
    kept(lost.send(server_says(), "b"), "gate/closed")
    assert not lost.dp.flows()


def test_a_forger_is_read_but_once(lost: Rig) -> None:
    kept(lost.send(tcp(Ends(C, 1, A, 2, "A")), "b"), "core/spoofed")


def test_a_mid_stream_packet_that_opens_is_translated_like_any(lost: Rig) -> None:
    lost.vip(VIP, 80, B, 8080)
    sent, wanted = tcp(Ends(A, 5, VIP, 80, "PA")), tcp(Ends(A, 5, B, 8080, "PA"))
    arrives(lost.send(sent), "b", hopped(wanted))


def test_what_expires_as_a_reply_is_told_so(lost: Rig) -> None:
    lost.close_gate(B, A)
    packet = tcp(SERVER.to(CLIENT, "A", back=True))
    packet.ttl = 1
    result = lost.send(packet, "b")
    assert (result.reason, result.answered) == ("core/ttl", True)
    assert not lost.dp.flows()
