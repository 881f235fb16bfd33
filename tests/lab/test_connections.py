"""Open TCP connections when Services, endpoints and pods go: kept, or reset at once, never hung."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import pytest

from cubelet.lab import netns, processes
from cubelet.lab.kinds import Manifest

from .manifests import pod, service
from .world import Space, World, eventually

T = TypeVar("T")

EXTERNAL = "203.0.113.85"
PORT = 7000
SOON = 3.0
"""Seconds: far below what TCP waits for by itself, far above a busy machine's delays."""


@dataclass(frozen=True)
class Way:
    """How a client reaches Service ``s``: from where, and what it asks."""

    place: Callable[[Space], str]
    asks: Callable[[Space], tuple[str, int]]


def fixed(what: T) -> Callable[[Space], T]:
    """The same in every namespace."""
    return lambda _: what


def cluster_ip(space: Space) -> tuple[str, int]:
    return space.vip("s"), 80


def node_port(space: Space) -> tuple[str, int]:
    return space.world.node("node1").address, space.node_port("s")


WAYS = {
    "pod, ClusterIP": Way(lambda space: space.at("client"), cluster_ip),
    "node, ClusterIP": Way(lambda space: space.world.at_node("node1"), cluster_ip),
    "outside, NodePort": Way(lambda space: space.world.outside, node_port),
    "pod, NodePort": Way(lambda space: space.at("client"), node_port),
    "outside, external": Way(lambda space: space.world.outside, lambda _: (EXTERNAL, 80)),
    "pod, external": Way(lambda space: space.at("client"), lambda _: (EXTERNAL, 80)),
}


@pytest.fixture(autouse=True, scope="module")
def routed(world: World) -> Iterator[None]:
    """The outside reaches the external address through node1."""
    address = world.node("node1").address
    netns.ip(["route", "add", EXTERNAL, "via", address], world.outside)
    yield
    netns.ip(["route", "del", EXTERNAL, "via", address], world.outside)


@pytest.fixture(params=["node1", "node2"])
def backend(request: pytest.FixtureRequest, space: Space) -> str:
    """The server's node: the client's own, or the other; all that a way needs is there."""
    space.apply(
        pod("client", nodeName="node1"),
        pod("server", nodeName=request.param),
        without_selector(),
    )
    space.apply(slice_of(space, "server"))
    return str(request.param)


def without_selector() -> Manifest:
    made = service("s", "", ("TCP", 80, PORT), type="NodePort", externalIPs=[EXTERNAL])
    del made["spec"]["selector"]
    return made


def slice_of(space: Space, *names: str, **conditions: bool) -> Manifest:
    """The Service's endpoints: these pods, under these conditions."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [space.ip(name)], "conditions": conditions or {"ready": True}}
            for name in names
        ],
        "ports": [{"name": "tcp-80", "protocol": "TCP", "port": PORT}],
    }


def made_in(space: Space, place: str) -> socket.socket:
    return space.world.made_in(place, lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM))


@dataclass(frozen=True)
class Connection:
    """Both ends, which are the test's own: a pod that is deleted takes its devices along alone."""

    client: socket.socket
    server: socket.socket

    def goes_on(self) -> None:
        """Data arrives, both ways."""
        for _ in range(3):
            for here, there in ((self.client, self.server), (self.server, self.client)):
                here.sendall(b"data")
                assert there.recv(64) == b"data"


@contextmanager
def connections(space: Space, *ways: Way) -> Iterator[list[Connection]]:
    """One by each way to the pod ``server``."""
    listener = made_in(space, space.at("server"))
    with listener:
        listener.bind(("", PORT))
        listener.listen()
        listener.settimeout(SOON)
        made = [_connect(space, way, listener) for way in ways]
        try:
            for each in made:
                each.goes_on()
            yield made
        finally:
            for each in made:
                each.client.close()
                each.server.close()


def _connect(space: Space, way: Way, listener: socket.socket) -> Connection:
    client = made_in(space, way.place(space))
    client.settimeout(SOON)
    client.connect(way.asks(space))
    server, _ = listener.accept()
    server.settimeout(SOON)
    return Connection(client, server)


def is_reset(end: socket.socket) -> bool:
    """What this end sends is answered by a reset."""
    began = time.monotonic()
    try:
        end.sendall(b"?")
        end.recv(64)
    except ConnectionResetError:
        return time.monotonic() - began < SOON
    except TimeoutError:
        return False
    return False


def refused(space: Space, way: Way) -> bool:
    """Whether a new connection is."""
    with made_in(space, way.place(space)) as client:
        client.settimeout(SOON)
        try:
            client.connect(way.asks(space))
        except OSError:
            return True
        return False


@pytest.mark.usefixtures("backend")
def test_a_deleted_service_leaves_its_connections(space: Space) -> None:
    with connections(space, *WAYS.values()) as open_ones:
        asked = [way.asks(space) for way in WAYS.values()]
        space.delete("Service", "s")
        space.delete("EndpointSlice", "s-1")
        for each in open_ones:
            each.goes_on()
        for way, address in zip(WAYS.values(), asked, strict=True):
            assert refused(space, Way(way.place, fixed(address)))
        time.sleep(2.5)  # by now every record has been looked at again
        for each in open_ones:
            each.goes_on()


@pytest.mark.usefixtures("backend")
def test_an_endpoint_that_is_taken_away_keeps_its_connections(space: Space) -> None:
    space.apply(pod("other", ("TCP", PORT), nodeName="node2"))
    with connections(space, *WAYS.values()) as open_ones:
        for names in (["other"], []):
            space.apply(slice_of(space, *names))
            for each in open_ones:
                each.goes_on()
            for way in WAYS.values():
                found = space.who(way.place(space), *way.asks(space))
                assert found in (names or ["refused"])


@pytest.mark.usefixtures("backend")
def test_a_terminating_endpoint_keeps_its_connections(space: Space) -> None:
    with connections(space, *WAYS.values()) as open_ones:
        for serving in (True, False):
            conditions = {"ready": False, "serving": serving, "terminating": True}
            space.apply(slice_of(space, "server", **conditions))
            for each in open_ones:
                each.goes_on()


@pytest.mark.usefixtures("backend")
@pytest.mark.parametrize("left", ["other endpoints", "no endpoint", "no Service"])
def test_connections_to_a_pod_that_is_gone_are_reset(space: Space, left: str) -> None:
    space.apply(pod("other", ("TCP", PORT), nodeName="node2"))
    with connections(space, *WAYS.values()) as open_ones:
        space.apply(slice_of(space, *(["other"] if left == "other endpoints" else [])))
        if left == "no Service":
            space.delete("Service", "s")
        space.delete("Pod", "server")
        assert [is_reset(each.client) for each in open_ones] == [True] * len(WAYS)


@pytest.mark.usefixtures("backend")
def test_a_server_whose_client_is_gone_is_told(space: Space) -> None:
    ways = [way for name, way in WAYS.items() if name.startswith("pod")]
    with connections(space, *ways) as open_ones:
        space.delete("Pod", "client")
        assert [is_reset(each.server) for each in open_ones] == [True] * len(ways)


@pytest.mark.usefixtures("backend")
def test_both_ends_of_a_connection_without_a_service(space: Space) -> None:
    direct = Way(lambda space: space.at("client"), lambda space: (space.ip("server"), PORT))
    with connections(space, direct) as (one,):
        space.delete("Pod", "server")
        assert is_reset(one.client)
    space.apply(pod("server", nodeName="node1"))
    with connections(space, direct) as (one,):
        space.delete("Pod", "client")
        assert is_reset(one.server)


@pytest.mark.usefixtures("backend")
def test_what_is_reset_gives_its_records_back(space: Space) -> None:
    address = space.ip("server")

    def held() -> int:
        rows = space.world.call("node1", "get", noun="flows", where={"protocol": "TCP"})
        return sum(address in (row["dst"], row["to_dst"], row["src"]) for row in rows)

    with connections(space, *WAYS.values()) as open_ones:
        assert held() >= 2 * len(WAYS)
        space.delete("Pod", "server")
        for each in open_ones:
            assert is_reset(each.client)
    eventually(lambda: not held(), 20)


def hosting(name: str) -> Manifest:
    made = pod(name, nodeName="node1")
    ports = [{"protocol": "TCP", "containerPort": PORT, "hostPort": 8556}]
    made["spec"]["containers"][0]["ports"] = ports
    return made


@pytest.mark.parametrize("next_one", [False, True])
def test_connections_to_a_host_port_are_reset_with_its_pod(space: Space, next_one: bool) -> None:
    """Also where the next pod has the port at once."""
    space.apply(pod("client", nodeName="node1"), hosting("server"))
    world = space.world
    processes.end(world.layout, [f"pod.{space.name}.server"])  # the test's own socket serves
    places = (world.outside, world.at_node("node2"), world.at_node("node1"), space.at("client"))
    ways = [Way(fixed(place), fixed((world.node("node1").address, 8556))) for place in places]
    with connections(space, *ways) as open_ones:
        if next_one:
            space.apply(hosting("other"))
        space.delete("Pod", "server")
        assert [is_reset(each.client) for each in open_ones] == [True] * len(ways)
    if next_one:
        assert [space.who(w.place(space), *w.asks(space)) for w in ways] == ["other"] * len(ways)
