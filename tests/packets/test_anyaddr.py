"""Answers of the node's own sockets that are bound to any address: from whichever it prefers."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

import msgspec
import pytest
from scapy.layers.inet import IP, fragment
from scapy.packet import Packet

from cubelet.composer.composition import Mode
from cubelet.testkit.network import TestNetwork

from .rig import GATEWAY, NODE, OUTSIDE, VIP, A, B, Rig, arrives
from .shapes import SHAPES, Ends, Peer, Shape, Talk, hopped, tcp, udp

CLIENT, SERVER, SERVICE = Peer("a", A, 1000), Peer("host", NODE, 5300), Peer("", VIP, 53)
UDP_SHAPES = {name: shape for name, shape in SHAPES.items() if "udp" in name or "ip " in name}


def elsewhere(shape: Shape, source: str = GATEWAY, **payload: bytes) -> Packet:
    """The server's answer as the kernel sends it: from another of the node's addresses."""
    return shape(Ends(source, SERVER.number, A, CLIENT.number, back=True), **payload)


def comes_from_there(rig: Rig, src: str, shape: Shape = udp) -> None:
    """An answer from another address arrives as one from ``src``, as new as any."""
    result = rig.send(elsewhere(shape), "host")
    port = SERVICE.number if src == VIP else SERVER.number
    wanted = shape(Ends(src, port, A, CLIENT.number, back=True))
    arrives(result, "a", hopped(wanted))


@pytest.mark.parametrize("shape", UDP_SHAPES.values(), ids=UDP_SHAPES.keys())
def test_it_comes_from_where_the_client_asked(rig: Rig, shape: Shape) -> None:
    talk = Talk(shape, CLIENT, SERVER, SERVER, CLIENT)
    talk.forward(rig)
    for _ in range(3):
        comes_from_there(rig, NODE, shape)
        talk.forward(rig)
        talk.back(rig)


@pytest.mark.parametrize("shape", UDP_SHAPES.values(), ids=UDP_SHAPES.keys())
def test_through_a_service(rig: Rig, shape: Shape) -> None:
    rig.vip(VIP, SERVICE.number, NODE, SERVER.number)
    talk = Talk(shape, CLIENT, SERVER, SERVICE, CLIENT)
    talk.forward(rig)
    for _ in range(3):
        comes_from_there(rig, VIP, shape)
        talk.forward(rig)
    rig.age()
    comes_from_there(rig, VIP, shape)


def test_one_that_the_gateways_address_was_asked_is_left_as_it_is(rig: Rig) -> None:
    rig.path(GATEWAY, "stack")
    asked = Talk(udp, CLIENT, SERVER, SERVER, CLIENT)
    gateway = Peer("host", GATEWAY, SERVER.number)
    Talk(udp, CLIENT, gateway, gateway, CLIENT).established(rig)
    asked.forward(rig)
    comes_from_there(rig, GATEWAY)


def test_fragments(rig: Rig) -> None:
    rig.vip(VIP, SERVICE.number, NODE, SERVER.number)
    Talk(udp, CLIENT, SERVER, SERVICE, CLIENT).forward(rig)
    answer = elsewhere(udp, payload=bytes(range(256)) * 9)
    wanted = IP(bytes(udp(Ends(VIP, 53, A, CLIENT.number), bytes(range(256)) * 9)))
    parts = zip(fragment(IP(bytes(answer)), 1400), fragment(wanted, 1400), strict=True)
    for sent, expected in parts:
        del sent[IP].chksum, expected[IP].chksum
        arrives(rig.send(sent, "host"), "a", hopped(expected))


@pytest.mark.parametrize(
    ("sent", "port"),
    [
        (udp(Ends(GATEWAY, 5301, A, 1000)), "host"),
        (udp(Ends(GATEWAY, 5300, A, 1001)), "host"),
        (udp(Ends(GATEWAY, 5300, B, 1000)), "host"),
        (tcp(Ends(GATEWAY, 5300, A, 1000, "S")), "host"),
    ],
    ids=["another port", "another client's port", "another client", "TCP"],
)
def test_anything_else_keeps_its_source(rig: Rig, sent: Packet, port: str) -> None:
    Talk(udp, CLIENT, SERVER, SERVER, CLIENT).forward(rig)
    result = rig.send(sent, port)
    assert (result.verdict, result.packet[IP].src) == ("redirect", GATEWAY)


@pytest.mark.parametrize(("src", "port"), [(OUTSIDE, "host"), (B, "host"), (B, "b")])
def test_nobody_elses_packet_is_taken_for_one(rig: Rig, src: str, port: str) -> None:
    """What the host forwards, or another pod sends, does not become the node's answer."""
    Talk(udp, CLIENT, SERVER, SERVER, CLIENT).forward(rig)
    result = rig.send(elsewhere(udp, src), port)
    assert NODE not in (result.packet[IP].src, result.packet[IP].dst)


def test_a_flow_that_the_node_opened_is_no_ones_answer(rig: Rig) -> None:
    """Two sockets of the node's with one port, both clients of the pod's."""
    for source in (NODE, GATEWAY):
        sent = elsewhere(udp, source)
        arrives(rig.send(sent, "host"), "a", hopped(sent))


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_a_node_of_many_addresses(cubelet_network: TestNetwork, mode: Mode) -> None:
    """The gateway's and seven of its own are tried; the programs pass the verifier."""
    own = tuple(ip_address(f"172.18.0.{n}") for n in range(2, 14))
    local = msgspec.structs.replace(cubelet_network.local, addresses=own)
    rig = Rig(replace(cubelet_network, local=local), mode, {})
    try:
        for address, served in (("172.18.0.8", True), ("172.18.0.9", False)):
            rig.path(address, "stack")
            server = Peer("host", address, SERVER.number)
            Talk(udp, CLIENT, server, server, CLIENT).forward(rig)
            result = rig.send(elsewhere(udp), "host")
            assert result.packet[IP].src == (address if served else GATEWAY)
            rig.forget(udp(CLIENT.to(server)))
            rig.forget(udp(server.to(CLIENT)))
    finally:
        rig.close()
