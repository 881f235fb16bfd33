"""Whom a Service serves, and by which backends: source ranges and hints, on real packets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cubelet.lab import netns
from cubelet.lab.kinds import Key, Manifest

from .manifests import pod, service
from .world import Space, World

BALANCED = "203.0.113.82"
ECHO = (("TCP", 7), ("UDP", 7))
ZONE = "topology.kubernetes.io/zone"


@pytest.fixture
def routed(world: World) -> Iterator[None]:
    """The outside reaches the load balancer's address through node1."""
    address = world.node("node1").address
    netns.ip(["route", "add", BALANCED, "via", address], world.outside)
    yield
    netns.ip(["route", "del", BALANCED, "via", address], world.outside)


@pytest.fixture
def zones(world: World) -> Iterator[None]:
    """node1 is in zone a, node2 in zone b."""
    for name, zone in (("node1", "a"), ("node2", "b")):
        label(world, name, zone)
    world.sync()
    yield
    for name in ("node1", "node2"):
        label(world, name, "")
    world.sync()


def label(world: World, name: str, zone: str) -> None:
    node = world.objects.store.get(Key("Node", "", name))
    assert node is not None
    node["metadata"]["labels"].pop(ZONE, None)
    node["metadata"]["labels"] |= {ZONE: zone} if zone else {}
    world.objects.store.put(node)


@pytest.mark.usefixtures("routed")
def test_load_balancer_source_ranges(space: Space) -> None:
    """Allowed, forbidden and allowed to all again, live; the ClusterIP is for everyone."""
    space.apply(
        pod("server", *ECHO, nodeName="node2"),
        pod("friend", nodeName="node1"),
        pod("stranger", nodeName="node1"),
    )
    places = {
        "outside": (space.world.outside, "172.18.0.100"),
        "friend": (space.at("friend"), space.ip("friend")),
        "node": (space.world.at_node("node1"), space.world.node("node1").address),
        "stranger": (space.at("stranger"), space.ip("stranger")),
    }

    def balanced(*ranges: str) -> Manifest:
        made = service("s", "server", ("TCP", 80, 7), type="LoadBalancer")
        made["spec"]["loadBalancerSourceRanges"] = list(ranges)
        made["status"] = {"loadBalancer": {"ingress": [{"ip": BALANCED}]}}
        return made

    def served() -> set[str]:
        found = {
            name: space.who(place, BALANCED, 80, timeout=0.5) for name, (place, _) in places.items()
        }
        assert set(found.values()) <= {"server", "timeout"}
        return {name for name, outcome in found.items() if outcome == "server"}

    space.apply(balanced())
    assert served() == set(places)
    for allowed, (_, address) in places.items():
        space.apply(balanced(f"{address}/32", "192.0.2.0/24"))
        assert served() == {allowed}
        assert space.who(space.at("stranger"), space.vip("s"), 80) == "server"
    space.apply(balanced())
    assert served() == set(places)


@pytest.mark.usefixtures("zones")
def test_hints_keep_traffic_in_its_zone(space: Space) -> None:
    space.apply(
        pod("one", *ECHO, nodeName="node1"),
        pod("two", *ECHO, nodeName="node2"),
        pod("near", nodeName="node1"),
        pod("far", nodeName="node2"),
        service("s", "nobody", ("TCP", 80, 7)),
    )
    plain = service("s", "nobody", ("TCP", 80, 7), clusterIP=space.vip("s"))
    del plain["spec"]["selector"]

    def apply(first: list[str], second: list[str]) -> None:
        space.apply(plain, slice_of(space, one=first, two=second))

    vip = space.vip("s")
    apply(["a"], ["b"])
    assert space.backends(space.at("near"), vip, 80) == {"one"}
    assert space.backends(space.at("far"), vip, 80) == {"two"}
    assert space.backends(space.world.at_node("node1"), vip, 80) == {"one"}
    label(space.world, "node1", "b")
    space.world.sync()
    assert space.backends(space.at("near"), vip, 80) == {"two"}
    apply(["a"], [])
    for place in (space.at("near"), space.at("far")):
        assert space.backends(place, vip, 80) == {"one", "two"}


def slice_of(space: Space, **hints: list[str]) -> Manifest:
    """A slice of Service s with these pods, each for some zones."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "s-1", "labels": {"kubernetes.io/service-name": "s"}},
        "addressType": "IPv4",
        "endpoints": [
            {"addresses": [space.ip(name)]}
            | ({"hints": {"forZones": [{"name": zone} for zone in zones]}} if zones else {})
            for name, zones in hints.items()
        ],
        "ports": [{"name": "tcp-80", "protocol": "TCP", "port": 7}],
    }
