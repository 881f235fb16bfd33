"""Errors of our own: what they say and quote, to whom, and when there are none."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.testkit import Result
from cubelet.testkit.samples import ROUTER_MAC

from .conftest import MakeRig
from .cubes import Way
from .rig import GATEWAY, NODE, OUTSIDE, VIP, A, B, C, Rig, arrives, kept, mac_of, same
from .shapes import SHAPES, Ends, Peer, Shape, direct, hopped, tcp, through, udp

CLIENT, SERVER, SERVICE = Peer("a", A, 1000), Peer("b", B, 8080), Peer("", VIP, 80)
AWAY = Peer("uplink", OUTSIDE, 443)
QUOTED = 511
"""The most that is quoted, in bytes of the packet."""


def answered(result: Result, reason: str, sent: Packet, wanted: Packet, port: str = "a") -> None:
    """It went back to its sender as these bytes."""
    assert (result.verdict, result.answered, result.reason) == ("redirect", True, reason)
    ether = result.packet[Ether]
    assert (ether.dst, ether.src) == (mac_of(port), ROUTER_MAC)
    same(result.packet[IP], wanted)
    assert result.packet[IP].dst == sent[IP].src


def error(source: str, about: Packet, kind: int, code: int, mtu: int = 0) -> Packet:
    """As we send it: the don't-fragment bit, a TTL of 64, and the quote."""
    message = ICMP(type=kind, code=code)
    if mtu:
        message.nexthopmtu = mtu
    quote = Raw(bytes(about)[:QUOTED])
    return IP(src=source, dst=about[IP].src, flags="DF", id=0) / message / quote


def expiring(shape: Shape, ends: Ends) -> Packet:
    packet = shape(ends)
    packet.ttl = 1
    return packet


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_time_exceeded_quotes_what_was_sent(rig: Rig, shape: Shape) -> None:
    sent = expiring(shape, CLIENT.to(SERVER, "S"))
    wanted = error(GATEWAY, sent, 11, 0)
    answered(rig.send(sent), "core/ttl", sent, wanted)


@pytest.mark.parametrize("length", [0, 1, 470, 482, 483, 484, 485, 1000])
def test_how_much_is_quoted(fused: Rig, length: int) -> None:
    sent = expiring(lambda ends: udp(ends, bytes(length)), CLIENT.to(SERVER))
    wanted = error(GATEWAY, sent, 11, 0)
    answered(fused.send(sent), "core/ttl", sent, wanted)


def test_padding_of_the_frame_is_not_quoted(fused: Rig) -> None:
    sent = expiring(lambda ends: udp(ends, b"x"), CLIENT.to(SERVER))
    frame = fused.framed(IP(bytes(sent)), "a") / Raw(b"trailer of the link")
    answered(fused.send(frame), "core/ttl", sent, error(GATEWAY, sent, 11, 0))


@pytest.mark.parametrize("side", ["forward", "back"])
@pytest.mark.parametrize("replied", [False, True])
def test_a_translated_flows_packets_are_quoted_as_sent(rig: Rig, side: str, replied: bool) -> None:
    rig.vip(VIP, 80, OUTSIDE, 443)
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    talk = replace(through(direct(CLIENT, AWAY), SERVICE), seen=Peer("", NODE, 20001))
    talk.opened(rig)
    if replied:
        talk.established(rig)
    sent = talk.first if side == "forward" else talk.answer
    sent.ttl = 1
    port, source = ("a", GATEWAY) if side == "forward" else ("uplink", NODE)
    answered(rig.send(sent, port), "core/ttl", sent, error(source, sent, 11, 0), port)
    talk.forward(rig)


@pytest.mark.parametrize("port", ["a", "host", "overlay", "uplink"])
def test_who_speaks_is_the_router_where_the_packet_entered(rig: Rig, port: str) -> None:
    source = {"a": A, "host": NODE, "overlay": "10.1.7.7", "uplink": OUTSIDE}[port]
    sent = expiring(udp, Ends(source, 1, B, 2))
    wanted = error(NODE if port == "uplink" else GATEWAY, sent, 11, 0)
    result = rig.send(sent, port)
    answered(result, "core/ttl", sent, wanted, port)


def test_established_packets_expire_too(rig: Rig) -> None:
    talk = direct(CLIENT, SERVER).established(rig)
    before = rig.dp.flows()
    sent = expiring(tcp, CLIENT.to(SERVER))
    answered(rig.send(sent), "core/ttl", sent, error(GATEWAY, sent, 11, 0))
    assert rig.dp.flows().keys() == before.keys()
    talk.forward(rig)


@pytest.mark.parametrize("ttl", [0, 1])
def test_a_bridged_packet_does_not_expire(fused: Rig, ttl: int) -> None:
    fused.path(B, "b", routed=False)
    sent = udp(CLIENT.to(SERVER))
    sent.ttl = ttl
    arrives(fused.send(sent), "b", sent)


@pytest.mark.parametrize("replied", [False, True], ids=["first packet", "established"])
@pytest.mark.parametrize("size", [1000, 1001])
@pytest.mark.parametrize("flags", ["", "DF"])
def test_size(rig: Rig, replied: bool, size: int, flags: str) -> None:
    rig.path(B, "b", mtu=1000)
    if replied:
        direct(CLIENT, SERVER, udp).established(rig)
    sent = udp(CLIENT.to(SERVER), bytes(size - 28))
    sent.flags = flags
    result = rig.send(sent)
    if size > 1000:  # nothing fragments on the way to a pod, so the sender must know
        answered(result, "core/too_big", sent, error(GATEWAY, sent, 3, 4, 1000))
    else:
        arrives(result, "b", hopped(sent))


def test_the_way_back_has_a_size_of_its_own(rig: Rig) -> None:
    talk = direct(CLIENT, Peer("overlay", "10.1.7.7", 53), udp).established(rig)
    big = Ends(A, 1000, "10.1.7.7", 53), Ends("10.1.7.7", 53, A, 1000)
    for ends, port, leaves in ((big[0], "a", "overlay"), (big[1], "overlay", "a")):
        sent = udp(ends, bytes(1460 - 28))
        sent.flags = "DF"
        result = rig.send(sent, port)
        if port == "a":
            answered(result, "core/too_big", sent, error(GATEWAY, sent, 3, 4, 1450))
        else:
            arrives(result, leaves, hopped(sent))
    talk.forward(rig)


@pytest.mark.parametrize("replied", [False, True], ids=["first packet", "established"])
@pytest.mark.parametrize(("segment", "fits"), [(960, True), (961, False)])
def test_of_a_packet_to_be_segmented_a_segment_must_fit(
    rig: Rig, replied: bool, segment: int, fits: bool
) -> None:
    """20 bytes of IP, 20 of TCP, and the segment."""
    rig.path(B, "b", mtu=1000)
    rig.records_lost()
    talk = direct(CLIENT, SERVER)
    if replied:
        talk.established(rig)
    sent = tcp(CLIENT.to(SERVER), bytes(3000))
    sent.flags = "DF"
    result = rig.send(sent, gso_size=segment)
    if fits:
        arrives(result, "b", hopped(sent))
    else:
        assert (result.reason, result.answered) == ("core/too_big", True)
        assert result.packet[ICMP].nexthopmtu == 1000


def is_silent(rig: Rig, packet: Packet, port: str = "a", reason: str = "core/ttl") -> None:
    kept(rig.send(packet, port), reason)


@pytest.mark.parametrize("kind", [3, 4, 5, 11, 12])
def test_never_about_an_error(rig: Rig, kind: int) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(rig)
    quote = Raw(bytes(hopped(talk.first)))
    # source quench and redirect are not carried at all
    reason = "core/unrelated" if kind in {4, 5} else "core/ttl"
    is_silent(rig, IP(src=B, dst=A, ttl=1) / ICMP(type=kind) / quote, "b", reason)


@pytest.mark.parametrize("address", ["224.0.0.1", "239.1.1.1", "255.255.255.255", "240.0.0.1"])
def test_never_about_what_was_sent_to_a_group(rig: Rig, address: str) -> None:
    rig.path(address, "b")
    is_silent(rig, expiring(udp, Ends(A, 1, address, 2)))


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"])
def test_never_to_an_address_that_is_no_hosts(rig: Rig, address: str) -> None:
    is_silent(rig, expiring(udp, Ends(address, 1, B, 2)), "overlay")


def test_to_a_group_of_the_link_the_router_answers_as_itself(fused: Rig) -> None:
    sent = expiring(udp, CLIENT.to(SERVER))
    frame = Ether(src=mac_of("a"), dst="ff:ff:ff:ff:ff:ff") / sent
    answered(fused.send(frame), "core/ttl", sent, error(GATEWAY, sent, 11, 0))


def test_the_rate_is_limited(make_rig: MakeRig) -> None:
    rig = make_rig()
    limited = next(n for n, r in rig.dp.reasons.items() if r.name == "rate_limited")
    before = dropped(rig, limited)
    sent = expiring(udp, CLIENT.to(SERVER))
    results = [rig.send(sent) for _ in range(130)]
    told = sum(result.answered for result in results)
    assert 100 <= told < 130  # at most one second's end lies between
    assert {result.reason for result in results} == {"core/ttl"}
    assert dropped(rig, limited) - before == 130 - told


def flooded(rig: Rig, packet: Packet, port: str = "a", count: int = 250) -> int:
    """Of so many packets that cause errors, how many did; two seconds' ends may lie between."""
    return sum(rig.send(packet, port).answered for _ in range(count))


SOURCES = {"a": A, "b": B, "host": NODE, "overlay": "10.1.7.7", "uplink": OUTSIDE}


@pytest.mark.parametrize("noisy", ["a", "host", "overlay", "uplink"])
def test_who_uses_up_errors_silences_nobody_else(make_rig: MakeRig, noisy: str) -> None:
    rig = make_rig(errors_per_second=3)
    assert flooded(rig, expiring(udp, Ends(SOURCES[noisy], 1, C, 2)), noisy) < 100
    for port, source in SOURCES.items():
        if port != noisy:
            assert rig.send(expiring(udp, Ends(source, 1, C, 2)), port).answered, port
            rig.close_gate(source, C, Way.REFUSE)
            assert rig.send(tcp(Ends(source, 1, C, 3, "S")), port).answered, port


def test_refusals_do_not_use_up_what_tells_the_paths_mtu(make_rig: MakeRig) -> None:
    rig = make_rig(errors_per_second=3, path_mtu_errors_per_second=4)
    rig.path(B, "b", mtu=1000)
    big = udp(CLIENT.to(SERVER), bytes(1200))
    big.flags = "DF"
    flooded(rig, expiring(udp, CLIENT.to(Peer("c", C, 1))))
    assert rig.send(big).answered
    assert rig.send(udp(Ends(A, 1, B, 2), bytes(1300))).answered
    rig.forgive()
    # nor the other way round
    assert 4 <= flooded(rig, big) < 100
    assert rig.send(expiring(udp, CLIENT.to(Peer("c", C, 1)))).answered


def test_all_ports_together_have_a_ceiling(make_rig: MakeRig) -> None:
    rig = make_rig(errors_per_second=1000, node_errors_per_second=5)
    told = sum(flooded(rig, expiring(udp, Ends(SOURCES[p], 1, C, 2)), p, 50) for p in "ab")
    assert 5 <= told < 50


def dropped(rig: Rig, reason: int) -> int:
    """Packets of pods, over all CPUs."""
    raw = rig.dp.maps["cubelet_drops"].lookup_cpus((reason * 4).to_bytes(4, "little"))
    assert raw is not None
    return sum(int.from_bytes(each[:8], "little") for each in raw)


@pytest.mark.parametrize(
    ("flags", "payload", "sequence"),
    [
        ("S", b"", ("RA", 0, 7_000_002)),
        ("S", b"fast open", ("RA", 0, 7_000_011)),
        ("F", b"", ("RA", 0, 7_000_002)),
        ("", b"", ("RA", 0, 7_000_001)),
        ("", b"abc", ("RA", 0, 7_000_004)),
        ("A", b"", ("R", 4_000_000_002, 0)),
        ("PA", b"abc", ("R", 4_000_000_002, 0)),
        ("FA", b"", ("R", 4_000_000_002, 0)),
    ],
)
def test_a_refused_connection_is_reset(
    rig: Rig, flags: str, payload: bytes, sequence: tuple[str, int, int]
) -> None:
    """RFC 9293 3.5.2, the three groups of states."""
    rig.records_lost()
    rig.vip(VIP, 80, B, 8080)
    rig.close_gate(A, B, Way.REFUSE)
    for options in ([], [("MSS", 1460), ("SAckOK", b""), ("NOP", None), ("NOP", None)]):
        sent = tcp(CLIENT.to(SERVICE, flags), payload)
        sent[TCP].options = options
        reset_flags, seq, ack = sequence
        reset = TCP(sport=80, dport=1000, flags=reset_flags, seq=seq, ack=ack, window=0)
        wanted = IP(src=VIP, dst=A, flags="DF", id=0) / reset
        result = rig.send(sent)
        answered(result, "gate/closed", sent, wanted)


def test_a_reset_of_a_known_flow(rig: Rig) -> None:
    """Permission is lost: both ends are told, by their own numbers."""
    for side in ("forward", "back"):
        rig.open_gates()
        direct(CLIENT, SERVER).established(rig)
        rig.close_gate(A, B, Way.REFUSE)
        rig.age(A)
        sent = tcp(CLIENT.to(SERVER) if side == "forward" else SERVER.to(CLIENT, back=True))
        me, you = (CLIENT, SERVER) if side == "forward" else (SERVER, CLIENT)
        reset = TCP(sport=you.number, dport=me.number, flags="R", seq=sent[TCP].ack, window=0)
        wanted = IP(src=you.address, dst=me.address, flags="DF", id=0) / reset
        answered(rig.send(sent, me.port), "gate/closed", sent, wanted, me.port)


def test_a_reset_is_not_answered(rig: Rig) -> None:
    rig.close_gate(A, B, Way.REFUSE)
    for flags in ("R", "RA"):
        kept(rig.send(tcp(CLIENT.to(SERVER, flags))), "core/no_flow")


def test_a_refused_datagram_shows_whom_it_was_sent_to(rig: Rig) -> None:
    rig.vip(VIP, 80, B, 8080)
    rig.close_gate(A, B, Way.REFUSE)
    sent = udp(CLIENT.to(SERVICE))
    answered(rig.send(sent), "gate/closed", sent, error(VIP, sent, 3, 3))


@pytest.mark.parametrize(("kind", "code"), [(3, 0), (3, 1), (3, 13), (11, 0)])
def test_a_rejected_packet(rig: Rig, kind: int, code: int) -> None:
    rig.close_gate(A, B, Way.REJECT, (kind, code))
    sent = udp(CLIENT.to(SERVER))
    answered(rig.send(sent), "gate/closed", sent, error(GATEWAY, sent, kind, code))
