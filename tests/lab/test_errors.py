"""ICMP errors from outside: of pods' flows to pods, of the node's own to it, and no others."""

from __future__ import annotations

import json
import select
import socket
import time
from collections.abc import Iterator

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Packet

from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT

from .manifests import pod
from .world import Space, World

ROUTER = "172.18.0.77"
"""Somebody on the nodes' network: no host of the lab has the address."""
PORT_UNREACHABLE = {"type": 3, "code": 3}
FRAGMENTATION_NEEDED = {"type": 3, "code": 4, "nexthopmtu": 1000}
_IP_MTU = 14


@pytest.fixture(scope="module")
def client(world: World) -> Iterator[Space]:
    """A pod that speaks to the outside."""
    space = Space(world, "errors")
    space.apply(pod("client", nodeName="node1"))
    yield space
    space.delete("Pod", "client")


def talking(kind: socket.SocketKind) -> tuple[socket.socket, int]:
    """A socket connected to the outside, and by which port the outside knows it."""
    made = socket.socket(socket.AF_INET, kind)
    made.settimeout(2)
    made.connect((OUTSIDE_ADDRESS, OUTSIDE_PORT))
    made.send(b"who\n")
    return made, int(json.loads(made.recv(2048))["port"])


def at_pod(space: Space, kind: socket.SocketKind) -> tuple[socket.socket, int]:
    return space.world.made_in(space.at("client"), lambda: talking(kind))


def at_node(space: Space, kind: socket.SocketKind) -> tuple[socket.socket, int]:
    return space.world.made_in(space.world.at_node("node1"), lambda: talking(kind))


def err(source: str, target: str, error: dict[str, int], quoted: bytes) -> None:
    """Send an error from the outside, of whatever source."""
    packet = IP(src=source, dst=target) / ICMP(**error) / quoted
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(bytes(packet), (target, 0))


def tell(space: Space, error: dict[str, int], segment: Packet, source: str = ROUTER) -> None:
    """Tell node1 of what it has sent to the outside."""
    node = space.world.node("node1").address
    quoted = bytes(IP(src=node, dst=OUTSIDE_ADDRESS, ttl=60) / segment)
    space.world.run(space.world.outside, err, source, node, error, quoted)
    time.sleep(0.2)


def trouble(opened: socket.socket) -> int:
    """The error number that the kernel has for a socket; 0 for none."""
    return opened.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)


def heard(space: Space) -> socket.socket:
    """Hears all ICMP that node1's own stack gets."""
    return space.world.made_in(
        space.world.at_node("node1"),
        lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    )


def unrelated(space: Space) -> int:
    rows = space.world.call("node1", "get", noun="drops", where={"reason": "unrelated"})
    return sum(row["packets"] for row in rows if row["class"] == "uplink")


def test_a_pod_is_told_of_what_it_has_sent(client: Space) -> None:
    """And of nothing else, nor is the node told: not of another port, of another direction."""
    opened, port = at_pod(client, socket.SOCK_DGRAM)
    with opened, heard(client) as node:
        before = unrelated(client)
        for sport, dport in ((port ^ 1, OUTSIDE_PORT), (port, OUTSIDE_PORT + 1), (12_000, 53)):
            tell(client, PORT_UNREACHABLE, UDP(sport=sport, dport=dport))
        tell(client, PORT_UNREACHABLE, TCP(sport=port, dport=OUTSIDE_PORT))
        assert unrelated(client) - before == 4
        assert not trouble(opened)
        assert not select.select([node], [], [], 0)[0]
        tell(client, FRAGMENTATION_NEEDED, UDP(sport=port, dport=OUTSIDE_PORT))
        assert opened.getsockopt(socket.IPPROTO_IP, _IP_MTU) == 1000
        tell(client, PORT_UNREACHABLE, UDP(sport=port, dport=OUTSIDE_PORT))
        assert trouble(opened)
        assert not select.select([node], [], [], 0)[0]


def test_the_node_is_told_of_its_own(client: Space) -> None:
    opened, port = at_node(client, socket.SOCK_DGRAM)
    with opened:
        tell(client, PORT_UNREACHABLE, UDP(sport=port, dport=OUTSIDE_PORT))
        assert trouble(opened)


def test_a_tcp_connection_is_told_of_segments_under_way(client: Space) -> None:
    opened, port = at_pod(client, socket.SOCK_STREAM)
    with opened:
        before = unrelated(client)
        # as the pod's sequence numbers are not known out there, of four guesses three are wrong
        for quarter in range(4):
            segment = TCP(sport=port, dport=OUTSIDE_PORT, seq=quarter << 30, flags="A")
            tell(client, FRAGMENTATION_NEEDED, segment)
        assert unrelated(client) - before == 3
        opened.send(b"who\n")
        assert opened.recv(2048)


def test_no_error_comes_from_a_martian(client: Space) -> None:
    opened, port = at_pod(client, socket.SOCK_DGRAM)
    with opened:
        for source in ("127.0.0.1", "10.244.2.9", client.ip("client"), "10.96.0.1", "224.0.0.9"):
            tell(client, PORT_UNREACHABLE, UDP(sport=port, dport=OUTSIDE_PORT), source)
        assert not trouble(opened)
