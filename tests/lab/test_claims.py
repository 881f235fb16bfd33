"""Services that name addresses which somebody has: what they get, and what the others keep."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from cubelet.lab.kinds import Manifest
from cubelet.lab.layout import OUTSIDE_ADDRESS

from .manifests import pod, service
from .world import Space, World, eventually

ECHO = (("TCP", 7), ("UDP", 7))
VIP = "172.18.0.200"


@pytest.fixture
def shop(space: Space) -> Space:
    """A pod on each node, and the one on node2 serves."""
    space.apply(pod("client", *ECHO, nodeName="node1"), pod("server", *ECHO, nodeName="node2"))
    return space


def places(shop: Space) -> dict[str, str]:
    """Everywhere that a Service may be asked from."""
    return {
        "outside": shop.world.outside,
        "node1": shop.world.at_node("node1"),
        "node2": shop.world.at_node("node2"),
        "pod on node1": shop.at("client"),
        "pod on node2": shop.at("server"),
    }


def asked(shop: Space, address: str, port: int, protocol: str = "TCP") -> dict[str, str]:
    return {name: shop.who(at, address, port, protocol) for name, at in places(shop).items()}


def everywhere(shop: Space, answer: str) -> dict[str, str]:
    return dict.fromkeys(places(shop), answer)


def balanced(name: str, app: str, *addresses: str, port: int = 8080) -> Manifest:
    """A Service of a load balancer that has given it these addresses, as k3s does the nodes'."""
    made = service(name, app, ("TCP", port, 7), ("UDP", port, 7), type="LoadBalancer")
    made["status"] = {"loadBalancer": {"ingress": [{"ip": each} for each in addresses]}}
    return made


def problems(world: World) -> str:
    return " ".join(map(str, world.call("node1", "status")["problems"]))


def routes(world: World, node: str) -> str:
    command = ["ip", "netns", "exec", world.at_node(node), "ip", "route"]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def route_to(world: World, node: str, address: str) -> str:
    command = ["ip", "netns", "exec", world.at_node(node), "ip", "route", "get", address]
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def listening(world: World, node: str, port: int) -> socket.socket:
    """A server of the node's own, on all its addresses."""

    def make() -> socket.socket:
        return socket.create_server(("", port))

    return world.made_in(world.at_node(node), make)


def connected(world: World, place: str, address: str, port: int) -> socket.socket:
    return world.made_in(place, lambda: socket.create_connection((address, port), 2))


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_nodes_addresses_as_load_balancers_are_served_from_everywhere(
    shop: Space, protocol: str
) -> None:
    """k3s puts all nodes' addresses there, for every Service of type LoadBalancer."""
    addresses = [node.address for node in shop.world.spec.nodes]
    shop.apply(balanced("edge", "server", *addresses))
    for address in addresses:
        assert asked(shop, address, 8080, protocol) == everywhere(shop, "server"), address
    assert problems(shop.world) == ""
    shop.delete("Service", "edge")
    for name, answer in asked(shop, addresses[1], 8080, protocol).items():
        assert answer != "server", name


def test_what_a_node_serves_itself_stays_with_it(shop: Space) -> None:
    """Other ports of the same address, and connections that are there when the Service comes."""
    world, address = shop.world, shop.world.node("node2").address
    with ExitStack() as stack:
        own = stack.enter_context(listening(world, "node2", 8081))
        taken = stack.enter_context(listening(world, "node2", 8080))
        before = stack.enter_context(closing(connected(world, world.outside, address, 8080)))
        kept, _ = taken.accept()
        shop.apply(balanced("edge", "server", address))
        for place in places(shop).values():
            with closing(connected(world, place, address, 8081)) as client:
                says(client, own.accept()[0], b"new")
        says(before, kept, b"still here")
        assert asked(shop, address, 8080) == everywhere(shop, "server")


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_an_external_ip_takes_no_port_that_the_node_serves_itself(
    shop: Space, protocol: str
) -> None:
    """SSH, etcd, the kubelet: whoever may write a Service could have nodes lose each other."""
    world, address = shop.world, shop.world.node("node2").address
    ports = (("TCP", 8080, 7), ("UDP", 8080, 7))
    shop.apply(service("edge", "server", *ports, externalIPs=[address]))
    assert asked(shop, address, 8080, protocol) == everywhere(shop, "server")
    at_node2 = {name: at for name, at in places(shop).items() if name != "pod on node1"}
    with closing(answering(world, "node2", protocol, 8080)) as own:
        own.settimeout(2)
        for name, place in at_node2.items():
            assert reaches(world, place, address, own, protocol), name
    assert asked(shop, address, 8080, protocol) == everywhere(shop, "server")


def answering(world: World, node: str, protocol: str, port: int) -> socket.socket:
    if protocol == "TCP":
        return listening(world, node, port)

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.bind(("", port))
        return made

    return world.made_in(world.at_node(node), make)


def reaches(world: World, place: str, address: str, own: socket.socket, protocol: str) -> bool:
    """Whether a node's own socket gets what is sent to it from somewhere."""
    if protocol == "TCP":
        with closing(connected(world, place, address, own.getsockname()[1])) as client:
            says(client, own.accept()[0], b"word")
        return True

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        made.connect((address, own.getsockname()[1]))
        return made

    with closing(world.made_in(place, make)) as client:
        client.send(b"word")
        return own.recv(100) == b"word"


def test_nodes_and_pods_find_each_other_whatever_external_ips_are_named(shop: Space) -> None:
    world = shop.world
    nodes = [node.address for node in world.spec.nodes]
    cross = {
        "pod to pod": (shop.at("client"), shop.ip("server")),
        "node to pod": (world.at_node("node1"), shop.ip("server")),
        "pod to pod back": (shop.at("server"), shop.ip("client")),
    }
    before = {node.name: routes(world, node.name) for node in world.spec.nodes}
    ports = (("TCP", 7, 7), ("UDP", 4789, 7), ("UDP", 7, 7))
    taken = [*nodes, OUTSIDE_ADDRESS, shop.ip("server"), shop.ip("client"), "127.0.0.1"]
    shop.apply(pod("evil", *ECHO), service("evil", "evil", *ports, externalIPs=taken))
    for node in world.spec.nodes:
        assert routes(world, node.name) == before[node.name]
    for name, (place, address) in cross.items():
        expected = "client" if name.endswith("back") else "server"
        assert {shop.who(place, address, 7, p) for p in ("TCP", "UDP")} == {expected}, name
    told = problems(world)
    assert f"{shop.ip('server')} is in the podCIDR of node node2" in told
    assert f"{OUTSIDE_ADDRESS} is a router's" in told
    assert f"port 4789/UDP of {nodes[0]} is for the overlay" in told
    shop.delete("Service", "evil")
    assert problems(world) == ""


@pytest.mark.parametrize("thief", ["aaa", "zzz"])
def test_a_cluster_ip_is_its_services(shop: Space, thief: str) -> None:
    """Also one of no range that the agents know of: folders of manifests may have such."""
    ranged = service("a-right", "server", ("TCP", 80, 7))
    free = service("b-right", "server", ("TCP", 80, 7), clusterIP="10.200.0.7")
    shop.apply(ranged, free)
    vips = [shop.vip("a-right"), "10.200.0.7"]
    ports = (("TCP", 80, 7), ("TCP", 81, 7))
    space = Space(shop.world, f"{thief}-{shop.name}")
    try:
        space.apply(pod("evil", *ECHO), service("evil", "evil", *ports, externalIPs=vips))
        for vip in vips:
            assert shop.who(shop.at("client"), vip, 80) == "server"
            assert shop.who(shop.world.at_node("node1"), vip, 81) != f"{space.name}/evil"
            assert f"{vip} is the ClusterIP of Service {shop.name}/" in problems(shop.world)
    finally:
        space.delete("Service", "evil")
        space.delete("Pod", "evil")
    assert shop.who(shop.at("client"), vips[0], 80) == "server"


@contextmanager
def announced(world: World, node: str, device: str = "eth0") -> Iterator[None]:
    """The address is on a node's device, put there by a tool of the node's."""
    tail = [f"{VIP}/32", "dev", device]
    run = ["ip", "netns", "exec", world.at_node(node), "ip", "address"]
    subprocess.run([*run, "add", *tail], check=True)
    try:
        yield
    finally:
        subprocess.run([*run, "del", *tail], check=True)


@pytest.mark.parametrize("first", ["Service", "address"])
def test_an_address_that_a_tool_of_the_node_announces(shop: Space, first: str) -> None:
    """kube-vip and keepalived put it on the NIC: of it the Service's ports alone are ours."""
    world = shop.world
    made = balanced("edge", "server", VIP)
    if first == "Service":
        shop.apply(made)
    with announced(world, "node1"), closing(listening(world, "node1", 8081)) as own:
        shop.apply(made | {"metadata": {"name": "edge", "labels": {"announced": "yes"}}})
        for protocol in ("TCP", "UDP"):
            assert asked(shop, VIP, 8080, protocol) == everywhere(shop, "server")
        for place in places(shop).values():
            with closing(connected(world, place, VIP, 8081)):
                own.accept()[0].close()
        assert "cubelet0" not in route_to(world, "node2", VIP)
        assert problems(world) == ""


def test_the_same_port_of_the_nodes_other_addresses_stays_with_it(shop: Space) -> None:
    """New connections, and those that are there when the Service comes."""
    world, address = shop.world, shop.world.node("node1").address
    with ExitStack() as stack:
        stack.enter_context(announced(world, "node1"))
        own = stack.enter_context(listening(world, "node1", 8080))
        own.settimeout(2)
        kept = [
            (stack.enter_context(closing(connected(world, place, address, 8080))), own.accept()[0])
            for place in (world.at_node("node1"), world.outside)
        ]
        shop.apply(balanced("edge", "server", VIP))
        assert asked(shop, VIP, 8080) == everywhere(shop, "server")
        for place in places(shop).values():
            with closing(connected(world, place, address, 8080)) as client:
                kept.append((client, own.accept()[0]))
                says(*kept.pop(), b"new")
        for pair in kept:
            says(*pair, b"still here")


def says(client: socket.socket, server: socket.socket, word: bytes) -> None:
    """What a client sends arrives at the server's end of the connection, which is closed."""
    with server:
        server.settimeout(2)
        client.sendall(word)
        assert server.recv(100) == word


def test_it_is_served_wherever_it_moves_to(shop: Space) -> None:
    world = shop.world
    shop.apply(balanced("edge", "server", VIP))
    for node in ("node1", "node2"):
        with announced(world, node):
            world.call("node1", "sync")
            eventually(lambda: shop.who(world.outside, VIP, 8080, timeout=1) == "server", 30)


def test_an_address_of_nobody_is_the_services_alone(shop: Space) -> None:
    address = "198.51.100.77"
    world = shop.world
    shop.apply(service("edge", "server", ("TCP", 8080, 7), externalIPs=[address]))
    inside = [name for name in places(shop) if name != "outside"]

    def answers(port: int) -> set[str]:
        return {shop.who(places(shop)[name], address, port) for name in inside}

    assert answers(8080) == {"server"}
    assert answers(22) == {"refused"}
    assert "cubelet0" in route_to(world, "node1", address)
