"""Services on real packets: every way in, and what becomes of it when endpoints change."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import msgspec
import pytest

from cubelet.lab import processes, traffic
from cubelet.lab.kinds import Key

from .load import datagrams, loads
from .manifests import pod, service
from .world import Space, World, eventually

AT_ONCE = 0.5
"""Seconds: far below any timeout, far above a busy machine's delays."""
ECHO = (("TCP", 7), ("UDP", 7))


@pytest.fixture(scope="module")
def shop(world: World) -> Iterator[Space]:
    """A client on node1, a web server on each node behind one Service with two ports."""
    space = Space(world, "shop")
    ports = (("TCP", 80), ("UDP", 80), ("TCP", 81))
    space.apply(
        pod("client", nodeName="node1"),
        pod("web1", *ports, labels={"app": "web"}, nodeName="node1"),
        pod("web2", *ports, labels={"app": "web"}, nodeName="node2"),
        pod("solo", *ports, nodeName="node2"),
        pod("node-web", ("TCP", 8080), ("UDP", 8080), hostNetwork=True, nodeName="node1"),
        service("web", "web", ("TCP", 80, 80), ("UDP", 80, 80), ("TCP", 8081, 81), type="NodePort"),
        service("solo", "solo", ("TCP", 80, 80), ("UDP", 80, 80), type="NodePort"),
        service("host", "node-web", ("TCP", 80, 8080), ("UDP", 80, 8080)),
        service("empty", "nobody", ("TCP", 80, 80), ("UDP", 80, 80), type="NodePort"),
    )
    yield space
    space.delete("Pod", "client", "web1", "web2", "solo", "node-web")
    space.delete("Service", "web", "solo", "host", "empty")


@pytest.fixture(params=["pod", "node", "other node"])
def place(request: pytest.FixtureRequest, shop: Space) -> str:
    """Where a client of the cluster may be."""
    places = {"pod": shop.at("client"), "node": shop.world.at_node("node1")}
    return places.get(request.param, shop.world.at_node("node2"))


@pytest.mark.parametrize(("protocol", "port"), [("TCP", 80), ("UDP", 80), ("TCP", 8081)])
def test_cluster_ip(shop: Space, place: str, protocol: str, port: int) -> None:
    assert shop.backends(place, shop.vip("web"), port, protocol) == {"web1", "web2"}


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_node_port_of_every_node(shop: Space, place: str, protocol: str) -> None:
    """A node's own, too, though its kernel would hand that to nobody."""
    for node in shop.world.spec.nodes:
        found = shop.backends(place, node.address, shop.node_port("web", protocol), protocol)
        assert found == {"web1", "web2"}, node


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_node_port_from_outside(shop: Space, protocol: str) -> None:
    world = shop.world
    for node in world.spec.nodes:
        for name, expected in (("web", {"web1", "web2"}), ("solo", {"solo"})):
            port = shop.node_port(name, protocol)
            assert shop.backends(world.outside, node.address, port, protocol) == expected


def test_each_port_leads_to_its_own(shop: Space) -> None:
    client, vip = shop.at("client"), shop.vip("web")
    ports = {p["port"]: p["nodePort"] for p in shop.get("Service", "web")["spec"]["ports"]}
    assert shop.who(client, vip, 8081, "UDP") == "refused"
    assert shop.who(client, vip, 82) == "refused"
    address = shop.world.node("node2").address
    assert shop.who(shop.world.outside, address, ports[8081]) in ("web1", "web2")


def test_a_pod_keeps_its_address_through_a_cluster_ip(shop: Space) -> None:
    client = shop.at("client")
    for name in ("web", "solo"):
        result = shop.world.run(client, traffic.who, shop.vip(name), 80)
        assert result.seen_as == shop.ip("client")


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_pod_reaches_itself_through_its_service(shop: Space, protocol: str) -> None:
    assert shop.backends(shop.at("solo"), shop.vip("solo"), 80, protocol) == {"solo"}
    found = shop.backends(shop.at("web1"), shop.vip("web"), 80, protocol)
    assert found == {"web1", "web2"}
    address, port = shop.world.node("node2").address, shop.node_port("solo", protocol)
    assert shop.who(shop.at("solo"), address, port, protocol) == "solo"


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_a_backend_on_the_hosts_network(shop: Space, place: str, protocol: str) -> None:
    assert shop.backends(place, shop.vip("host"), 80, protocol) == {"node-web"}


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_without_endpoints_it_is_refused_at_once(shop: Space, place: str, protocol: str) -> None:
    node, node_port = shop.world.node("node1").address, shop.node_port("empty", protocol)
    for address, port in ((shop.vip("empty"), 80), (node, node_port)):
        result = shop.world.run(place, traffic.who, address, port, protocol)
        assert (result.outcome, result.seconds < AT_ONCE) == ("refused", True), address
    outside = shop.world.run(shop.world.outside, traffic.who, node, node_port, protocol)
    assert (outside.outcome, outside.seconds < AT_ONCE) == ("refused", True)


def test_an_address_that_no_service_has_never_leaks(shop: Space) -> None:
    result = shop.world.run(shop.at("client"), traffic.who, "10.96.200.200", 80)
    assert result.outcome in ("refused", "unreachable")
    assert result.seconds < AT_ONCE


def test_endpoints_follow_pods(space: Space) -> None:
    space.apply(
        pod("client", nodeName="node2"),
        pod("one", *ECHO, labels={"app": "x"}, nodeName="node1"),
        service("x", "x", ("TCP", 80, 7), ("UDP", 80, 7)),
    )
    client, vip = space.at("client"), space.vip("x")
    assert space.backends(client, vip, 80) == {"one"}
    space.apply(pod("two", *ECHO, labels={"app": "x"}, nodeName="node2"))
    assert space.backends(client, vip, 80, "UDP") == {"one", "two"}
    space.apply(pod("one", *ECHO, labels={"app": "y"}, nodeName="node1"))
    assert space.backends(client, vip, 80) == {"two"}
    space.delete("Pod", "two")
    assert space.who(client, vip, 80) == "refused"
    assert space.who(client, vip, 80, "UDP") == "refused"
    space.apply(pod("three", *ECHO, labels={"app": "x"}, nodeName="node1"))
    assert space.backends(client, vip, 80, "UDP") == {"three"}


def test_a_service_comes_changes_and_goes(space: Space) -> None:
    space.apply(
        pod("client", nodeName="node1"),
        pod("a", *ECHO, nodeName="node1"),
        pod("b", *ECHO, nodeName="node2"),
        service("s", "a", ("TCP", 80, 7)),
    )
    client, vip = space.at("client"), space.vip("s")
    assert space.who(client, vip, 80) == "a"
    space.apply(service("s", "b", ("TCP", 80, 7)))
    assert space.who(client, vip, 80) == "b"
    space.apply(service("s", "b", ("TCP", 90, 7), type="NodePort"))
    assert space.who(client, vip, 80) == "refused"
    assert space.who(client, vip, 90) == "b"
    address, port = space.world.node("node1").address, space.node_port("s")
    assert space.who(space.world.outside, address, port) == "b"
    space.delete("Service", "s")
    assert space.who(client, vip, 90) in ("refused", "unreachable")
    assert space.who(space.world.outside, address, port) in ("refused", "timeout")
    space.apply(service("s", "a", ("TCP", 80, 7), clusterIP=vip))
    assert space.who(client, vip, 80) == "a"


def test_an_external_address_that_no_node_owns(space: Space) -> None:
    space.apply(
        pod("client", nodeName="node1"),
        pod("a", *ECHO, nodeName="node2"),
        service("s", "a", ("TCP", 80, 7), externalIPs=["203.0.113.80"]),
    )
    assert space.who(space.at("client"), "203.0.113.80", 80) == "a"
    assert space.who(space.world.at_node("node1"), "203.0.113.80", 80) == "a"


def test_a_udp_client_moves_to_the_new_backend(space: Space) -> None:
    space.apply(
        pod("client", nodeName="node1"),
        pod("old", *ECHO, labels={"app": "s"}, nodeName="node2"),
        service("s", "s", ("UDP", 53, 7)),
    )
    with loads() as running:
        running.add("one source port", space.at("client"), datagrams, space.vip("s"), 53, 100)
        eventually(lambda: bool(flows_to(space, "old")), 2)
        space.apply(pod("new", *ECHO, labels={"app": "s"}, nodeName="node1"))
        space.delete("Pod", "old")
        eventually(lambda: bool(flows_to(space, "new")), 1)
    report = running["one source port"]
    assert report.silence < 1
    # What was under way to the pod, and what came before its endpoint was known to be gone.
    assert len(report.lost) < 100, report


def flows_to(space: Space, name: str) -> list[object]:
    """The flows of the client whose backend is the pod; none once the pod is gone."""
    found = space.world.objects.store.get(Key("Pod", space.name, name)) or {}
    where = {"dst": space.vip("s"), "protocol": "UDP"}
    rows = space.world.call("node1", "get", noun="flows", where=where)
    address = found.get("status", {}).get("podIP")
    return [row for row in rows if row["to_dst"] == address]


def test_a_backend_that_dies_takes_its_connections_along(space: Space) -> None:
    """Its process alone is gone: the pod's own kernel refuses, through the translation."""
    space.apply(
        pod("client", nodeName="node1"),
        pod("a", *ECHO, nodeName="node2"),
        service("s", "a", ("TCP", 80, 7), ("UDP", 80, 7)),
    )
    client, vip = space.at("client"), space.vip("s")
    assert space.who(client, vip, 80) == "a"
    record = space.world.layout.processes / f"pod.{space.name}.a.json"
    pid = msgspec.json.decode(record.read_bytes(), type=processes.Record).pid
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert space.who(client, vip, 80) == "refused"
    assert space.who(client, vip, 80, "UDP") == "refused"
