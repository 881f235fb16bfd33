"""A node's own ports at 127.0.0.1: NodePorts and host ports are served there, to the node alone."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from cubelet.lab import traffic
from cubelet.lab.kinds import Manifest
from cubelet.lab.layout import OUTSIDE_ADDRESS
from cubelet.net import sysctl
from cubelet.net.node import mac_of

from . import frames
from .load import connections, datagrams, loads, stream
from .manifests import pod, service
from .test_own_address import KINDS, bound
from .world import Space, World

LOCALHOST = "127.0.0.1"
ECHO = (("TCP", 7), ("UDP", 7))
NAMES = ("here", "there", "net")
PROTOCOLS = pytest.mark.parametrize("protocol", ["TCP", "UDP"])


@pytest.fixture(scope="module")
def shop(world: World) -> Iterator[Space]:
    """Services with node ports: of a pod here, of one on the other node, of node1's network."""
    space = Space(world, "loop")
    space.apply(
        pod("here", *ECHO, nodeName="node1"),
        pod("there", *ECHO, nodeName="node2"),
        pod("net", ("TCP", 8085), ("UDP", 8085), hostNetwork=True, nodeName="node1"),
        hosting("all", 8600, ""),
        hosting("alone", 8601, LOCALHOST),
        hosting("other", 8602, world.node("node1").address),
        pod("near", nodeName="node1"),
        *(
            service(n, n, ("TCP", 80, to), ("UDP", 80, to), type="NodePort")
            for n, to in (("here", 7), ("there", 7), ("net", 8085), ("nobody", 7))
        ),
    )
    yield space
    space.delete("Service", *NAMES, "nobody")
    space.delete("Pod", *NAMES, "all", "alone", "other", "near")


def hosting(name: str, number: int, address: str) -> Manifest:
    made = pod(name, nodeName="node1")
    made["spec"]["containers"][0]["ports"] = [
        {"protocol": protocol, "containerPort": port, "hostPort": number}
        | ({"hostIP": address} if address else {})
        for protocol, port in (("TCP", 80), ("UDP", 53))
    ]
    return made


@pytest.fixture
def node(shop: Space) -> str:
    return shop.world.at_node("node1")


@PROTOCOLS
@pytest.mark.parametrize("name", NAMES)
def test_a_node_port(shop: Space, node: str, name: str, protocol: str) -> None:
    for _ in range(3):
        assert shop.who(node, LOCALHOST, shop.node_port(name, protocol), protocol) == name


@PROTOCOLS
@pytest.mark.parametrize(("name", "number"), [("all", 8600), ("alone", 8601)])
def test_a_host_port(shop: Space, node: str, name: str, number: int, protocol: str) -> None:
    for _ in range(3):
        assert shop.who(node, LOCALHOST, number, protocol) == name


@PROTOCOLS
def test_one_of_another_address_is_refused(shop: Space, node: str, protocol: str) -> None:
    assert shop.who(node, LOCALHOST, 8602, protocol) == "refused"


@PROTOCOLS
def test_one_without_endpoints_is_refused(shop: Space, node: str, protocol: str) -> None:
    assert shop.who(node, LOCALHOST, shop.node_port("nobody", protocol), protocol) == "refused"
    assert shop.who(node, LOCALHOST, 32702, protocol) == "refused"


@PROTOCOLS
@pytest.mark.parametrize("source", ["node", "gateway"])
def test_from_another_address_of_the_nodes(shop: Space, source: str, protocol: str) -> None:
    """As ``curl --interface`` does in the conformance suite."""
    world = shop.world
    address = {"node": world.node("node1").address, "gateway": "192.168.1.1"}[source]

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, KINDS[protocol])
        made.bind((address, 0))
        return made

    with world.made_in(world.at_node("node1"), make) as client:
        client.settimeout(2)
        client.connect((LOCALHOST, 8601))
        client.send(b"who\n")
        assert b"loop/alone" in client.recv(4096)


@pytest.mark.parametrize("name", NAMES)
def test_much_arrives_intact(shop: Space, node: str, name: str) -> None:
    port = shop.node_port(name)
    assert shop.world.run(node, traffic.transfer, LOCALHOST, port, 20_000_000).answered


@pytest.mark.parametrize("name", ["here", "there"])
def test_datagrams_come_in_fragments_once_the_way_is_known(
    shop: Space, node: str, name: str
) -> None:
    port = shop.node_port(name, "UDP")
    sizes = [shop.world.run(node, traffic.udp_echo, LOCALHOST, port, 9000) for _ in range(3)]
    assert sizes[-1].answered


@PROTOCOLS
def test_a_port_of_127_0_0_1_is_the_nodes_alone(shop: Space, protocol: str) -> None:
    world = shop.world
    address = world.node("node1").address
    for place in (world.outside, world.at_node("node2"), world.at_node("node1"), shop.at("near")):
        assert shop.who(place, address, 8601, protocol) == "refused"
        if place != world.at_node("node1"):
            assert shop.who(place, LOCALHOST, 8601, protocol) == "refused"


def test_no_other_device_takes_such_packets(shop: Space) -> None:
    """The kernel's own guard stays: only the loopback device, which no one else can send by."""
    found = shop.world.run(shop.world.at_node("node1"), route_localnet)
    assert {device for device, value in found.items() if value == "1"} == {"lo"}


def route_localnet() -> dict[str, str]:
    folder = Path("/proc/sys/net/ipv4/conf")
    return {
        each.name: sysctl.read(f"ipv4/conf/{each.name}/route_localnet") for each in folder.iterdir()
    }


def forged(to: str, src: str, mark: bytes) -> bytes:
    """A datagram to 127.0.0.1's host port, in a frame made by hand."""
    datagram = UDP(sport=4242, dport=8601) / Raw(mark)
    return bytes(Ether(dst=to) / IP(src=src, dst=LOCALHOST) / datagram)


def test_frames_made_by_hand_do_not_reach_it(shop: Space, node: str) -> None:
    """From a pod and from the nodes' network, under their own address and under 127.0.0.1."""
    world = shop.world
    uplink = world.run(node, frames.mac)
    senders = {
        shop.at("near"): (mac_of("node1", "router"), shop.ip("near")),
        world.outside: (uplink.hex(":"), OUTSIDE_ADDRESS),
    }
    for place, (to, own) in senders.items():
        mark = b"forged from " + place.encode()
        with frames.heard(shop.at("alone"), contains=mark) as heard:
            for src in (own, LOCALHOST):
                world.run(place, frames.send, forged(to, src, mark))
        assert heard(0) == []
    with frames.heard(shop.at("alone"), contains=b"its own") as heard:
        world.run(node, traffic.udp, LOCALHOST, 8601, b"its own")
    assert len(heard(0)) == 1


@PROTOCOLS
def test_the_nodes_own_servers_are_reached(shop: Space, protocol: str) -> None:
    """In the range of node ports, at 127.0.0.1, as ever."""
    world = shop.world

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, KINDS[protocol])
        made.settimeout(2)
        made.bind((LOCALHOST, 32703))
        return made

    with (
        world.made_in(world.at_node("node1"), make) as server,
        bound(world, protocol, 0) as client,
    ):
        if protocol == "TCP":
            server.listen()
        client.connect((LOCALHOST, 32703))
        client.send(b"hello")
        if protocol == "TCP":
            accepted, peer = server.accept()
            with accepted:
                accepted.sendall(accepted.recv(16) + bytes(200_000))
        else:
            data, peer = server.recvfrom(16)
            server.sendto(data, peer)
        assert client.recv(5) == b"hello"
        assert peer == (LOCALHOST, client.getsockname()[1])


def test_it_works_without_the_agent_and_over_its_restart(shop: Space, node: str) -> None:
    world = shop.world
    with loads() as running:
        running.add("connection", node, stream, LOCALHOST, shop.node_port("there"))
        running.add("datagrams", node, datagrams, LOCALHOST, shop.node_port("here", "UDP"), 100)
        running.add("connections", node, connections, LOCALHOST, 8601)
        world.kill("node1")
        time.sleep(1)
        world.start("node1")
        world.stop("node1")
        world.start("node1")
    running.check(20)


def test_a_connection_to_a_pod_that_is_gone_is_reset(space: Space) -> None:
    space.apply(pod("server", nodeName="node1"), service("s", "server", ("TCP", 80, 7000)))
    exposed = service("s", "server", ("TCP", 80, 7000), type="NodePort")
    space.apply(exposed)
    world = space.world
    listener, client = (
        world.made_in(place, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))
        for place in (space.at("server"), world.at_node("node1"))
    )
    with listener, client:
        listener.bind(("", 7000))
        listener.listen()
        client.settimeout(3)
        client.connect((LOCALHOST, space.node_port("s")))
        accepted, _ = listener.accept()
        with accepted:
            space.delete("Pod", "server")
            client.sendall(b"?")
            with pytest.raises(ConnectionResetError):
                client.recv(16)
