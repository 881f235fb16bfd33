"""ICMP errors of others: matched by what they quote, translated outside and in."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import ICMP, IP, UDP
from scapy.layers.sctp import SCTP
from scapy.packet import Packet, Raw

from .rig import NODE, OUTSIDE, ROUTER, VIP, A, B, C, Rig, arrives, kept
from .shapes import (
    SHAPES,
    Ends,
    Peer,
    Shape,
    Talk,
    direct,
    echo,
    hopped,
    tcp,
    through,
    udp,
    udp_unchecked,
)

CLIENT, SERVER = Peer("a", A, 1000), Peer("b", B, 8080)
SERVICE, AWAY = Peer("", VIP, 80), Peer("uplink", OUTSIDE, 443)
SEEN = Peer("", NODE, 20001)
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


def service(rig: Rig, shape: Shape, backend: Peer = SERVER) -> Talk:
    """Opened through the virtual address."""
    rig.vip(VIP, 80, backend.address, backend.number)
    rig.vip(VIP, 0, backend.address, 0)
    talk = through(direct(CLIENT, backend, shape), SERVICE)
    if shape is echo:
        talk = replace(talk, dialled=replace(SERVICE, number=0), server=replace(backend, number=0))
    return talk


def quotes(talk: Talk) -> tuple[Packet, Packet]:
    """The client's packet as it arrived at the server, and as the client knows it."""
    arrived = hopped(talk.shape(talk.seen.to(talk.server, "S")))
    return arrived, hopped(talk.first)


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


def test_an_error_about_no_flow_of_ours_passes_at_the_uplink(rig: Rig) -> None:
    packet = about(udp(Ends(NODE, 20001, OUTSIDE, 53)), ROUTER, ERRORS["time exceeded"])
    frame = rig.framed(packet, "uplink")
    result = rig.send(frame, "uplink")
    assert (result.verdict, bytes(result.packet)) == ("pass", bytes(frame))


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
