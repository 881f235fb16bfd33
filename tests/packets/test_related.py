"""ICMP errors of others: matched by what they quote, translated outside and in."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from .quoting import AWAY, CLIENT, SEEN, SERVER, SERVICE, quotes, service
from .rig import NODE, OUTSIDE, ROUTER, VIP, A, B, C, Rig, arrives, kept
from .shapes import (
    SHAPES,
    Ends,
    Shape,
    direct,
    echo,
    hopped,
    tcp,
    udp,
    udp_unchecked,
)

ERRORS = {
    "port unreachable": ICMP(type=3, code=3),
    "fragmentation needed": ICMP(type=3, code=4, nexthopmtu=1400),
    "time exceeded": ICMP(type=11, code=0),
    "parameter problem": ICMP(type=12, code=0, ptr=9),
}
QUOTED = [tcp, udp, udp_unchecked, echo, SHAPES["udp odd"], SHAPES["ip options"]]
QUOTED_IDS = ["tcp", "udp", "udp unchecked", "echo", "udp odd", "ip options"]
errors = pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
shapes = pytest.mark.parametrize("shape", QUOTED, ids=QUOTED_IDS)


def about(packet: Packet, source: str, error: Packet, quote: int = 0, to: str = "") -> Packet:
    """An error of ``source`` about a packet; ``quote`` bytes of its payload, 0 for all."""
    quoted = bytes(packet)
    length = packet[IP].ihl or IP(quoted).ihl
    cut = quoted[: length * 4 + quote] if quote else quoted
    return IP(src=source, dst=to or packet[IP].src, id=77) / error.copy() / Raw(cut)


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
    arrives(fused.send(sent, "b"), "a", hopped(wanted))


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
        arrives(rig.send(sent, "uplink"), "a", hopped(wanted))


@shapes
@pytest.mark.parametrize("whose", [OUTSIDE, ROUTER], ids=["far end", "router between"])
def test_errors_when_both_ends_are_translated(rig: Rig, shape: Shape, whose: str) -> None:
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    talk = replace(service(rig, shape, AWAY), seen=SEEN)
    talk.opened(rig)
    arrived, known = quotes(talk)
    error = ERRORS["fragmentation needed"]
    sent = about(arrived, whose, error)
    wanted = about(known, VIP if whose == OUTSIDE else whose, error)
    arrives(rig.send(sent, "uplink"), "a", hopped(wanted))


@shapes
def test_the_clients_errors_about_replies(rig: Rig, shape: Shape) -> None:
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    talk = replace(service(rig, shape, AWAY), seen=SEEN)
    talk.established(rig)
    error = ERRORS["port unreachable"]
    arrived = hopped(talk.shape(talk.dialled.to(talk.client, "A", back=True)))
    sent = hopped(talk.shape(talk.server.to(talk.seen, "A", back=True)))
    arrives(rig.send(about(arrived, A, error)), "uplink", hopped(about(sent, NODE, error)))


@errors
def test_untranslated(rig: Rig, error: Packet) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.established(rig)
    sent = about(hopped(talk.first), B, error)
    arrives(rig.send(sent, "b"), "a", hopped(sent))


def test_an_error_changes_no_record(rig: Rig) -> None:
    talk = service(rig, tcp)
    talk.established(rig)
    before = rig.dp.flows()
    rig.send(about(quotes(talk)[0], B, ERRORS["port unreachable"]), "b")
    assert rig.dp.flows() == before


def test_a_quoted_checksum_that_comes_out_zero_is_written_as_ones(fused: Rig) -> None:
    talk = service(fused, udp)
    talk.opened(fused)
    raw = IP(bytes(udp(CLIENT.to(SERVICE), b"\0\0")))[UDP].chksum
    payload = raw.to_bytes(2, "big")
    known, arrived = (hopped(udp(CLIENT.to(each), payload)) for each in (SERVICE, SERVER))
    assert IP(bytes(known))[UDP].chksum == 0xFFFF
    error = ERRORS["time exceeded"]
    wanted = hopped(about(known, VIP, error))
    arrives(fused.send(about(arrived, B, error), "b"), "a", wanted)


def test_of_quoted_sctp_only_the_ports_change(fused: Rig) -> None:
    """Its checksum is not among the 8 bytes that are always quoted."""
    fused.vip(VIP, 80, B, 8080)

    def sctp(address: str, port: int, ttl: int = 64) -> Packet:
        common = SCTP(sport=1000, dport=port, tag=0x01020304, chksum=0)
        return IP(src=A, dst=address, ttl=ttl, id=5) / common / Raw(bytes(16))

    assert fused.send(sctp(VIP, 80)).leaves == "pod"
    error = ERRORS["port unreachable"]
    sent, wanted = about(sctp(B, 8080, 63), B, error, 8), about(sctp(VIP, 80, 63), VIP, error, 8)
    arrives(fused.send(sent, "b"), "a", hopped(wanted))


@pytest.mark.parametrize("port", ["b", "host", "overlay"])
@errors
def test_an_error_about_no_flow_is_dropped(fused: Rig, port: str, error: Packet) -> None:
    source = {"b": B, "host": NODE, "overlay": "10.1.7.7"}[port]
    kept(fused.send(about(udp(CLIENT.to(SERVER)), source, error), port), "core/unrelated")


ADVICE = {
    "redirect": ICMP(type=5, code=1, gw=ROUTER),
    "source quench": ICMP(type=4),
}


def left_to_the_node(rig: Rig, packet: Packet) -> None:
    frame = rig.framed(packet, "uplink")
    result = rig.send(frame, "uplink")
    assert (result.verdict, bytes(result.packet)) == ("pass", bytes(frame))


@pytest.mark.parametrize("error", [*ERRORS.values(), *ADVICE.values()], ids=[*ERRORS, *ADVICE])
def test_errors_about_the_nodes_own_packets_are_the_nodes(rig: Rig, error: Packet) -> None:
    tunnel = Ends(NODE, 40000, OUTSIDE, 4789)
    for quoted in (
        udp(tunnel),
        tcp(Ends(NODE, 22, OUTSIDE, 5)),
        echo(Ends(NODE, 20001, OUTSIDE, 0)),
    ):
        left_to_the_node(rig, about(quoted, ROUTER, error))
    for protocol in (47, 50, 132):
        quoted = IP(src=NODE, dst=OUTSIDE, proto=protocol) / Raw(bytes(20))
        left_to_the_node(rig, about(quoted, ROUTER, error))


@pytest.mark.parametrize("error", [*ERRORS.values(), *ADVICE.values()], ids=[*ERRORS, *ADVICE])
def test_errors_about_pods_are_not_the_nodes(rig: Rig, error: Packet) -> None:
    """By ports that pods' packets are given, by pods' addresses, by Services'."""
    for shape in (tcp, udp):
        for port in (20001, 30001):
            packet = about(shape(Ends(NODE, port, OUTSIDE, 53)), ROUTER, error)
            kept(rig.send(packet, "uplink"), "core/unrelated")
        packet = about(shape(Ends(A, 1000, OUTSIDE, 53)), ROUTER, error)
        kept(rig.send(packet, "uplink"), "core/unrelated")
    for dst, src in ((NODE, A), (A, NODE), (NODE, OUTSIDE)):
        packet = about(udp(Ends(src, 40000, OUTSIDE, 53)), ROUTER, error, to=dst)
        kept(rig.send(packet, "uplink"), "core/unrelated")
    kept(rig.send(about(echo(Ends(A, 5, OUTSIDE, 0)), ROUTER, error), "uplink"), "core/unrelated")


@pytest.mark.parametrize("connected", [False, True])
def test_a_socket_of_the_nodes_may_have_a_port_of_the_range(fused: Rig, connected: bool) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
        own.bind((NODE, 20003))
        if connected:
            own.connect((OUTSIDE, 53))
        packet = about(udp(Ends(NODE, 20003, OUTSIDE, 53)), ROUTER, ERRORS["time exceeded"])
        left_to_the_node(fused, packet)
    kept(fused.send(packet, "uplink"), "core/unrelated")


def test_what_has_not_been_sent_causes_no_error(rig: Rig) -> None:
    """The client of a pod that has not answered forges an error about the answer."""
    talk = direct(AWAY, replace(CLIENT, number=80), udp)
    talk.opened(rig)
    forged = about(talk.answer, OUTSIDE, ERRORS["port unreachable"])
    kept(rig.send(forged, "uplink"), "core/unrelated")
    talk.back(rig)
    arrives(rig.send(forged, "uplink"), "a", hopped(forged))


def test_an_error_is_matched_by_both_records(rig: Rig) -> None:
    """One has been evicted, or its key has gone to another flow: nothing says what was sent."""
    talk = direct(CLIENT, AWAY, udp)
    talk.opened(rig)
    rig.forget(talk.first)
    kept(
        rig.send(about(hopped(talk.first), ROUTER, ERRORS["time exceeded"]), "uplink"),
        "core/unrelated",
    )


@pytest.mark.parametrize("replied", [False, True], ids=["first packet", "established"])
def test_every_part_of_the_tuple_counts(rig: Rig, replied: bool) -> None:
    """As the flow's packets are where the error comes from, not as the pod knows them."""
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    talk = replace(service(rig, udp, AWAY), seen=SEEN)
    talk.established(rig) if replied else talk.opened(rig)
    error = ERRORS["fragmentation needed"]
    good = udp(SEEN.to(AWAY))
    for wrong in (
        Ends(NODE, 20002, OUTSIDE, 443),
        Ends(NODE, 20001, OUTSIDE, 444),
        Ends(NODE, 20001, "192.0.2.10", 443),
        Ends(A, 1000, OUTSIDE, 443),
        Ends(A, 1000, VIP, 80),
        Ends(OUTSIDE, 443, NODE, 20001),
    ):
        for to in (NODE, A):
            kept(rig.send(about(udp(wrong), ROUTER, error, to=to), "uplink"), "core/unrelated")
    kept(rig.send(about(tcp(SEEN.to(AWAY)), ROUTER, error), "uplink"), "core/unrelated")
    assert rig.send(about(good, ROUTER, error), "uplink").leaves == "pod"


@pytest.mark.parametrize(
    ("ahead", "believed"),
    [
        *((-0x10000, True), (0, True), (1 << 20, True), (1 << 29, True)),
        *((-0x10001, False), ((1 << 30) + 1, False), (1 << 31, False)),
    ],
)
def test_a_quoted_segment_is_under_way(rig: Rig, ahead: int, believed: bool) -> None:
    talk = direct(CLIENT, AWAY).established(rig)
    talk.back(rig)
    quoted = hopped(talk.first)
    acknowledged = talk.answer[TCP].ack
    quoted[TCP].seq = (acknowledged + ahead) % (1 << 32)
    packet = about(quoted, ROUTER, ERRORS["fragmentation needed"], 8)
    result = rig.send(packet, "uplink")
    if believed:
        arrives(result, "a", hopped(packet))
    else:
        kept(result, "core/unrelated")


def test_an_error_about_a_ping_that_expires_is_the_nodes_all_the_same(rig: Rig) -> None:
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    talk = replace(direct(CLIENT, replace(AWAY, number=0), echo), seen=SEEN)
    talk.opened(rig)
    packet = about(quotes(talk)[0], ROUTER, ERRORS["time exceeded"])
    packet.ttl = 1
    frame = rig.framed(packet, "uplink")
    result = rig.dp.send(frame, "uplink")
    assert (result.verdict, result.hop, bytes(result.packet)) == ("pass", None, bytes(frame))


@pytest.mark.parametrize("cut", [0, 8, 19, 20, 27])
def test_too_short_a_quote_belongs_to_no_flow(fused: Rig, cut: int) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(fused)
    quoted = bytes(hopped(talk.first))[:cut]
    packet = IP(src=B, dst=A) / ICMP(type=3, code=3) / Raw(quoted)
    kept(fused.send(packet, "b"), "core/unrelated")


def test_padding_of_the_frame_is_no_part_of_the_quote(fused: Rig) -> None:
    """Neither to be matched nor to be changed, or the ICMP checksum would be wrong."""
    talk = service(fused, tcp)
    talk.opened(fused)
    arrived, known = quotes(talk)
    trailer = Raw(b"trailer of the link")
    short = IP(bytes(about(arrived, B, ERRORS["time exceeded"], 6)))
    kept(fused.send(fused.framed(short, "b") / trailer, "b"), "core/unrelated")
    sent = IP(bytes(about(arrived, B, ERRORS["time exceeded"], 8)))
    result = fused.send(fused.framed(sent, "b") / trailer, "b")
    wanted = hopped(about(known, VIP, ERRORS["time exceeded"], 8))
    assert bytes(result.packet)[14:] == bytes(wanted) + trailer.load


def test_a_quoted_later_fragment_belongs_to_no_flow(fused: Rig) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(fused)
    quoted = talk.first
    quoted.frag = 5
    kept(fused.send(about(quoted, B, ERRORS["time exceeded"]), "b"), "core/unrelated")


@pytest.mark.parametrize("port", ["c", "host", "overlay"])
def test_an_error_enters_where_the_flows_replies_do(rig: Rig, port: str) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(rig)
    packet = about(hopped(talk.first), C, ERRORS["port unreachable"])
    kept(rig.send(packet, port), "core/unrelated")


def test_a_pods_errors_come_from_its_own_address(rig: Rig) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(rig)
    packet = about(hopped(talk.first), OUTSIDE, ERRORS["fragmentation needed"])
    kept(rig.send(packet, "b"), "core/spoofed")


def test_an_error_that_expires_causes_none(rig: Rig) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(rig)
    packet = about(hopped(talk.first), B, ERRORS["port unreachable"])
    packet.ttl = 1
    kept(rig.send(packet, "b"), "core/ttl")


def stamp(src: str, dst: str, kind: int = 13, ttl: int = 64) -> Packet:
    """A timestamp request: bytes stand where an echo has its identifier."""
    return IP(src=src, dst=dst, ttl=ttl, id=5) / ICMP(type=kind, id=7, seq=9) / Raw(bytes(12))


def gre(src: str, dst: str, kind: int = 0, ttl: int = 64) -> Packet:
    return IP(src=src, dst=dst, ttl=ttl, id=5, proto=47) / Raw(bytes(range(1, 25)))


@errors
@pytest.mark.parametrize("quote", [8, 0], ids=["8 bytes", "whole"])
@pytest.mark.parametrize("shape", [stamp, gre])
def test_of_what_has_no_ports_only_the_addresses_change(
    rig: Rig, error: Packet, shape: Callable[..., Packet], quote: int
) -> None:
    """What stands at the ports' and the checksum's place is somebody's data."""
    rig.masquerade(A, "pod", ROUTER, 20001, 1)
    arrived = hopped(shape(ROUTER, B))
    arrives(rig.send(shape(A, B)), "b", arrived)
    sent = about(arrived, B, error, quote)
    wanted = about(hopped(shape(A, B)), B, error, quote)
    arrives(rig.send(sent, "b"), "a", hopped(wanted))
