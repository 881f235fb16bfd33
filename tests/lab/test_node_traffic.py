"""The node's own traffic beyond the uplink is nobody else's, whatever pods send to its peers."""

from __future__ import annotations

import select
import socket
import struct
import threading
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP

from cubelet.lab.layout import OUTSIDE_ADDRESS
from cubelet.net.node import mac_of

from . import frames
from .manifests import pod
from .world import Space, World

PORTLESS = {
    "IPIP": (4, bytes(IP(src="192.0.2.1", dst="192.0.2.2"))),
    "GRE": (47, bytes(24)),
    "ESP": (50, b"\0\0\0\1" + bytes(36)),
    "AH": (51, bytes(24)),
    "OSPF": (89, bytes(44)),
    "L2TP": (115, bytes(24)),
    "SCTP": (132, bytes(SCTP(sport=3868, dport=3868, tag=7)) + bytes(16)),
}


@pytest.fixture(scope="module")
def here(world: World) -> Iterator[Space]:
    """Two pods on node1, one on node2."""
    space = Space(world, "own")
    space.apply(*(pod(name, nodeName="node1") for name in ("a", "b")), pod("far", nodeName="node2"))
    yield space
    space.delete("Pod", "a", "b", "far")


def raw(space: Space, place: str, protocol: int) -> socket.socket:
    """What hears a protocol's packets in a namespace, and sends them."""
    made = space.world.made_in(
        place, lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, protocol)
    )
    made.settimeout(1)
    return made


def hears(opened: socket.socket, source: str) -> bool:
    """Whether a packet of this source comes within a moment; what else comes is passed over."""
    end = time.monotonic() + 0.4
    while (left := end - time.monotonic()) > 0:
        if select.select([opened], [], [], left)[0] and opened.recvfrom(2048)[1][0] == source:
            return True
    return False


@pytest.mark.parametrize(("protocol", "body"), PORTLESS.values(), ids=PORTLESS)
def test_a_pod_takes_over_nothing_without_ports(here: Space, protocol: int, body: bytes) -> None:
    """Before and after it has sent the like to the node's peer; between pods it goes on."""
    node = here.world.node("node1").address
    with (
        raw(here, here.at("a"), protocol) as of_pod,
        raw(here, here.world.at_node("node1"), protocol) as of_node,
        raw(here, here.world.outside, protocol) as peer,
    ):
        for _ in range(2):
            peer.sendto(body, (node, 0))
            assert hears(of_node, OUTSIDE_ADDRESS)
            assert not hears(of_pod, OUTSIDE_ADDRESS)
            of_pod.sendto(body, (OUTSIDE_ADDRESS, 0))
        assert not hears(peer, node)
        rows = here.world.call("node1", "get", noun="drops", where={"cube": "nat"})
        assert [row["reason"] for row in rows] == ["no_ports"]
        for name in ("b", "far"):
            with raw(here, here.at(name), protocol) as other:
                of_pod.sendto(body, (here.ip(name), 0))
                assert hears(other, here.ip("a"))
                other.sendto(body, (here.ip("a"), 0))
                assert hears(of_pod, here.ip(name))


def echo_request(identifier: int, sequence: int, size: int) -> bytes:
    return bytes(ICMP(type=8, id=identifier, seq=sequence) / bytes(size))


def pings(opened: socket.socket, identifier: int, first: int, count: int, size: int) -> list[int]:
    """The sequence numbers, of this many from the first on, that the outside has answered."""
    answered = []
    for sequence in range(first, first + count):
        opened.sendto(echo_request(identifier, sequence, size), (OUTSIDE_ADDRESS, 0))
        end = time.monotonic() + 1
        while (left := end - time.monotonic()) > 0:
            if not select.select([opened], [], [], left)[0]:
                break
            kind, _, _, seen, number = struct.unpack_from("!BBHHH", opened.recv(65536), 20)
            if (kind, seen, number) == (0, identifier, sequence):
                answered.append(sequence)
                break
    return answered


@pytest.mark.parametrize("size", [56, 4000], ids=["whole", "fragments"])
def test_the_nodes_ping_is_answered_beside_a_pods(here: Space, size: int) -> None:
    """Of the same identifier, to the same host, at the same time: each has its answers."""
    identifier, count = 20_021 + size, 20
    with (
        raw(here, here.at("a"), socket.IPPROTO_ICMP) as of_pod,
        raw(here, here.world.at_node("node1"), socket.IPPROTO_ICMP) as of_node,
    ):
        assert pings(of_pod, identifier, 0, 1, size) == [0]
        (flow,) = (
            flow
            for flow in here.world.call("node1", "get", noun="flows", where={"src": here.ip("a")})
            if str(identifier) in str(flow)
        )
        assert str(flow).count(str(identifier)) >= 2, "the pod has kept its identifier"
        heard: dict[str, list[int]] = {}

        def keep(name: str, opened: socket.socket, first: int) -> None:
            heard[name] = pings(opened, identifier, first, count, size)

        threads = [
            threading.Thread(target=keep, args=args)
            for args in (("pod", of_pod, 1000), ("node", of_node, 2000))
        ]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
    assert heard == {
        "pod": list(range(1000, 1000 + count)),
        "node": list(range(2000, 2000 + count)),
    }


def test_a_pods_unasked_reply_opens_no_way_to_the_nodes_pings(here: Space) -> None:
    """An echo reply that nobody asked for, and then an outsider's ping of that identifier."""
    identifier = 20_333
    own = here.world.run(here.at("a"), frames.mac).hex(":")
    reply = ICMP(type=0, id=identifier) / b"unasked"
    ip = IP(src=here.ip("a"), dst=OUTSIDE_ADDRESS)
    frame = Ether(src=own, dst=mac_of("node1", "router")) / ip / reply
    here.world.run(here.at("a"), frames.send, bytes(frame))
    with (
        raw(here, here.at("a"), socket.IPPROTO_ICMP) as of_pod,
        raw(here, here.world.outside, socket.IPPROTO_ICMP) as outside,
    ):
        node = here.world.node("node1").address
        outside.sendto(echo_request(identifier, 1, 8), (node, 0))
        assert hears(outside, node)
        assert not hears(of_pod, OUTSIDE_ADDRESS)
