"""IPv6 extension headers: walked within a bound, judged and translated behind, else refused."""

from __future__ import annotations

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    ICMPv6MLReport2,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
    RouterAlert,
)
from scapy.packet import Packet, Raw

from cubelet.testkit.twins import six

from .rig import NODE, OUTSIDE, VIP, A, B, Rig, arrives, kept

FAMILIES = (6,)
HERE, THERE, SERVICE = six(A), six(B), six(VIP)
FIRST_SEQUENCE = 7_000_001


def header(dst: str = THERE, hlim: int = 64) -> Packet:
    return IPv6(src=HERE, dst=dst, hlim=hlim, fl=0x12345, tc=0x28)


def syn(sport: int = 1000, dport: int = 80) -> Packet:
    return TCP(sport=sport, dport=dport, flags="S", seq=FIRST_SEQUENCE)


def options(length: int = 8) -> Packet:
    """Destination options of ``length`` bytes, a multiple of eight."""
    return IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(length - 4))])


def hop_by_hop() -> Packet:
    return IPv6ExtHdrHopByHop(options=[RouterAlert(), PadN(optdata=b"")])


def routing(kind: int, left: int) -> Packet:
    """With one address to go by."""
    return IPv6ExtHdrRouting(type=kind, segleft=left, addresses=[six(OUTSIDE)])


def part(offset: int, more: int, number: int = 77) -> Packet:
    """The offset is in bytes."""
    return IPv6ExtHdrFragment(offset=offset // 8, m=more, id=number)


CHAINS = {
    "options": options(),
    "hop by hop": hop_by_hop(),
    "as RFC 8200 orders them": hop_by_hop() / options() / routing(2, 0) / options(),
    "an atomic fragment": part(0, 0),
    "options before an atomic fragment": options() / part(0, 0),
    "128 bytes": options(64) / options(64),
}


@pytest.mark.parametrize("chain", CHAINS.values(), ids=CHAINS)
@pytest.mark.parametrize("transport", [syn(), UDP(sport=1000, dport=80) / b"odd"])
def test_a_flow_is_found_behind_them(rig: Rig, chain: Packet, transport: Packet) -> None:
    rig.vip(VIP, 80, B, 8080)
    translated = transport.copy()
    translated.dport = 8080
    behind = chain.copy()
    for sent, wanted in (
        (behind / transport, behind / translated),
        (transport, translated),
        (behind / transport, behind / translated),
    ):
        arrives(rig.send(header(SERVICE) / sent), "b", header(THERE, 63) / wanted)
    assert len(rig.dp.flows()) == 2


REFUSED = {
    "type 0, nothing left": (routing(0, 0), "core/source_route"),
    "type 0": (routing(0, 1), "core/source_route"),
    "segment routing": (routing(4, 1), "core/source_route"),
    "behind others": (options() / options() / routing(0, 0), "core/source_route"),
    "136 bytes": (options(64) / options(72), "core/extensions"),
    "one of 256 bytes": (options(256), "core/extensions"),
    "six of them": (
        options() / options() / options() / options() / options() / options(),
        "core/extensions",
    ),
    "behind a fragment header": (part(0, 0) / options(), "core/extensions"),
    "two fragment headers": (part(0, 0) / part(0, 0), "core/extensions"),
    "hop by hop twice": (hop_by_hop() / hop_by_hop(), "core/malformed"),
    "hop by hop behind options": (options() / hop_by_hop(), "core/malformed"),
}


@pytest.mark.parametrize(("chain", "reason"), REFUSED.values(), ids=REFUSED)
def test_what_is_beyond_is_refused(rig: Rig, chain: Packet, reason: str) -> None:
    kept(rig.send(header() / chain / syn()), reason)
    assert not rig.dp.flows()


@pytest.mark.parametrize(
    ("chain", "length"),
    [*((options(40), n) for n in (1, 7, 8, 9, 39)), *((part(800, 0), n) for n in (1, 7))],
)
def test_a_chain_longer_than_its_packet(rig: Rig, chain: Packet, length: int) -> None:
    """Also where the frame goes on, with padding."""
    ip = header() / chain
    whole = bytes(ip) + bytes(60)
    packet = IPv6(whole[:4] + length.to_bytes(2, "big") + whole[6 : 40 + length])
    kept(rig.send(packet), "core/malformed")
    padded = IPv6(whole[:4] + length.to_bytes(2, "big") + whole[6:])
    kept(rig.send(padded), "core/malformed")


def test_a_routing_header_never_reaches_a_pod_from_outside(rig: Rig) -> None:
    """What is for the node itself is left to it, which knows such headers."""
    for dst, verdict in ((THERE, "drop"), (six(NODE), "pass")):
        packet = IPv6(src=six(OUTSIDE), dst=dst) / routing(0, 1) / syn()
        assert rig.send(packet, "uplink").verdict == verdict


@pytest.mark.parametrize("chain", [None, options(), part(0, 0), part(0, 1)])
def test_udp_without_checksum(rig: Rig, chain: Packet | None) -> None:
    datagram = UDP(sport=1000, dport=80, chksum=0, len=16) / Raw(bytes(8))
    packet = header() / datagram if chain is None else header() / chain / datagram
    kept(rig.send(packet), "core/unchecked")


def test_fragments_follow_their_first(rig: Rig) -> None:
    """Each is translated; those of another identity do not follow."""
    rig.vip(VIP, 80, B, 8080)
    whole = bytes(header(SERVICE) / UDP(sport=1000, dport=80) / bytes(range(200)))[40:]
    seen = bytes(header(THERE) / UDP(sport=1000, dport=8080) / bytes(range(200)))[40:]
    cuts = ((0, 104, 1), (104, 160, 1), (160, 208, 0))
    for begin, end, more in cuts:
        sent = IPv6(bytes(header(SERVICE) / part(begin, more) / Raw(whole[begin:end])))
        sent.payload.nh = 17
        wanted = IPv6(bytes(header(THERE, 63) / part(begin, more) / Raw(seen[begin:end])))
        wanted.payload.nh = 17
        result = rig.send(sent)
        assert bytes(result.packet)[14:] == bytes(wanted), (begin, result.reason)
    stranger = header(SERVICE) / part(104, 0, number=78) / Raw(whole[104:])
    stranger[IPv6ExtHdrFragment].nh = 17
    assert rig.send(stranger).verdict == "keep"
    assert not rig.dp.table("cubelet", "fragments"), "all of the datagram has come"


@pytest.mark.parametrize("length", [1, 7, 9, 103])
def test_a_fragment_that_others_follow_is_a_multiple_of_eight_bytes(rig: Rig, length: int) -> None:
    for offset in (0, 800):
        packet = header() / part(offset, 1) / Raw(bytes(range(1, length + 1)))
        packet[IPv6ExtHdrFragment].nh = 17
        kept(rig.send(packet), "core/malformed")


MESSAGES = {
    "neighbour solicitation": ICMPv6ND_NS(tgt=THERE),
    "router advertisement": ICMPv6ND_RA(),
    "listener report": ICMPv6MLReport2(),
}


@pytest.mark.parametrize("message", MESSAGES.values(), ids=MESSAGES)
def test_what_stays_on_a_link_is_no_flow(rig: Rig, message: Packet) -> None:
    """No cube of a stack sees it, and the node's uplink has its own."""
    packet = header(hlim=255) / message
    kept(rig.send(packet), "core/no_path")
    kept(rig.send(packet, "overlay"), "core/unsupported")
    assert rig.send(packet, "uplink").verdict == "pass"
    kept(rig.send(header(hlim=255) / part(0, 1) / message), "core/malformed")
    assert not rig.dp.flows()


def test_an_echo_keeps_its_identifier_and_sum_behind_options(rig: Rig) -> None:
    rig.vip(VIP, 0, B, 0)
    ping = ICMPv6EchoRequest(id=9, seq=1, data=b"odd")
    arrives(rig.send(header(SERVICE) / options() / ping), "b", header(THERE, 63) / options() / ping)
