"""Host ports on real packets: who reaches them, what keeps them apart, and that they end."""

from __future__ import annotations

import json
import socket
import subprocess
from collections.abc import Iterator

import pytest

from cubelet.lab import traffic
from cubelet.lab.kinds import Key, Manifest
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT

from .manifests import pod, service
from .world import Space, World

SECOND = "172.18.0.111"
"""Another address of node1's uplink."""
BOTH = ("TCP", "UDP")


def hosting(name: str, *host_ports: tuple[str, int, int, str], node: str = "node1") -> Manifest:
    """A pod with host ports: (protocol, container port, host port, hostIP or '') each."""
    made = pod(name, nodeName=node)
    made["spec"]["containers"][0]["ports"] = [
        {"protocol": protocol, "containerPort": port, "hostPort": number}
        | ({"hostIP": address} if address else {})
        for protocol, port, number, address in host_ports
    ]
    return made


@pytest.fixture(scope="module")
def edge(world: World) -> Iterator[Space]:
    """A pod on node1 that serves both protocols at host port 8443; clients on both nodes."""
    space = Space(world, "edge")
    space.apply(
        hosting("edge", ("TCP", 443, 8443, ""), ("UDP", 53, 8443, ""), ("TCP", 80, 54321, "")),
        pod("near", nodeName="node1"),
        pod("far", nodeName="node2"),
    )
    yield space
    space.delete("Pod", "edge", "near", "far")


@pytest.fixture
def places(edge: Space) -> dict[str, str]:
    """Where clients may be."""
    return {
        "outside": edge.world.outside,
        "node": edge.world.at_node("node1"),
        "other node": edge.world.at_node("node2"),
        "pod": edge.at("near"),
        "pod of another node": edge.at("far"),
        "itself": edge.at("edge"),
    }


@pytest.fixture
def second(world: World) -> Iterator[str]:
    """The second address, while the test runs."""
    device = netdev(world)
    change_address(world, "add", device)
    yield SECOND
    change_address(world, "del", device)


def netdev(world: World) -> str:
    """The name of node1's uplink."""
    route = ip(world, "route", "show", "default").split()
    return route[route.index("dev") + 1]


def ip(world: World, *command: str) -> str:
    full = ["ip", "-netns", world.at_node("node1"), *command]
    return subprocess.run(full, capture_output=True, text=True, check=True).stdout


def change_address(world: World, action: str, device: str) -> None:
    """Add or remove the address, and let the agent look at its node."""
    ip(world, "address", action, f"{SECOND}/24", "dev", device)
    store = world.objects.store
    node = store.get(Key("Node", "", "node1"))
    assert node is not None
    node["metadata"]["labels"]["test"] = action
    store.put(node)
    world.sync()


def node_client(world: World, kind: socket.SocketKind, number: int) -> socket.socket:
    """A client on node1 with this port, connected to the server outside."""

    place = world.at_node("node1")
    client = world.made_in(place, lambda: socket.socket(socket.AF_INET, kind))
    client.settimeout(2)
    client.bind(("", number))
    client.connect((OUTSIDE_ADDRESS, OUTSIDE_PORT))
    return client


def answer(client: socket.socket) -> str:
    """Who answers on a connection."""
    client.send(b"who\n")
    return str(json.loads(client.recv(4096))["name"])


@pytest.mark.parametrize("protocol", BOTH)
@pytest.mark.parametrize(
    "place", ["outside", "node", "other node", "pod", "pod of another node", "itself"]
)
def test_a_host_port_is_reached(
    edge: Space, places: dict[str, str], place: str, protocol: str
) -> None:
    address = edge.world.node("node1").address
    assert edge.who(places[place], address, 8443, protocol) == "edge"


def test_a_number_that_the_node_might_give_to_its_own_clients(
    edge: Space, places: dict[str, str]
) -> None:
    """The suite's own number, from the range of ephemeral ports."""
    for place in places.values():
        assert edge.who(place, edge.world.node("node1").address, 54321) == "edge"


def test_clients_keep_their_addresses_where_they_do_through_a_local_node_port(
    edge: Space, places: dict[str, str]
) -> None:
    world = edge.world
    address, other = world.node("node1").address, world.node("node2").address
    seen = {
        place: world.run(where, traffic.who, address, 8443).seen_as
        for place, where in places.items()
    }
    assert seen["pod"] == edge.ip("near")
    assert seen["other node"] == seen["pod of another node"] == other
    assert seen["outside"] == world.run(world.outside, traffic.who, address, 8443).local[0]


def test_large_requests(edge: Space, places: dict[str, str]) -> None:
    address = edge.world.node("node1").address
    # The loopback device would take 64 kB: the node has to hear of the way's MTU first.
    edge.world.run(places["node"], traffic.udp_echo, address, 8443, 2000)
    for place in places.values():
        assert edge.world.run(place, traffic.udp_echo, address, 8443, 2000).answered
        assert edge.world.run(place, traffic.transfer, address, 8443, 3_000_000).answered


def test_only_the_pods_own_node_and_port_answer(edge: Space) -> None:
    outside = edge.world.outside
    assert edge.who(outside, edge.world.node("node2").address, 8443) == "refused"
    assert edge.who(outside, edge.world.node("node1").address, 443) == "refused"
    assert edge.who(outside, edge.world.node("node1").address, 54321, "UDP") == "refused"


def test_it_is_shown_as_the_pods(edge: Space) -> None:
    rows = edge.world.call("node1", "get", noun="services", where={"port": "54321"})
    address = edge.world.node("node1").address
    assert {(row["namespace"], row["name"], row["address"], row["protocol"]) for row in rows} == {
        ("edge", "pod/edge", asked, "TCP") for asked in (address, "127.0.0.1")
    }


def test_no_conflict_between_other_addresses_and_protocols(space: Space, second: str) -> None:
    first = space.world.node("node1").address
    space.apply(
        pod("client", nodeName="node1"),
        hosting("one", ("TCP", 80, 5432, first)),
        hosting("two", ("TCP", 80, 5432, second)),
        hosting("three", ("UDP", 80, 5432, second)),
    )
    nodes = (space.world.at_node("node1"), space.world.at_node("node2"))
    for place in (space.world.outside, *nodes, space.at("client")):
        assert space.who(place, first, 5432) == "one"
        assert space.who(place, second, 5432) == "two"
        assert space.who(place, second, 5432, "UDP") == "three"
    assert space.who(space.world.outside, first, 5432, "UDP") == "refused"
    assert space.world.call("node1", "status")["problems"] == []


def test_a_process_of_the_nodes_keeps_its_own_address(space: Space, second: str) -> None:
    """Served on every address by the node, at one of them by a pod."""
    space.apply(
        pod("of-node", ("TCP", 5433), ("UDP", 5433), hostNetwork=True, nodeName="node1"),
        hosting("of-pod", ("TCP", 80, 5433, second)),
    )
    outside, first = space.world.outside, space.world.node("node1").address
    assert space.who(outside, first, 5433) == "of-node"
    assert space.who(outside, first, 5433, "UDP") == "of-node"
    assert space.who(outside, second, 5433, "UDP") == "of-node"
    assert space.who(outside, second, 5433) == "of-pod"


def test_it_serves_with_add_and_is_gone_with_del(space: Space) -> None:
    world, address = space.world, space.world.node("node2").address
    kubelet = world.objects.kubelet
    space.apply(hosting("brief", ("TCP", 80, 5434, ""), ("UDP", 80, 5434, ""), node="node2"))
    for protocol in BOTH:
        assert space.who(world.outside, address, 5434, protocol) == "brief"
    kubelet.stop(space.get("Pod", "brief"))  # without the wait for agents that follows a delete
    for protocol in BOTH:
        assert space.who(world.outside, address, 5434, protocol) == "refused"
        assert space.who(world.at_node("node1"), address, 5434, protocol) == "refused"


def test_the_second_pod_waits_until_the_first_one_goes(space: Space) -> None:
    world, address = space.world, space.world.node("node2").address
    space.apply(hosting("b-first", ("UDP", 80, 5435, ""), node="node2"))
    space.apply(hosting("a-second", ("UDP", 80, 5435, ""), node="node2"))
    told = [
        f"Pod {space.name}/a-second: port 5435/UDP of {asked} is held by "
        f"pod {space.name}/b-first; remedy: ask for another port or address, or remove that one"
        for asked in ("127.0.0.1", address)
    ]
    assert space.who(world.outside, address, 5435, "UDP") == "b-first"
    assert world.call("node2", "status")["problems"] == told
    world.kill("node2")
    world.start("node2")
    assert space.who(world.outside, address, 5435, "UDP") == "b-first"
    space.delete("Pod", "b-first")
    assert space.who(world.outside, address, 5435, "UDP") == "a-second"
    assert world.call("node2", "status")["problems"] == []


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
def test_a_connection_of_the_nodes_own_keeps_its_number(
    space: Space, kind: socket.SocketKind
) -> None:
    """From a number that a pod asks for meanwhile: answers reach the node's client."""
    world, address = space.world, space.world.node("node1").address
    with node_client(world, kind, 5436) as client:
        assert answer(client) == "outside"
        space.apply(hosting("pod", ("TCP", 80, 5436, ""), ("UDP", 80, 5436, "")))
        protocol = "TCP" if kind == socket.SOCK_STREAM else "UDP"
        assert space.who(world.at_node("node2"), address, 5436, protocol) == "pod"
        assert answer(client) == "outside"


def test_a_node_port_goes_first(space: Space) -> None:
    space.apply(
        pod("server", ("TCP", 80), nodeName="node1"),
        hosting("edge", ("TCP", 80, 31999, ""), node="node2"),
    )
    world, address = space.world, space.world.node("node2").address
    assert space.who(world.outside, address, 31999) == "edge"
    node_port = service("s", "server", ("TCP", 80, 80), type="NodePort")
    node_port["spec"]["ports"][0]["nodePort"] = 31999
    space.apply(node_port)
    assert space.who(world.outside, address, 31999) == "server"
    assert len(world.call("node2", "status")["problems"]) == 2
    space.delete("Service", "s")
    assert space.who(world.outside, address, 31999) == "edge"
