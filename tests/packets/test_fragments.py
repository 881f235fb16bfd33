"""Fragments: later ones have no ports and follow their first."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, UDP, fragment
from scapy.packet import Packet, Raw

from cubelet.bpf.jiffies import Clock

from .rig import NODE, OUTSIDE, VIP, A, B, Rig, arrives, kept
from .shapes import Ends, Peer, Shape, direct, echo, hopped, tcp, udp

CLIENT, SERVER, AWAY = Peer("a", A, 1000), Peer("b", B, 8080), Peer("uplink", OUTSIDE, 443)
LONG = bytes(range(256)) * 4 + b"odd"


def long_udp(ends: Ends) -> Packet:
    return udp(ends, LONG)


def long_tcp(ends: Ends) -> Packet:
    """Data with the SYN (RFC 7413), or its answer."""
    return tcp(replace(ends, flags="SA" if ends.back else "S"), LONG)


def long_echo(ends: Ends) -> Packet:
    packet = echo(ends)
    packet[ICMP].remove_payload()
    return packet / Raw(LONG)


def unchecked(ends: Ends) -> Packet:
    packet = long_udp(ends)
    packet[UDP].chksum = 0
    return packet


shapes = pytest.mark.parametrize("shape", [long_udp, unchecked, long_tcp, long_echo])


def parts(packet: Packet) -> list[Packet]:
    """In order, 400 bytes each; the transport checksum is the whole packet's."""
    return list(fragment(IP(bytes(packet)), 400))


def arrive(rig: Rig, sent: Packet, wanted: Packet, port: str, leaves: str) -> None:
    """Each fragment of one arrives as the same one of the other: later ones' bytes untouched."""
    pairs = list(zip(parts(sent), parts(wanted), strict=True))
    assert len(pairs) == 3
    for part, expected in pairs:
        arrives(rig.send(part, port), leaves, hopped(expected))


@shapes
def test_later_fragments_follow_their_first(rig: Rig, shape: Shape) -> None:
    for _ in range(2):
        arrive(rig, shape(CLIENT.to(SERVER)), shape(CLIENT.to(SERVER)), "a", "b")
    back = shape(SERVER.to(CLIENT, back=True))
    arrive(rig, back, back, "b", "a")
    assert len(rig.dp.flows()) == 2


@shapes
def test_through_a_service_and_back(rig: Rig, shape: Shape) -> None:
    rig.vip(VIP, 80, B, 8080)
    rig.vip(VIP, 0, B, 0)
    ports = (0, 0) if shape is long_echo else (80, 8080)
    service, server = Peer("", VIP, ports[0]), Peer("b", B, ports[1])
    arrive(rig, shape(CLIENT.to(service)), shape(CLIENT.to(server)), "a", "b")
    sent, wanted = (shape(each.to(CLIENT, back=True)) for each in (server, service))
    arrive(rig, sent, wanted, "b", "a")


@shapes
def test_from_another_source_and_back(rig: Rig, shape: Shape) -> None:
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    seen = Peer("", NODE, 20001)
    arrive(rig, shape(CLIENT.to(AWAY)), shape(seen.to(AWAY)), "a", "uplink")
    sent, wanted = (shape(AWAY.to(each, back=True)) for each in (seen, CLIENT))
    arrive(rig, sent, wanted, "uplink", "a")


@pytest.mark.parametrize("port", ["a", "host", "overlay"])
def test_a_later_fragment_without_its_first_waits_for_it(rig: Rig, port: str) -> None:
    source = {"a": A, "host": NODE, "overlay": "10.1.7.7"}[port]
    first, middle, last = parts(long_udp(Ends(source, 1000, B, 53)))
    for part in (last, middle):
        assert (rig.send(part, port).verdict, rig.dp.flows()) == ("keep", {})
    for part in (first, last, middle):
        arrives(rig.send(part, port), "b", hopped(part))


@pytest.mark.parametrize("field", ["id", "src", "dst", "proto"])
def test_a_datagrams_identity(rig: Rig, field: str) -> None:
    first, middle, _ = parts(long_udp(CLIENT.to(SERVER)))
    rig.send(first)
    setattr(middle, field, {"id": 6, "src": B, "dst": "10.1.0.4", "proto": 6}[field])
    del middle.chksum
    assert rig.send(middle, "b" if field == "src" else "a").verdict == "keep"


def test_a_first_fragment_is_forgotten_after_half_a_minute(rig: Rig) -> None:
    first, middle, _ = parts(long_udp(CLIENT.to(SERVER)))
    rig.send(first)
    with Clock() as clock:
        hz = clock.hz
    for age, verdict in ((29, "redirect"), (31, "keep")):
        (known,) = rig.dp.table("cubelet", "fragments").items()
        with Clock() as clock:
            seen = (clock.now() - age * hz) % (1 << 32)
        rig.dp.put("cubelet", "fragments", known[0], replace(known[1], seen=seen))
        assert rig.send(middle).verdict == verdict


@pytest.mark.parametrize("port", ["b", "c"])
def test_a_forged_first_fragment_misleads_no_later_one(rig: Rig, port: str) -> None:
    first, middle, _ = parts(long_udp(CLIENT.to(SERVER)))
    rig.send(first)
    forged = parts(long_udp(Ends(A, 6666, B, 53)))[0]
    kept(rig.send(forged, port), "core/spoofed")
    (ports,) = rig.dp.table("cubelet", "fragments").values()
    assert (ports.sport, ports.dport) == (1000, 8080)
    arrives(rig.send(middle), "b", hopped(middle))


def test_later_fragments_of_a_denied_datagram_are_denied(rig: Rig) -> None:
    rig.close_gate(A, B)
    for part in parts(long_udp(CLIENT.to(SERVER))):
        kept(rig.send(part), "gate/closed")
    assert not rig.dp.flows()


def test_later_fragments_enter_where_their_flow_does(rig: Rig) -> None:
    first, middle, _ = parts(long_udp(CLIENT.to(SERVER)))
    rig.send(first)
    kept(rig.send(middle, "c"), "core/wrong_port")


def test_no_error_is_sent_about_a_later_fragment(rig: Rig) -> None:
    first, middle, _ = parts(long_udp(CLIENT.to(SERVER)))
    first.ttl = middle.ttl = 1
    del first.chksum, middle.chksum
    assert rig.send(first).answered
    kept(rig.send(middle), "core/ttl")


def test_a_first_fragment_holds_the_whole_transport_header(fused: Rig) -> None:
    """RFC 1858: what does not could slip its flags past us."""
    tiny = IP(src=A, dst=B, flags="MF", proto=6) / Raw(bytes(tcp(CLIENT.to(SERVER)).payload)[:16])
    kept(fused.send(tiny), "core/malformed")
    padded = fused.framed(tiny, "a") / Raw(bytes(24))
    padded[IP].len = 36
    kept(fused.send(padded), "core/malformed")


def test_no_later_fragment_opens_a_connection(rig: Rig) -> None:
    """Its flow ended after the first: what it continues was no SYN."""
    direct(CLIENT, SERVER, tcp).established(rig)
    first, *later = parts(tcp(CLIENT.to(SERVER), LONG))
    arrives(rig.send(first), "b", hopped(first))
    rig.forget(tcp(CLIENT.to(SERVER)))
    rig.forget(tcp(SERVER.to(CLIENT)))
    for part in later:
        kept(rig.send(part), "core/no_flow")
    assert not rig.dp.flows()


def test_what_follows_a_segment_that_is_left_to_the_node_is_too(rig: Rig) -> None:
    """By a Service's port, for a connection that only the node's stack may know."""
    rig.vip(NODE, 30001, B, 8080)
    for part in parts(tcp(AWAY.to(Peer("", NODE, 30001)), LONG)):
        frame = rig.framed(part, "uplink")
        result = rig.send(frame, "uplink")
        assert (result.verdict, bytes(result.packet)) == ("pass", bytes(frame))
    assert not rig.dp.flows()
