"""Neighbour discovery on the pods' segment: each case is a whole frame in, and what came of it."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6MLQuery2,
    ICMPv6MLReport2,
    ICMPv6ND_NA,
    ICMPv6ND_NS,
    ICMPv6ND_RA,
    ICMPv6ND_Redirect,
    ICMPv6ND_RS,
    ICMPv6NDOptDstLLAddr,
    ICMPv6NDOptMTU,
    ICMPv6NDOptSrcLLAddr,
    ICMPv6NDOptUnknown,
    IPv6,
    IPv6ExtHdrHopByHop,
    RouterAlert,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet
from scapy.utils6 import in6_getnsma, in6_getnsmac

from cubelet.testkit import Datapath, Result
from cubelet.testkit.families import twin
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC
from cubelet_bridge.cube import Bridge

if TYPE_CHECKING:
    from cubelet.testkit.network import TestNetwork

MAC_A, MAC_B, MAC_C = (f"02:00:00:00:01:0{n}" for n in range(3))
A, B, C, GATEWAY, UNUSED, NODE = (
    str(twin(IPv4Address(each)))
    for each in ("10.1.0.2", "10.1.0.3", "10.1.0.4", "10.1.0.1", "10.1.0.99", "172.18.0.2")
)
NOBODY, ALL_NODES, ALL_ROUTERS = "::", "ff02::1", "ff02::2"
LINK_LOCAL = "fe80::ff:fe00:100"
GROUP_MAC = "33:33:00:00:00:01"
NONCE = ICMPv6NDOptUnknown(type=14, len=1, data=b"random")

Compose = Callable[..., Datapath]


@pytest.fixture(params=["fused", "tailcall"])
def bridge(datapath: Compose, request: pytest.FixtureRequest) -> Datapath:
    return datapath(core=[Bridge], mode=request.param, family=6)


def asks(
    target: str, source: str = A, option: Packet | None = None, mac: str = MAC_A, **ip: object
) -> Packet:
    """A solicitation to the target's group, as hosts send it: with their MAC address or a nonce."""
    group = in6_getnsma(IPv6Address(target).packed)
    own = NONCE if source == NOBODY else ICMPv6NDOptSrcLLAddr(lladdr=mac)
    dst = str(IPv6Address(group))
    header = IPv6(**{"src": source, "dst": dst, "hlim": 255, **ip})
    ether = Ether(src=mac, dst=in6_getnsmac(group))
    return ether / header / ICMPv6ND_NS(tgt=target) / (option or own)


def says(target: str, source: str = A, mac: str = MAC_A, **flags: int) -> Packet:
    """An unsolicited advertisement to all nodes."""
    header = IPv6(src=source, dst=ALL_NODES, hlim=255)
    advertisement = ICMPv6ND_NA(**{"tgt": target, "R": 0, "S": 0, "O": 1, **flags})
    return (
        Ether(src=MAC_A, dst=GROUP_MAC) / header / advertisement / ICMPv6NDOptDstLLAddr(lladdr=mac)
    )


def told(target: str, mac: str, to: str, router: int = 0) -> Packet:
    """The answer, whole."""
    solicited = int(to != NOBODY)
    header = IPv6(src=target, dst=to if solicited else ALL_NODES, hlim=255)
    advertisement = ICMPv6ND_NA(tgt=target, R=router, S=solicited, O=1)
    option = ICMPv6NDOptDstLLAddr(lladdr=mac)
    return Ether(src=mac, dst=MAC_A) / header / advertisement / option


def outcome(result: Result) -> tuple[str, str]:
    return result.verdict, result.reason


def same(seen: Packet, wanted: Packet) -> None:
    assert bytes(seen) == bytes(wanted), f"\nseen   {seen!r}\nwanted {wanted!r}"


@pytest.mark.parametrize("source", [A, LINK_LOCAL, NOBODY], ids=["own", "link-local", "probe"])
@pytest.mark.parametrize(
    ("target", "mac", "router"),
    [(B, MAC_B, 0), (GATEWAY, ROUTER_MAC, 1)],
    ids=["of a pod", "of the gateway"],
)
def test_a_solicitation_is_answered(
    bridge: Datapath, source: str, target: str, mac: str, router: int
) -> None:
    """A probe whose address is another's is told so: nobody takes it from its owner."""
    result = bridge.send(asks(target, source))
    assert outcome(result) == ("redirect", "core/none")
    assert result.answered
    same(result.packet, told(target, mac, source, router))
    assert not bridge.flows()


def test_whether_a_neighbour_is_still_there_is_asked_of_it_alone(bridge: Datapath) -> None:
    for target, mac, router in ((B, MAC_B, 0), (GATEWAY, ROUTER_MAC, 1)):
        question = asks(target, dst=target)
        question[Ether].dst = mac
        result = bridge.send(question)
        assert result.answered
        same(result.packet, told(target, mac, A, router))


def test_no_option_is_needed(bridge: Datapath) -> None:
    ether = Ether(src=MAC_A, dst=MAC_B)
    question = ether / IPv6(src=A, dst=B, hlim=255) / ICMPv6ND_NS(tgt=B)
    same(bridge.send(question).packet, told(B, MAC_B, A))


@pytest.mark.parametrize("source", [A, NOBODY], ids=["question", "probe"])
@pytest.mark.parametrize("target", [A, UNUSED, LINK_LOCAL])
def test_what_is_not_known_is_for_the_others(bridge: Datapath, source: str, target: str) -> None:
    """Above all who tries whether its own address is free hears nothing that it is not."""
    result = bridge.send(asks(target, source))
    assert (result.reason, result.answered) == ("core/none", False)


def test_an_advertisement_of_ones_own_is_for_the_others(bridge: Datapath) -> None:
    assert bridge.send(says(A)).reason == "core/none"
    assert bridge.send(says(LINK_LOCAL, LINK_LOCAL)).reason == "core/none"


@pytest.mark.parametrize(
    "packet",
    [
        says(B),
        says(GATEWAY),
        says(NODE),
        says(B, B),
        says(GATEWAY, R=1),
        says(A, B),
        says(A, mac=MAC_C),
        asks(UNUSED, B),
        asks(B, GATEWAY),
        asks(B, option=ICMPv6NDOptSrcLLAddr(lladdr=MAC_C)),
        asks(UNUSED, NOBODY, option=ICMPv6NDOptSrcLLAddr(lladdr=MAC_C)),
    ],
)
def test_nobody_claims_anothers_address_or_mac(bridge: Datapath, packet: Packet) -> None:
    assert outcome(bridge.send(packet)) == ("drop", "bridge/nd_spoofed")


def with_hop_limit(packet: Packet, hops: int) -> Packet:
    packet[IPv6].hlim = hops
    return packet


@pytest.mark.parametrize(
    "packet",
    [
        with_hop_limit(asks(B), 254),
        with_hop_limit(says(A), 1),
        asks(B, option=ICMPv6NDOptMTU(mtu=1280)),
        asks(B, option=ICMPv6NDOptSrcLLAddr(lladdr=MAC_A, len=0)),
        asks(B, option=NONCE / NONCE / NONCE),
        asks(ALL_NODES),
        says(A, NOBODY),
        Ether(src=MAC_A, dst=MAC_B) / IPv6(src=A, dst=B, hlim=255, plen=20) / ICMPv6ND_NS(tgt=B),
        Ether(src=MAC_A, dst=MAC_B)
        / IPv6(src=A, dst=B, hlim=255)
        / IPv6ExtHdrHopByHop(options=[RouterAlert()])
        / ICMPv6ND_NS(tgt=B),
    ],
)
def test_what_contradicts_itself(bridge: Datapath, packet: Packet) -> None:
    assert outcome(bridge.send(packet)) == ("drop", "bridge/malformed_nd")


@pytest.mark.parametrize(
    "message",
    [
        ICMPv6ND_RS(),
        ICMPv6ND_RA(),
        ICMPv6ND_Redirect(tgt=C, dst=B),
        ICMPv6MLReport2(),
        ICMPv6MLQuery2(),
    ],
)
@pytest.mark.parametrize("source", [A, LINK_LOCAL])
def test_no_pod_is_a_router(bridge: Datapath, message: Packet, source: str) -> None:
    """What it says of routes and of groups reaches nobody."""
    ether = Ether(src=MAC_A, dst=GROUP_MAC)
    packet = ether / IPv6(src=source, dst=ALL_NODES, hlim=255) / message
    assert outcome(bridge.send(packet)) == ("drop", "bridge/link_control")


def test_the_host_asks_for_pods_and_tries_its_own_address(bridge: Datapath) -> None:
    """That its gateway's is its own, nobody disputes."""
    question = asks(B, GATEWAY, mac=GATEWAY_MAC)
    result = bridge.send(question, "host")
    assert result.answered
    assert result.packet[ICMPv6ND_NA].tgt == B
    own = bridge.send(asks(GATEWAY, NOBODY, mac=GATEWAY_MAC), "host")
    assert (own.reason, own.answered) == ("core/none", False)


@pytest.fixture
def ports(cubelet_network: TestNetwork) -> list[int]:
    return [port.ifindex for port in cubelet_network.ports.values()]


def test_a_connection_between_neighbours(bridge: Datapath, ports: list[int]) -> None:
    """By their MAC addresses: nothing of the packets changes, and no other pod may take part."""
    for transport in (TCP(sport=1000, dport=80, flags="S"), UDP(sport=1000, dport=53) / b"q"):
        sent = Ether(src=MAC_A, dst=MAC_B) / IPv6(src=A, dst=B, hlim=1, fl=0x12345) / transport
        result = bridge.send(sent)
        assert (result.leaves, result.hop and result.hop.ifindex) == ("pod", ports[1])
        same(result.packet, sent)
        stolen = Ether(src=MAC_A, dst=MAC_C) / IPv6(src=A, dst=B) / transport.copy()
        stolen[2].sport = 1001
        assert outcome(bridge.send(stolen)) == ("drop", "bridge/wrong_address")
