"""ICMPv6 errors: those of others, translated outside and in, and our own. Cases as over IPv4."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrFragment,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.testkit import Result
from cubelet.testkit.samples import ROUTER_MAC
from cubelet.testkit.twins import error_in_six, in_six, six

from .cubes import Way
from .quoting import AWAY, CLIENT, SEEN, SERVER, SERVICE, quotes, service
from .rig import (
    GATEWAY,
    NODE,
    OUTSIDE,
    REMOTE,
    ROUTER,
    VIP,
    A,
    B,
    Rig,
    arrives,
    kept,
    mac_of,
    same,
)
from .shapes import SHAPES, Ends, Shape, direct, echo, hopped, tcp, udp

FAMILIES = (6,)
QUOTED = 511
"""The most that we quote, in bytes of the packet."""
ERRORS = {
    "port unreachable": ICMPv6DestUnreach(code=4),
    "packet too big": ICMPv6PacketTooBig(mtu=1400),
    "time exceeded": ICMPv6TimeExceeded(code=0),
    "parameter problem": ICMPv6ParamProblem(code=1, ptr=6),
    "of a later RFC": ICMPv6DestUnreach(type=100, code=7),
}
SHAPED = {name: SHAPES[name] for name in ("tcp", "udp", "udp odd", "echo")}
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS)
shapes = pytest.mark.parametrize("shape", SHAPED.values(), ids=SHAPED)


def about(packet: Packet, source: str, error: Packet, quote: int = 0, to: str = "") -> Packet:
    """An error of ``source`` about the twin of a packet; ``quote`` bytes of its payload, 0: all."""
    quoted = bytes(in_six(packet) if IP in packet else packet)
    cut = quoted[: 40 + quote] if quote else quoted
    receiver = six(to) if to else IPv6(quoted).src
    return IPv6(src=six(source), dst=receiver) / error.copy() / Raw(cut)


def further(packet: Packet) -> Packet:
    copy = packet.copy()
    copy[IPv6].hlim -= 1
    return copy


@errors
@shapes
@pytest.mark.parametrize("quote", [8, 0], ids=["8 bytes", "whole"])
def test_the_backends_own_error_shows_the_service(
    fused: Rig, error: Packet, shape: Shape, quote: int
) -> None:
    talk = service(fused, shape)
    talk.opened(fused)
    arrived, known = quotes(talk)
    sent, wanted = about(arrived, B, error, quote), about(known, VIP, error, quote)
    arrives(fused.send(sent, "b"), "a", further(wanted))


@errors
@shapes
@pytest.mark.parametrize("whose", [OUTSIDE, ROUTER], ids=["far end", "router between"])
def test_errors_to_a_translated_source(rig: Rig, error: Packet, shape: Shape, whose: str) -> None:
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    server = replace(AWAY, number=0) if shape is echo else AWAY
    talk = replace(direct(CLIENT, server, shape), seen=SEEN)
    talk.opened(rig)
    arrived, known = quotes(talk)
    for quote in (8, 0):
        sent, wanted = about(arrived, whose, error, quote), about(known, whose, error, quote)
        came_through(rig, sent, wanted, shared=shape is echo)


def came_through(rig: Rig, sent: Packet, wanted: Packet, shared: bool = False) -> None:
    """To pod a; what is about a ping, which may be the node's, is left to the node as well."""
    frame = rig.framed(sent, "uplink")
    result = rig.dp.send(frame, "uplink") if shared else rig.send(sent, "uplink")
    if shared:
        assert (result.verdict, bytes(result.packet)) == ("pass", bytes(frame))
        assert result.hop is not None
    else:
        arrives(result, "a", further(wanted))


@shapes
@pytest.mark.parametrize("whose", [OUTSIDE, ROUTER], ids=["far end", "router between"])
def test_errors_when_both_ends_are_translated(rig: Rig, shape: Shape, whose: str) -> None:
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    talk = replace(service(rig, shape, AWAY), seen=SEEN)
    talk.opened(rig)
    arrived, known = quotes(talk)
    error = ERRORS["packet too big"]
    wanted = about(known, VIP if whose == OUTSIDE else whose, error)
    came_through(rig, about(arrived, whose, error), wanted, shared=shape is echo)


@shapes
def test_the_clients_errors_about_replies(rig: Rig, shape: Shape) -> None:
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    talk = replace(service(rig, shape, AWAY), seen=SEEN)
    talk.established(rig)
    error = ERRORS["port unreachable"]
    arrived = hopped(talk.shape(talk.dialled.to(talk.client, "A", back=True)))
    sent = hopped(talk.shape(talk.server.to(talk.seen, "A", back=True)))
    arrives(rig.send(about(arrived, A, error)), "uplink", further(about(sent, NODE, error)))


def test_a_first_fragment_that_was_too_big(rig: Rig) -> None:
    """It is quoted with its fragment header: a link on the way is narrower than the first."""
    talk = service(rig, udp)
    talk.opened(rig)
    error = ERRORS["packet too big"]

    def part(dst: str, port: int) -> Packet:
        header = IPv6(src=six(A), dst=six(dst), hlim=63)
        whole = IPv6(bytes(header / UDP(sport=1000, dport=port) / bytes(2000)))
        first = Raw(bytes(whole[UDP])[:72])
        return header / IPv6ExtHdrFragment(nh=17, m=1, id=9) / first

    sent, wanted = about(part(B, 8080), B, error, 16), about(part(VIP, 80), VIP, error, 16)
    arrives(rig.send(sent, "b"), "a", further(wanted))
    later = part(B, 8080)
    later[IPv6ExtHdrFragment].offset = 8
    kept(rig.send(about(later, B, error), "b"), "core/unrelated")


@errors
def test_an_error_about_no_flow_is_dropped(fused: Rig, error: Packet) -> None:
    packet = udp(CLIENT.to(SERVER))
    for source, port in ((B, "b"), (NODE, "host"), (REMOTE, "overlay")):
        kept(fused.send(about(packet, source, error), port), "core/unrelated")


@errors
def test_errors_about_the_nodes_own_packets_are_the_nodes(rig: Rig, error: Packet) -> None:
    for quoted in (udp(Ends(NODE, 40000, OUTSIDE, 53)), tcp(Ends(NODE, 22, OUTSIDE, 5))):
        frame = rig.framed(about(quoted, ROUTER, error), "uplink")
        result = rig.send(frame, "uplink")
        assert (result.verdict, bytes(result.packet)) == ("pass", bytes(frame))
    for shape in (tcp, udp):
        for ends in (Ends(NODE, 20001, OUTSIDE, 53), Ends(A, 1000, OUTSIDE, 53)):
            kept(rig.send(about(shape(ends), ROUTER, error), "uplink"), "core/unrelated")


@pytest.mark.parametrize("cut", [0, 8, 39, 40, 47])
def test_too_short_a_quote_belongs_to_no_flow(fused: Rig, cut: int) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(fused)
    quoted = bytes(in_six(hopped(talk.first)))[:cut]
    packet = IPv6(src=six(B), dst=six(A)) / ICMPv6DestUnreach(code=4) / Raw(quoted)
    kept(fused.send(packet, "b"), "core/unrelated")


@pytest.mark.parametrize(("ahead", "believed"), [(0, True), (1 << 29, True), (1 << 31, False)])
def test_a_quoted_segment_is_under_way(rig: Rig, ahead: int, believed: bool) -> None:
    talk = direct(CLIENT, AWAY).established(rig)
    talk.back(rig)
    quoted = hopped(talk.first)
    quoted[TCP].seq = (talk.answer[TCP].ack + ahead) % (1 << 32)
    packet = about(quoted, ROUTER, ERRORS["packet too big"], 8)
    if believed:
        arrives(rig.send(packet, "uplink"), "a", further(packet))
    else:
        kept(rig.send(packet, "uplink"), "core/unrelated")


def answered(result: Result, reason: str, sent: Packet, wanted: Packet, port: str = "a") -> None:
    """It went back to its sender as these bytes."""
    assert (result.verdict, result.answered, result.reason) == ("redirect", True, reason)
    ether = result.packet[Ether]
    assert (ether.dst, ether.src) == (mac_of(port), ROUTER_MAC)
    same(result.packet[IPv6], wanted)


def own(source: str, sent: Packet, said: Packet) -> Packet:
    """As we say it: a hop limit of 64, no flow label, and the quote."""
    quoted = in_six(sent) if IP in sent else sent
    header = IPv6(src=six(source), dst=quoted.src, hlim=64)
    return header / said / Raw(bytes(quoted)[:QUOTED])


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("port", ["a", "overlay", "uplink"])
def test_time_exceeded_quotes_what_was_sent(fused: Rig, shape: Shape, port: str) -> None:
    source = {"a": A, "overlay": REMOTE, "uplink": OUTSIDE}[port]
    sent = shape(Ends(source, 1000, B, 8080, "S"))
    sent.ttl = 1
    wanted = own(NODE if port == "uplink" else GATEWAY, sent, ICMPv6TimeExceeded(code=0))
    answered(fused.send(sent, port), "core/ttl", sent, wanted, port)


@pytest.mark.parametrize("mtu", [1300, 1280, 1000])
@pytest.mark.parametrize("replied", [False, True], ids=["first packet", "established"])
def test_too_big(rig: Rig, mtu: int, replied: bool) -> None:
    """Nobody is told of less than IPv6 carries everywhere (RFC 8200 5)."""
    rig.path(B, "b", mtu=mtu)
    if replied:
        direct(CLIENT, SERVER, udp).established(rig)
    header = IPv6(src=six(A), dst=six(B), fl=7)
    fits, big = (header / UDP(sport=1000, dport=8080) / bytes(size - 48) for size in (mtu, mtu + 1))
    arrives(rig.send(fits), "b", further(fits))
    told = ICMPv6PacketTooBig(mtu=max(mtu, 1280))
    answered(rig.send(big), "core/too_big", big, own(GATEWAY, big, told))


@pytest.mark.parametrize(
    ("kind", "code"), [(3, 0), (3, 1), (3, 3), (3, 9), (3, 10), (3, 13), (11, 0), (12, 0)]
)
def test_a_rejected_packet(rig: Rig, kind: int, code: int) -> None:
    """Cubes name errors as over IPv4; who refuses a port is whom it was sent to."""
    rig.close_gate(A, B, Way.REJECT, (kind, code))
    sent = udp(CLIENT.to(SERVER))
    source = B if (kind, code) == (3, 3) else GATEWAY
    wanted = own(source, sent, error_in_six(kind, code, 0))
    answered(rig.send(sent), "gate/closed", sent, wanted)


def test_refused(rig: Rig) -> None:
    """A connection by a reset, a datagram by an error, both of whom they were sent to."""
    rig.vip(VIP, 80, B, 8080)
    rig.close_gate(A, B, Way.REFUSE)
    sent = udp(CLIENT.to(SERVICE))
    wanted = own(VIP, sent, ICMPv6DestUnreach(code=4))
    answered(rig.send(sent), "gate/closed", sent, wanted)
    for payload in (b"", b"odd"):
        syn = tcp(CLIENT.to(SERVICE, "S"), payload)
        ack = 7_000_002 + len(payload)
        reset = TCP(sport=80, dport=1000, flags="RA", seq=0, ack=ack, window=0)
        wanted = IPv6(src=six(VIP), dst=six(A), hlim=64) / reset
        answered(rig.send(syn), "gate/closed", syn, wanted)


def test_never_about_an_error_or_to_a_group(rig: Rig) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(rig)
    for error in ERRORS.values():
        packet = about(hopped(talk.first), B, error)
        packet.hlim = 1
        kept(rig.send(packet, "b"), "core/ttl")
    rig.path("224.0.0.9", "b")
    for shape in (udp, echo):
        sent = shape(Ends(A, 1, "224.0.0.9", 2))
        sent.ttl = 1
        kept(rig.send(sent), "core/ttl")


@pytest.mark.parametrize("source", ["::", "::1", "fe80::1", "ff02::1", "::ffff:192.0.2.9"])
def test_never_to_an_address_that_is_no_hosts(rig: Rig, source: str) -> None:
    packet = IPv6(src=source, dst=six(B), hlim=1) / ICMPv6EchoRequest(id=5)
    kept(rig.send(packet, "overlay"), "core/ttl")
    kept(rig.send(packet, "uplink"), "core/martian")
