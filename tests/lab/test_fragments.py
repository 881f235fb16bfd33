"""Fragments in any order: every way, datagrams whole at real sockets, nothing twice."""

from __future__ import annotations

import multiprocessing
import random
import socket
import struct
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from cubelet.lab import netns
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT

from . import parts
from .manifests import pod, policy, service
from .world import Space, World

SIZES = (3_000, 4_000, 8_000)
"""Three, four and seven fragments."""
ECHO = 7
VXLAN_PORT = 4789


@pytest.fixture(scope="module")
def cut(world: World) -> Iterator[Space]:
    """A client on node1; a server on each node, with a ClusterIP and a node port."""
    space = Space(world, "cut")
    servers = {"near": "node1", "far": "node2"}
    space.apply(
        pod("client", nodeName="node1"),
        *(pod(name, ("UDP", ECHO), nodeName=node) for name, node in servers.items()),
        *(service(name, name, ("UDP", 80, ECHO), type="NodePort") for name in servers),
    )
    yield space
    space.delete("Service", *servers)
    space.delete("Pod", "client", *servers)


def drops(world: World) -> dict[tuple[str, str, str], int]:
    """Fragments that were dropped for being fragments."""
    return {
        (node, row["reason"], row["class"]): row["packets"]
        for node in ("node1", "node2")
        for row in world.call(node, "get", noun="drops")
        if row["reason"].startswith("fragment") and row["packets"]
    }


WAYS: dict[str, Callable[[Space], tuple[str, str, int]]] = {
    "pod to pod": lambda s: (s.at("client"), s.ip("near"), ECHO),
    "pod to another node's pod": lambda s: (s.at("client"), s.ip("far"), ECHO),
    "pod to ClusterIP": lambda s: (s.at("client"), s.vip("near"), 80),
    "pod to ClusterIP, another node's": lambda s: (s.at("client"), s.vip("far"), 80),
    "pod to outside": lambda s: (s.at("client"), OUTSIDE_ADDRESS, OUTSIDE_PORT),
    "pod to node port": lambda s: (s.at("client"), node(s, 2), s.node_port("near", "UDP")),
    "NodePort": lambda s: (s.world.outside, node(s, 1), s.node_port("near", "UDP")),
    "NodePort, another node's": lambda s: (s.world.outside, node(s, 1), s.node_port("far", "UDP")),
    "host to pod": lambda s: (host(s), s.ip("near"), ECHO),
    "host to another node's pod": lambda s: (host(s), s.ip("far"), ECHO),
    "host to ClusterIP": lambda s: (host(s), s.vip("near"), 80),
    "host to ClusterIP, another node's": lambda s: (host(s), s.vip("far"), 80),
    "host to its own node port": lambda s: (host(s), node(s, 1), s.node_port("near", "UDP")),
    "host to another's node port": lambda s: (host(s), node(s, 2), s.node_port("far", "UDP")),
}


def node(space: Space, number: int) -> str:
    return space.world.node(f"node{number}").address


def host(space: Space) -> str:
    return space.world.at_node("node1")


@pytest.mark.parametrize("way", WAYS)
def test_in_any_order(cut: Space, way: str) -> None:
    before = drops(cut.world)
    place, address, port = WAYS[way](cut)
    assert cut.world.run(place, parts.exchange, address, port, SIZES, timeout=120) == []
    assert drops(cut.world) == before


@pytest.mark.parametrize("order", parts.ORDERS)
def test_answers_to_a_masqueraded_pod(cut: Space, order: str) -> None:
    """A server outside cuts its answer, to the node's own address."""
    with (
        ThreadPoolExecutor(1) as pool,
        cut.world.made_in(cut.world.outside, lambda: udp(OUTSIDE_ADDRESS)) as server,
    ):
        answering = pool.submit(
            lambda: cut.world.made_in(cut.world.outside, lambda: parts.answer(server, order, 8_000))
        )
        address = server.getsockname()
        assert cut.world.run(cut.at("client"), asked, address) == answering.result()


def udp(address: str, port: int = 0) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.settimeout(3)
    made.bind((address, port))
    return made


def asked(server: tuple[str, int]) -> bytes:
    """What a server answers."""
    with udp("") as client:
        client.sendto(b"?", server)
        return client.recv(65536)


@pytest.mark.parametrize("way", ["pod to pod", "NodePort, another node's"])
@pytest.mark.parametrize("order", parts.ORDERS)
def test_each_fragment_arrives_once(cut: Space, way: str, order: str) -> None:
    """As often as it was sent, at the server's device."""
    place, address, port = WAYS[way](cut)
    server = "near" if way == "pod to pod" else "far"
    made = cut.world.made_in(cut.at(server), lambda: parts.Counted("eth0"))
    with closing(made) as counted:
        source, count = cut.world.run(place, one_way, address, port, order)
        if way != "pod to pod":
            source = "192.168.1.1"  # node1's gateway, in whose name it went on
        assert counted.fragments(source) == count


def one_way(address: str, port: int, order: str) -> tuple[str, int]:
    """Send 4,000 bytes; the source, and how many fragments they made."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.connect((address, port))
        source, data = client.getsockname(), random.randbytes(4_000)
        whole = parts.datagram(source, (address, port), data)
        packets = parts.arranged(
            parts.cut(source[0], address, whole, random.randrange(1, 65536)), order
        )
        parts.send(packets, address)
        return source[0], len(packets)


@pytest.mark.parametrize("order", parts.ORDERS)
def test_by_the_overlay_out_of_order(cut: Space, order: str) -> None:
    """The nodes' network puts tunnelled fragments out of order: they enter without the sender's
    node having had a say."""
    source, to = (cut.ip("client"), 5353), (cut.ip("far"), ECHO)
    with closing(cut.world.made_in(cut.at("client"), lambda: udp("", source[1]))) as client:
        whole = parts.datagram(source, to, random.randbytes(8_000))
        packets = parts.arranged(parts.cut(source[0], to[0], whole, random.randrange(65536)), order)
        cut.world.run(host(cut), tunnel, packets, node(cut, 2))
        assert client.recv(65536) == whole[8:]


def tunnel(packets: list[bytes], remote: str) -> None:
    """IP packets in VXLAN, as a node sends them."""
    head = struct.pack("!II", 0x08000000, 1 << 8) + bytes(12) + struct.pack("!H", 0x0800)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for packet in packets:
            sender.sendto(head + packet, (remote, VXLAN_PORT))


@pytest.mark.parametrize("order", parts.ORDERS)
def test_the_hosts_own_datagrams_reach_it(cut: Space, order: str) -> None:
    """From outside and from a pod, once each."""
    address = node(cut, 1)
    server = cut.world.made_in(host(cut), lambda: udp(address))
    with closing(server):
        for place in (cut.world.outside, cut.at("client")):
            size = cut.world.run(place, one_way, address, server.getsockname()[1], order)
            assert size
            assert len(server.recv(65536)) == 4_000
        server.settimeout(0.3)
        with pytest.raises(TimeoutError):
            server.recv(65536)


@pytest.mark.parametrize("way", ["pod to pod", "pod to ClusterIP, another node's"])
def test_first_and_later_at_the_same_time(cut: Space, way: str) -> None:
    """On two CPUs each writes what it is, then looks for the other: one of them must find it."""
    place, *to = WAYS[way](cut)
    turn = multiprocessing.Value("i", 0, lock=False)
    shared = ((cut.ip("client"), 5454), tuple(to)), 2_000, turn
    calls = [
        netns.Call(place, parts.raced, shared),
        *(netns.Call(place, parts.race, (which, *shared)) for which in range(2)),
    ]
    assert netns.run_all(calls, timeout=120) == [[], [], []]


def test_a_policy_holds_for_all_of_a_datagram(cut: Space) -> None:
    cut.apply(policy("closed", "near", ingress=[]))
    try:
        made = cut.world.made_in(cut.at("near"), lambda: parts.Counted("eth0"))
        with closing(made) as counted:
            for order in parts.ORDERS:
                cut.world.run(cut.at("client"), one_way, cut.ip("near"), ECHO, order)
            assert counted.fragments(cut.ip("client")) == 0
    finally:
        cut.delete("NetworkPolicy", "closed")


def test_it_works_without_the_agent(cut: Space) -> None:
    world = cut.world
    world.kill("node1")
    try:
        assert world.run(cut.at("client"), parts.exchange, cut.vip("far"), 80, SIZES, 1) == []
    finally:
        world.start("node1")
