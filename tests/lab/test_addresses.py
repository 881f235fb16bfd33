"""The node's addresses and NICs, which are more than one, and come and go under load."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from cubelet.lab import cluster, netns, processes, traffic
from cubelet.lab.layout import OUTSIDE_ADDRESS, UNDERLAY

from .load import datagrams, loads
from .manifests import pod, service
from .world import Space, World, eventually

ECHO, HEALED = 7, 1.0
PORTS = (("TCP", ECHO), ("UDP", ECHO))
NAS, AT_NAS, NAS_NETWORK = "198.51.100.100", "198.51.100.11", 24
"""A host that knows no pods, on a network of its own with node1."""


@pytest.fixture(scope="module")
def field(world: World) -> Iterator[Space]:
    """A client and a server on node1, a server on node2, each with a Service of node ports."""
    space = Space(world, "addresses")
    space.apply(
        pod("client", *PORTS, nodeName="node1"),
        pod("far", *PORTS, nodeName="node2"),
        *(
            service(name, name, ("TCP", 80, ECHO), ("UDP", 80, ECHO), type="NodePort")
            for name in ("client", "far")
        ),
    )
    yield space
    space.delete("Pod", "client", "far")
    space.delete("Service", "client", "far")


def identity(world: World, node: str = "node1") -> str:
    found: str = world.call(node, "status")["composition"]["identity"]
    return found


def at_node1(world: World, *lines: str) -> None:
    netns.ip_batch(lines, world.at_node("node1"))


def served(space: Space, place: str, address: str) -> bool:
    """Whether both Services have their node ports there, by TCP and UDP."""
    return all(
        space.who(place, address, space.node_port(name, protocol), protocol, 0.3) == name
        for name in ("client", "far")
        for protocol in ("TCP", "UDP")
    )


@contextmanager
def second_nic(world: World) -> Iterator[str]:
    """Give node1 one, with the host behind it, whose namespace this is."""
    place = f"{world.layout.netns_prefix}nas"
    netns.create(place)
    try:
        lines = [f"link add eth0 type veth peer name eth1 netns {world.at_node('node1')}"]
        lines += [f"address add {NAS}/{NAS_NETWORK} dev eth0", "link set eth0 up"]
        netns.ip_batch(lines, place)
        processes.spawn_server(world.layout, "nas", place, "nas", [("TCP", 80), ("UDP", ECHO)])
        at_node1(world, f"address add {AT_NAS}/{NAS_NETWORK} dev eth1", "link set eth1 up")
        yield place
    finally:
        processes.end(world.layout, ["nas"])
        netns.delete(place)


def test_an_address_that_comes_and_goes(field: Space) -> None:
    """As of a failover: it is served within a second, without another composition."""
    world, vip = field.world, "172.18.0.150"
    before = identity(world)
    with loads() as running:
        running.add(
            "other",
            world.outside,
            datagrams,
            world.node("node1").address,
            field.node_port("far", "UDP"),
            100,
        )
        at_node1(world, f"address add {vip}/32 dev eth0")
        took = eventually(lambda: served(field, world.outside, vip), HEALED + 1)
        at_node1(world, f"address del {vip}/32 dev eth0")
        eventually(lambda: vip not in str(world.call("node1", "get", noun="ports")), HEALED)
    print(f"address comes: {took * 1e3:.0f} ms")
    running.check(at_least=10)
    assert identity(world) == before


def test_a_second_nic(field: Space) -> None:
    """Behind it pods are seen under the node's address there, and node ports are served there."""
    world = field.world
    before, client = identity(world), field.at("client")
    with loads() as running:
        running.add(
            "other",
            world.outside,
            datagrams,
            world.node("node1").address,
            field.node_port("far", "UDP"),
            100,
        )
        with second_nic(world) as nas:

            def seen_as() -> str:
                return world.run(client, traffic.who, NAS, 80, "TCP", 0.3).seen_as

            took = eventually(lambda: seen_as() == AT_NAS, HEALED + 1)
            assert served(field, nas, AT_NAS)
            assert world.run(world.at_node("node1"), traffic.who, NAS, 80).seen_as == AT_NAS
            by_eth0 = world.run(client, traffic.who, OUTSIDE_ADDRESS, 80)
            assert by_eth0.seen_as == world.node("node1").address
            assert served(field, world.outside, world.node("node1").address)
            running.add("by the second", client, datagrams, NAS, ECHO, 100)
            running.add(
                "in by the second", nas, datagrams, AT_NAS, field.node_port("far", "UDP"), 100
            )
            time.sleep(0.5)
            assert world.call("node1", "status")["problems"] == []
            running.end()
            running.check(at_least=10)
        eventually(lambda: AT_NAS not in str(world.call("node1", "get", noun="ports")), HEALED)
    print(f"second NIC comes: {took * 1e3:.0f} ms")
    assert identity(world) == before


def test_a_node_that_is_known_by_its_second_address(field: Space) -> None:
    """The kernel would prefer the first as source of tunnels; other nodes know the second."""
    world, second = field.world, "172.18.0.112"
    node = cluster.node_manifest(world.node("node2"))
    moved = cluster.node_manifest(world.node("node2"))
    moved["status"]["addresses"][0]["address"] = second

    def reached() -> bool:
        ends = (
            (field.at("client"), "far"),
            (world.at_node("node1"), "far"),
            (field.at("far"), "client"),
        )
        return all(
            field.who(place, field.ip(name), ECHO, timeout=0.3) == name for place, name in ends
        )

    try:
        netns.ip(
            ["address", "add", f"{second}/{UNDERLAY.prefixlen}", "dev", "eth0"],
            world.at_node("node2"),
        )
        world.objects.store.put(moved)
        world.sync()
        eventually(reached, 1)
    finally:
        world.objects.store.put(node)
        netns.ip(
            ["address", "del", f"{second}/{UNDERLAY.prefixlen}", "dev", "eth0"],
            world.at_node("node2"),
        )
        world.sync()
    eventually(reached, 1)
