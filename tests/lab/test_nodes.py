"""Nodes that come, move, go, and are replaced under the same name: routes and tunnels follow."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from cubelet.ipc.client import AgentUnreachableError
from cubelet.lab import agents
from cubelet.lab.kinds import Key, Manifest

from .manifests import pod
from .world import Space, World, eventually

GHOST = "ghost"
HTTP = 8080


def ghost(address: str, pod_cidr: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": GHOST},
        "spec": {"podCIDR": pod_cidr, "podCIDRs": [pod_cidr]},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    }


def put(world: World, node: Manifest) -> None:
    world.objects.store.put(node)
    world.sync()


def remove(world: World, name: str) -> None:
    world.objects.store.remove(Key("Node", "", name))
    world.sync()


@pytest.fixture(autouse=True)
def without_ghosts(world: World) -> Iterator[None]:
    """The two nodes alone before and after."""
    yield
    remove(world, GHOST)


def routes(world: World, node: str = "node1") -> dict[str, Any]:
    """The router's routes by network."""
    return {str(row["prefix"]): row for row in world.call(node, "get", noun="routes")}


def host_routes(world: World, node: str = "node1") -> str:
    command = ["ip", "-netns", world.at_node(node), "route", "show", "dev", "cubelet0"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def tunnels(world: World) -> list[bytes]:
    """Whose tunnels node1 takes packets from: addresses in network byte order."""
    return [key for key, _ in world.planned("node1")["cubelet_nodes"].items()]


def test_routes_and_tunnels_follow_nodes(world: World) -> None:
    before, known = routes(world), set(tunnels(world))
    put(world, ghost("172.18.0.77", "10.244.77.0/24"))
    assert routes(world)["10.244.77.0/24"].keys() == before["10.244.2.0/24"].keys()
    assert "172.18.0.77" in str(routes(world)["10.244.77.0/24"])
    assert "10.244.77.0/24" in host_routes(world)
    (first,) = set(tunnels(world)) - known

    put(world, ghost("172.18.0.78", "10.244.77.0/24"))  # readdressed
    assert "172.18.0.78" in str(routes(world)["10.244.77.0/24"])
    (second,) = set(tunnels(world)) - known
    assert second != first

    put(world, ghost("172.18.0.78", "10.244.78.0/24"))  # replaced under the same name
    assert "10.244.77.0/24" not in routes(world)
    assert "10.244.77.0/24" not in host_routes(world)
    assert "172.18.0.78" in str(routes(world)["10.244.78.0/24"])

    remove(world, GHOST)
    assert routes(world) == before
    assert "10.244.78.0/24" not in host_routes(world)
    assert set(tunnels(world)) == known


def test_packets_follow_nodes(world: World, space: Space) -> None:
    space.apply(pod("near", nodeName="node1"), pod("far", ("TCP", HTTP), nodeName="node2"))
    near, far = space.at("near"), space.ip("far")
    assert space.who(near, far, HTTP) == "far"
    node2 = world.objects.store.get(Key("Node", "", "node2"))
    assert node2 is not None
    try:
        remove(world, "node2")
        assert space.who(near, far, HTTP, timeout=1) != "far"
    finally:
        put(world, node2)
    assert space.who(near, far, HTTP) == "far"


def test_a_node_waits_for_its_pod_cidr(small: World) -> None:
    store = small.objects.store
    known = store.get(Key("Node", "", "node1"))
    assert known is not None
    small.stop("node1")
    try:
        store.put({**known, "spec": {}})
        small.layout.node("node1").joinpath("state/memory.json").unlink()
        agents.start(small.layout, small.spec)
        eventually(lambda: "no podCIDR yet" in problems(small), 20)
        assert not small.call("node1", "status")["ready"]
    finally:
        store.put(known)
    eventually(lambda: bool(small.call("node1", "status")["ready"]), 20)
    assert problems(small) == ""


def problems(world: World) -> str:
    """What the agent says is wrong; nothing while it does not answer yet."""
    try:
        return "; ".join(world.call("node1", "status")["problems"])
    except AgentUnreachableError:
        return ""
