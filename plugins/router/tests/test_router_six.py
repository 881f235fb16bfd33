"""IPv6 by bridge and router: between pods, to the gateway, to the outside, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, ip_address

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6TimeExceeded,
    IPv6,
    IPv6ExtHdrDestOpt,
)
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.testkit import Datapath, Result
from cubelet.testkit.families import twin, twin_network
from cubelet.testkit.samples import ROUTER_MAC, UPLINK_MAC
from cubelet_bridge.cube import Bridge
from cubelet_hooks.flows import FlowState
from cubelet_hooks.objects import Node
from cubelet_router.cube import Router

MAC_A, MAC_B = "02:00:00:00:01:00", "02:00:00:00:01:01"
A, B, UNUSED, GATEWAY, FAR, OUTSIDE, SERVICE = (
    str(twin(IPv4Address(each)))
    for each in (
        *("10.1.0.2", "10.1.0.3", "10.1.0.99", "10.1.0.1", "10.1.1.7"),
        *("192.0.2.9", "10.96.0.9"),
    )
)
OTHER = Node(
    name="node2",
    addresses=(ip_address("172.18.0.3"),),
    pod_cidrs=(twin_network(IPv4Network("10.1.1.0/24")),),
)
CLUSTER = {"router": {"unreachable": [str(twin_network(IPv4Network("10.96.0.0/12")))]}}
SEGMENT, SEQUENCE = 4_000_000_001, 7_000_001


@pytest.fixture(params=["fused", "tailcall"])
def node(datapath: Callable[..., Datapath], request: pytest.FixtureRequest) -> Datapath:
    core = (Bridge, Router)
    return datapath(core=core, settings=CLUSTER, mode=request.param, objects=[OTHER], family=6)


def frame(packet: Packet, mac: str = MAC_A) -> Packet:
    return Ether(src=mac, dst=ROUTER_MAC) / packet


def header(src: str, dst: str, hlim: int = 64) -> Packet:
    return IPv6(src=src, dst=dst, hlim=hlim, fl=0x12345, tc=4)


def arrives(result: Result, leaves: str, wanted: Packet) -> None:
    assert (result.verdict, result.reason, result.leaves) == ("redirect", "core/none", leaves)
    assert bytes(result.packet) == bytes(wanted), f"\nseen   {result.packet!r}\nwanted {wanted!r}"


def segment(forward: bool, flags: str, payload: bytes = b"") -> Packet:
    ports = {"sport": 1000, "dport": 80} if forward else {"sport": 80, "dport": 1000}
    seq, other = (SEQUENCE, SEGMENT) if forward else (SEGMENT, SEQUENCE)
    number = seq if "S" in flags else seq + 1
    ack = other + 1 if "A" in flags else 0
    return TCP(flags=flags, seq=number, ack=ack, **ports) / Raw(payload)


def test_a_tcp_connection_between_two_pods(node: Datapath) -> None:
    """From its SYN to its end, by the router: one hop less, and nothing else changes."""
    for forward, flags in (
        *((True, "S"), (False, "SA"), (True, "A"), (True, "PA"), (False, "A"), (False, "PA")),
        *((True, "FA"), (False, "FA"), (True, "A")),
    ):
        ends = (A, B) if forward else (B, A)
        macs, pod = ((MAC_A, MAC_B), "default/a") if forward else ((MAC_B, MAC_A), "default/b")
        said = segment(forward, flags, b"data" if "P" in flags else b"")
        result = node.send(frame(header(*ends) / said, macs[0]), pod=pod)
        wanted = Ether(src=ROUTER_MAC, dst=macs[1]) / header(*ends, 63) / said
        arrives(result, "pod", wanted)
        if flags == "PA":
            assert {f.state for f in node.flows().values()} == {FlowState.ESTABLISHED}
    assert {f.state for f in node.flows().values()} == {FlowState.CLOSING}


def test_datagrams_between_two_pods(node: Datapath) -> None:
    """Question, answer and what follows, with and without extension headers."""
    for between in (None, IPv6ExtHdrDestOpt(), None):
        for forward in (True, False, True, True):
            ends, macs = ((A, B), (MAC_A, MAC_B)) if forward else ((B, A), (MAC_B, MAC_A))
            ports = (1000, 53) if forward else (53, 1000)
            datagram = UDP(sport=ports[0], dport=ports[1]) / b"odd"
            said = datagram if between is None else between.copy() / datagram
            pod = "default/a" if forward else "default/b"
            result = node.send(frame(header(*ends) / said, macs[0]), pod=pod)
            arrives(result, "pod", Ether(src=ROUTER_MAC, dst=macs[1]) / header(*ends, 63) / said)
    assert {f.state for f in node.flows().values()} == {FlowState.ESTABLISHED}


def test_the_gateway_answers_a_ping(node: Datapath) -> None:
    ping = ICMPv6EchoRequest(id=7, seq=1, data=b"odd")
    result = node.send(frame(header(A, GATEWAY) / ping))
    assert result.answered
    wanted = ICMPv6EchoReply(id=7, seq=1, data=b"odd")
    back = Ether(src=ROUTER_MAC, dst=MAC_A) / header(GATEWAY, A) / wanted
    assert bytes(result.packet) == bytes(back)


def test_the_outside_and_another_nodes_pod(node: Datapath) -> None:
    """Who is beyond the uplink's router, the kernel's routes say; the overlay runs over IPv4."""
    datagram = UDP(sport=1, dport=2) / b"q"
    result = node.send(frame(header(A, OUTSIDE) / datagram))
    assert result.leaves == "uplink"
    assert result.packet.src == UPLINK_MAC
    assert result.packet[IPv6].hlim == 63
    result = node.send(frame(header(A, FAR) / datagram))
    assert result.leaves == "overlay"
    assert result.hop is not None
    assert result.hop.remote == int(IPv4Address("172.18.0.3"))


def refused(result: Result, reason: str, sent: Packet, said: Packet, source: str = GATEWAY) -> None:
    """Its sender is told so, in a message that quotes what was sent."""
    assert (result.verdict, result.answered, result.reason) == ("redirect", True, reason)
    quoted = Raw(bytes(sent[IPv6])[:511])
    wanted = Ether(src=ROUTER_MAC, dst=MAC_A) / IPv6(src=source, dst=A, hlim=64) / said / quoted
    assert bytes(result.packet) == bytes(wanted), f"\n{result.packet!r}\n{wanted!r}"


@pytest.mark.parametrize("transport", [UDP(sport=1, dport=2) / b"q", TCP(flags="S")])
def test_what_cannot_be_delivered(node: Datapath, transport: Packet) -> None:
    cases = (
        (header(A, UNUSED), "bridge/unknown_neighbor", ICMPv6DestUnreach(code=3)),
        (header(A, SERVICE), "router/unreachable", ICMPv6DestUnreach(code=3)),
        (header(A, B, hlim=1), "core/ttl", ICMPv6TimeExceeded(code=0)),
    )
    for ip, reason, said in cases:
        sent = frame(ip / transport)
        refused(node.send(sent), reason, sent, said)
    assert not node.flows()


@pytest.mark.parametrize("replied", [False, True])
def test_what_is_too_big_for_the_overlay(node: Datapath, replied: bool) -> None:
    """Its sender learns the MTU; nobody fragments on the way."""
    if replied:
        for forward in (True, False, True):
            ends = (A, FAR) if forward else (FAR, A)
            ports = (1, 2) if forward else (2, 1)
            small = header(*ends) / UDP(sport=ports[0], dport=ports[1]) / b"q"
            result = node.send(frame(small), enters="pod" if forward else "overlay")
            assert result.verdict == "redirect"
    for size, fits in ((1450, True), (1451, False)):
        sent = frame(header(A, FAR) / UDP(sport=1, dport=2) / bytes(size - 48))
        result = node.send(sent)
        if fits:
            assert result.leaves == "overlay"
        else:
            refused(result, "core/too_big", sent, ICMPv6PacketTooBig(mtu=1450))


@pytest.mark.parametrize(
    ("dst", "reason"),
    [
        ("ff0e::1", "router/martian"),
        ("::1", "router/martian"),
        ("::", "router/martian"),
        ("fe80::1", "router/link_local"),
    ],
)
def test_what_no_router_forwards(node: Datapath, dst: str, reason: str) -> None:
    result = node.send(frame(header(A, dst) / UDP(sport=1, dport=2)))
    assert (result.verdict, result.reason) == ("drop", reason)


@pytest.mark.parametrize("src", [B, GATEWAY, OUTSIDE, "::", "::1", "fe80::1", "ff02::1"])
def test_a_pod_sends_from_its_own_address(node: Datapath, src: str) -> None:
    result = node.send(frame(header(src, B) / UDP(sport=1, dport=2)))
    assert (result.verdict, result.reason) == ("drop", "core/spoofed")
    assert not node.flows()
