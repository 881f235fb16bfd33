"""What a node asks of its own address: Services' ports there are served, its own are left alone."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from cubelet.lab import traffic

from .manifests import pod, service
from .world import Space, World

ECHO = (("TCP", 7), ("UDP", 7))
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}


@pytest.fixture(scope="module")
def shop(world: World) -> Iterator[Space]:
    """Services with node ports: of a pod here, of one on the other node, of node1's network."""
    space = Space(world, "own")
    names = {"here": "node1", "there": "node2"}
    space.apply(
        *(pod(name, *ECHO, nodeName=node) for name, node in names.items()),
        pod("net", ("TCP", 8080), ("UDP", 8080), hostNetwork=True, nodeName="node1"),
        *(service(n, n, ("TCP", 80, 7), ("UDP", 80, 7), type="NodePort") for n in names),
        service("net", "net", ("TCP", 80, 8080), ("UDP", 80, 8080), type="NodePort"),
        service("nobody", "nobody", ("TCP", 80, 7), ("UDP", 80, 7), type="NodePort"),
    )
    yield space
    space.delete("Service", "here", "there", "net", "nobody")
    space.delete("Pod", "here", "there", "net")


@pytest.fixture
def address(shop: Space) -> str:
    return shop.world.node("node1").address


def bound(world: World, protocol: str, port: int) -> socket.socket:
    """A socket of node1's at this port, on any of its addresses."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, KINDS[protocol])
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.settimeout(2)
        made.bind(("", port))
        return made

    return world.made_in(world.at_node("node1"), make)


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
@pytest.mark.parametrize("name", ["here", "there", "net"])
def test_a_node_port_is_served(shop: Space, address: str, name: str, protocol: str) -> None:
    port = shop.node_port(name, protocol)
    assert shop.who(shop.world.at_node("node1"), address, port, protocol) == name


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_one_without_endpoints_is_refused_at_once(shop: Space, address: str, protocol: str) -> None:
    port = shop.node_port("nobody", protocol)
    assert shop.who(shop.world.at_node("node1"), address, port, protocol) == "refused"


@pytest.mark.parametrize("name", ["here", "there"])
def test_much_arrives_intact(shop: Space, address: str, name: str) -> None:
    place, port = shop.world.at_node("node1"), shop.node_port(name)
    assert shop.world.run(place, traffic.transfer, address, port, 20_000_000).answered


@pytest.mark.parametrize("name", ["here", "there"])
def test_datagrams_come_in_fragments_once_the_way_is_known(
    shop: Space, address: str, name: str
) -> None:
    place, port = shop.world.at_node("node1"), shop.node_port(name, "UDP")
    sizes = [shop.world.run(place, traffic.udp_echo, address, port, 9000) for _ in range(3)]
    assert sizes[-1].answered


def test_it_works_without_the_agent(shop: Space, address: str) -> None:
    world = shop.world
    world.kill("node1")
    assert shop.who(world.at_node("node1"), address, shop.node_port("there")) == "there"
    world.start("node1")
    assert shop.who(world.at_node("node1"), address, shop.node_port("there")) == "there"


@pytest.mark.parametrize("number", ["a Service's", "nobody's"])
@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_client_may_have_a_number_of_the_range(
    shop: Space, address: str, number: str, protocol: str
) -> None:
    """The node's server answers to a port that would lead elsewhere."""
    taken = shop.node_port("there", protocol) if number == "a Service's" else 32700
    with bound(shop.world, protocol, 5001) as server, bound(shop.world, protocol, taken) as client:
        if protocol == "TCP":
            server.listen()
            client.connect((address, 5001))
            accepted, peer = server.accept()
            with accepted:
                accepted.sendall(b"hello")
        else:
            client.connect((address, 5001))
            client.send(b"?")
            _, peer = server.recvfrom(16)
            server.sendto(b"hello", peer)
        assert (peer, client.recv(16)) == ((address, taken), b"hello")


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_server_of_the_nodes_own_in_the_range_is_reached(
    shop: Space, address: str, protocol: str
) -> None:
    with bound(shop.world, protocol, 32701) as server, bound(shop.world, protocol, 0) as client:
        if protocol == "TCP":
            server.listen()
        client.connect((address, 32701))
        client.send(b"hello")
        if protocol == "TCP":
            accepted, _ = server.accept()
            with accepted:
                accepted.sendall(accepted.recv(16))
        else:
            server.sendto(*server.recvfrom(16))
        assert client.recv(16) == b"hello"
