"""Backends on the host's network as most programs are: their sockets bound to any address."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator

import pytest

from cubelet.lab import traffic
from cubelet.lab.kinds import Manifest
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT

from .load import connections, datagrams, loads, stream
from .manifests import pod, policy, service
from .world import Space, World

PORT = 5300
MUCH = 4000
"""Bytes: a datagram in fragments."""


@pytest.fixture(scope="module")
def host(world: World) -> Iterator[Space]:
    """Servers of UDP and TCP on node1, and a Service of theirs; clients on both nodes."""
    space = Space(world, "host")
    space.apply(
        pod("near", nodeName="node1"),
        pod("far", nodeName="node2"),
        exposed("s"),
        endpoints("s", world.node("node1").address),
        pod("idle", nodeName="node1"),
    )
    with udp_server(world), tcp_server(world):
        yield space
    space.delete("Service", "s")
    space.delete("EndpointSlice", "s-1")
    space.delete("Pod", "near", "far", "idle")


def exposed(name: str, **spec: object) -> Manifest:
    made = service(name, "", ("TCP", 53, PORT), ("UDP", 53, PORT), **{"type": "NodePort", **spec})
    del made["spec"]["selector"]
    return made


def endpoints(name: str, address: str) -> Manifest:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [address], "nodeName": "node1"}],
        "ports": [
            {"name": f"{protocol.lower()}-53", "protocol": protocol, "port": PORT}
            for protocol in ("TCP", "UDP")
        ],
    }


def listening(world: World, kind: socket.SocketKind) -> socket.socket:
    """A socket of node1's, bound to any address."""

    def make() -> socket.socket:
        made = socket.socket(socket.AF_INET, kind)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind(("0.0.0.0", PORT))
        return made

    return world.made_in(world.at_node("node1"), make)


class Serving:
    """A server in a thread, until its socket is closed."""

    def __init__(self, bound: socket.socket, serve: Callable[[socket.socket], None]) -> None:
        self._bound = bound
        threading.Thread(target=self._run, args=(serve,), daemon=True).start()

    def _run(self, serve: Callable[[socket.socket], None]) -> None:
        try:
            while True:
                serve(self._bound)
        except OSError:
            return  # closed

    def __enter__(self) -> Serving:
        return self

    def __exit__(self, *_: object) -> None:
        self._bound.shutdown(socket.SHUT_RDWR) if self._bound.type == socket.SOCK_STREAM else None
        self._bound.close()


def answer(asked: bytes, peer: tuple[str, int]) -> bytes:
    if asked != b"who\n":
        return asked
    return json.dumps({"name": "host/server", "peer": peer[0], "port": peer[1]}).encode()


def udp_server(world: World) -> Serving:
    def serve(bound: socket.socket) -> None:
        asked, peer = bound.recvfrom(65535)
        bound.sendto(answer(asked, peer), peer)

    return Serving(listening(world, socket.SOCK_DGRAM), serve)


def tcp_server(world: World) -> Serving:
    def converse(connection: socket.socket, peer: tuple[str, int]) -> None:
        with connection, contextlib.suppress(OSError):
            while asked := connection.recv(65536):
                connection.sendall(answer(asked, peer))

    def serve(bound: socket.socket) -> None:
        threading.Thread(target=converse, args=bound.accept(), daemon=True).start()

    bound = listening(world, socket.SOCK_STREAM)
    bound.listen()
    return Serving(bound, serve)


def places(host: Space) -> dict[str, str]:
    return {
        "pod": host.at("near"),
        "pod of another node": host.at("far"),
        "node": host.world.at_node("node1"),
        "other node": host.world.at_node("node2"),
        "outside": host.world.outside,
    }


INSIDE = ("pod", "pod of another node", "node", "other node")
PROTOCOLS = pytest.mark.parametrize("protocol", ["UDP", "TCP"])


@PROTOCOLS
@pytest.mark.parametrize("place", INSIDE)
def test_by_its_cluster_ip(host: Space, place: str, protocol: str) -> None:
    for _ in range(3):
        assert host.who(places(host)[place], host.vip("s"), 53, protocol) == "server"


@PROTOCOLS
@pytest.mark.parametrize("node", ["node1", "node2"])
@pytest.mark.parametrize("place", [*INSIDE, "outside"])
def test_by_a_node_port(host: Space, place: str, node: str, protocol: str) -> None:
    address, port = host.world.node(node).address, host.node_port("s", protocol)
    assert host.who(places(host)[place], address, port, protocol) == "server"


@PROTOCOLS
def test_by_a_node_port_of_127_0_0_1(host: Space, protocol: str) -> None:
    node = host.world.at_node("node1")
    assert host.who(node, "127.0.0.1", host.node_port("s", protocol), protocol) == "server"


@PROTOCOLS
@pytest.mark.parametrize("place", ["pod", "pod of another node", "other node", "outside"])
def test_without_a_service(host: Space, place: str, protocol: str) -> None:
    address = host.world.node("node1").address
    assert host.who(places(host)[place], address, PORT, protocol) == "server"


def test_by_the_gateways_address(host: Space) -> None:
    """Which is the one that the server prefers, however else the pod talks to it."""
    place, gateway = host.at("near"), gateway_of(host)
    assert host.who(place, gateway, PORT, "UDP") == "server"
    assert host.who(place, host.vip("s"), 53, "UDP") == "server"
    assert host.who(place, gateway, PORT, "UDP") == "server"


def gateway_of(host: Space) -> str:
    return host.ip("near").rpartition(".")[0] + ".1"


@pytest.mark.parametrize("place", [*INSIDE, "outside"])
def test_fragments(host: Space, place: str) -> None:
    address, port = host.world.node("node1").address, host.node_port("s", "UDP")
    for _ in range(2):  # the node has to hear of the way's MTU first
        result = host.world.run(places(host)[place], traffic.udp_echo, address, port, MUCH)
    assert result.answered


def test_one_client_socket_for_long(host: Space) -> None:
    """The same source port, over the second after which records are looked at again."""
    client = host.world.made_in(
        host.at("near"), lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    )
    with client:
        client.settimeout(2)
        client.connect((host.vip("s"), 53))
        for number in range(25):
            client.send(b"%d" % number)
            assert client.recv(64) == b"%d" % number
            threading.Event().wait(0.1)


@pytest.fixture
def kept(host: Space) -> Iterator[Space]:
    """A Service with the same backend and externalTrafficPolicy Local."""
    host.apply(
        exposed("kept", externalTrafficPolicy="Local"),
        endpoints("kept", host.world.node("node1").address),
    )
    yield host
    host.delete("Service", "kept")
    host.delete("EndpointSlice", "kept-1")


def seen_as(host: Space, place: str, address: str, port: int, protocol: str) -> str:
    return host.world.run(place, traffic.who, address, port, protocol).seen_as


def looks_answers_up(world: World) -> bool:
    """Whether a program is on what node1's uplink sends."""
    return (world.layout.bpffs_of("node1") / "links" / "egress").exists()


@PROTOCOLS
def test_a_local_policy_keeps_the_clients_address(kept: Space, protocol: str) -> None:
    world, port = kept.world, kept.node_port("kept", protocol)
    here, there = (world.node(name).address for name in ("node1", "node2"))
    for _ in range(3):
        assert seen_as(kept, world.outside, here, port, protocol) == OUTSIDE_ADDRESS
    assert kept.who(world.outside, there, port, protocol, timeout=0.5) == "timeout"
    for place in INSIDE:  # whom the policy does not bind
        assert kept.who(places(kept)[place], here, port, protocol) == "server"
    other = kept.node_port("s", protocol)
    assert seen_as(kept, world.outside, here, other, protocol) != OUTSIDE_ADDRESS


def test_fragments_under_a_local_policy(kept: Space) -> None:
    address, port = kept.world.node("node1").address, kept.node_port("kept", "UDP")
    for _ in range(2):
        result = kept.world.run(kept.world.outside, traffic.udp_echo, address, port, MUCH)
    assert result.answered


@PROTOCOLS
def test_a_port_that_nobody_serves_is_refused_under_a_local_policy(
    kept: Space, protocol: str
) -> None:
    """The host's own refusal, which names the port that the client asked."""
    world = kept.world
    unserved = endpoints("kept", world.node("node1").address)
    for each in unserved["ports"]:
        each["port"] = PORT + 1
    kept.apply(unserved)
    address, port = world.node("node1").address, kept.node_port("kept", protocol)
    assert kept.who(world.outside, address, port, protocol) == "refused"


def test_what_looks_answers_up_is_there_only_while_it_is_needed(kept: Space) -> None:
    world = kept.world
    assert looks_answers_up(world)
    kept.apply(exposed("kept", externalTrafficPolicy="Cluster"))
    assert not looks_answers_up(world)
    kept.apply(exposed("kept", externalTrafficPolicy="Local"))
    assert looks_answers_up(world)
    kept.apply(endpoints("kept", kept.ip("near")))
    assert not looks_answers_up(world)
    address, port = world.node("node1").address, kept.node_port("s", "UDP")
    assert kept.who(world.outside, address, port, "UDP") == "server"


def test_nothing_is_lost_over_a_restart_or_another_composition(kept: Space) -> None:
    """Connections, datagrams and new ones, while the agent is away and programs are replaced."""
    world = kept.world
    address = world.node("node1").address
    tcp, udp = (kept.node_port("kept", protocol) for protocol in ("TCP", "UDP"))
    with loads() as running:
        running.add("connection", world.outside, stream, address, tcp)
        running.add("datagrams", world.outside, datagrams, address, udp, 100)
        running.add("connections", world.outside, connections, address, tcp)
        running.add("masqueraded", kept.at("near"), connections, OUTSIDE_ADDRESS, OUTSIDE_PORT)
        running.add("own", world.at_node("node1"), connections, OUTSIDE_ADDRESS, OUTSIDE_PORT)
        before = world.call("node1", "status")["composition"]
        kept.apply(policy("p", "idle", ingress=[]))
        assert world.call("node1", "status")["composition"] != before
        world.kill("node1")
        threading.Event().wait(1)
        world.start("node1")
        kept.delete("NetworkPolicy", "p")
        world.stop("node1")
        world.start("node1")
    running.check(20)
    assert looks_answers_up(world)
