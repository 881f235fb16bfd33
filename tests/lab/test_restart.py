"""Agents that crash, restart and recompose under load: no packet is lost."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from cubelet.bpf.maps import BpfMap
from cubelet.config.node import Settings
from cubelet.lab import traffic

from .load import Loads, connections, datagrams, loads, stream
from .manifests import pod, service
from .world import Space, World

ECHO = 7
NODES = ("node1", "node2")


@pytest.fixture(scope="module")
def busy(world: World) -> Iterator[Space]:
    """A client and two servers, one on each node, with a Service of the remote one."""
    space = Space(world, "busy")
    ports = (("TCP", ECHO), ("UDP", ECHO))
    space.apply(
        pod("client", nodeName="node1"),
        pod("near", *ports, nodeName="node1"),
        pod("far", *ports, nodeName="node2"),
        service("far", "far", ("TCP", 80, ECHO), ("UDP", 80, ECHO)),
    )
    yield space
    space.delete("Pod", "client", "near", "far")
    space.delete("Service", "far")


def start_loads(running: Loads, space: Space) -> None:
    client, vip = space.at("client"), space.vip("far")
    running.add("UDP on one node", client, datagrams, space.ip("near"), ECHO, 100)
    running.add("UDP across nodes", client, datagrams, space.ip("far"), ECHO, 100)
    running.add("UDP by ClusterIP", client, datagrams, vip, 80)
    running.add("TCP by ClusterIP", client, stream, vip, 80)
    running.add("new TCP by ClusterIP", client, connections, vip, 80)
    running.add("new UDP across nodes", client, connections, space.ip("far"), ECHO, "UDP")
    running.add("to the outside", client, connections, "172.18.0.100", 80)
    time.sleep(0.5)


def compiled(identities: Iterable[str]) -> dict[Path, float]:
    """When each of these compositions was compiled, if the cache has it still."""
    paths = (Settings().cache_dir / f"{each}.json" for each in identities)
    return {path: path.stat().st_mtime for path in paths if path.exists()}


def programs(world: World, node: str) -> list[str]:
    """The identities of the compositions that are pinned."""
    folder = world.layout.bpffs_of(node) / "programs"
    return [place.name.partition("-")[0] for place in folder.iterdir()]


def test_traffic_survives_a_killed_agent(world: World, busy: Space) -> None:
    before = {node: (world.pinned(node), world.planned(node)) for node in NODES}
    identities = {node: world.call(node, "status")["composition"]["identity"] for node in NODES}
    cache = compiled(identities.values())
    with loads() as running:
        start_loads(running, busy)
        for node in NODES:
            world.kill(node)
        time.sleep(1)
        assert busy.who(busy.at("client"), busy.vip("far"), 80) == "far"
        world.start(*NODES)
        time.sleep(0.5)
    running.check(at_least=80)
    assert running["UDP by ClusterIP"].silence < 1
    for node in NODES:
        assert (world.pinned(node), world.planned(node)) == before[node]
        assert world.call(node, "status")["composition"]["identity"] == identities[node]
        assert programs(world, node) == [identities[node]]
        assert world.call(node, "status")["problems"] == []
    # What other tests compile pushes these out of the cache, but makes none of them anew.
    after = compiled(identities.values())
    assert {path: after.get(path, made) for path, made in cache.items()} == cache


def test_flows_outlive_the_agent(world: World, busy: Space) -> None:
    client = busy.at("client")
    source = world.run(client, traffic.udp, busy.ip("far"), ECHO, b"x").local
    wanted = {"sport": str(source[1]), "src": source[0]}

    def flow() -> dict[str, object]:
        (row,) = world.call("node1", "get", noun="flows", where=wanted)
        return {key: row[key] for key in ("state", "to_dst", "to_dport", "packets")}

    before = flow()
    world.kill("node1")
    world.start("node1")
    assert flow() == before


def test_what_changed_while_the_agent_was_away_is_made_good(world: World, busy: Space) -> None:
    wanted = world.planned("node1")
    world.kill("node1")
    pins = world.planned_pins("node1")
    with BpfMap.open(pins["lbrp0_services"]) as services:
        key, value = next(iter(wanted["lbrp0_services"].items()))
        services.delete(key)
        services.update(b"\xff" * len(key), value)
    with BpfMap.open(pins["bridge0_neighbors"]) as neighbors:
        for key, value in wanted["bridge0_neighbors"].items():
            neighbors.update(key, bytes(len(value)))
    damaged = world.planned("node1")
    assert damaged["lbrp0_services"].keys() != wanted["lbrp0_services"].keys()
    assert damaged["bridge0_neighbors"] == {}
    world.start("node1")
    assert world.planned("node1") == wanted


def test_objects_that_came_and_went_meanwhile(world: World, busy: Space, space: Space) -> None:
    space.apply(service("old", "far", ("TCP", 80, ECHO)))
    assert space.who(busy.at("client"), space.vip("old"), 80) == "refused"
    old = space.vip("old")
    world.kill("node1")
    store = world.objects.store
    store.put({**busy.get("Service", "far"), "metadata": {"name": "new", "namespace": "busy"}})
    new = busy.get("Service", "new")
    new["spec"] = {**new["spec"], "clusterIP": "10.96.77.7", "clusterIPs": ["10.96.77.7"]}
    store.put(new)
    (Path(world.layout.manifests) / f"service.{space.name}.old.yaml").unlink()
    world.start("node1")
    assert busy.who(busy.at("client"), "10.96.77.7", 80) == "far"
    rows = world.call("node1", "get", noun="services")
    assert old not in {row["address"] for row in rows}
    busy.delete("Service", "new")


def test_recomposing_loses_nothing(world: World, busy: Space) -> None:
    with loads() as running:
        start_loads(running, busy)
        for mode in ("tailcall", "fused"):
            world.stop("node1")
            world.start("node1", composition=mode)
            assert world.call("node1", "status")["composition"]["mode"] == mode
            time.sleep(0.5)
    running.check(at_least=80)


def test_a_service_that_becomes_exposed_recomposes_live(world: World, busy: Space) -> None:
    def identity(node: str) -> str:
        return str(world.call(node, "status")["composition"]["identity"])

    before = {node: identity(node) for node in NODES}
    with loads() as running:
        start_loads(running, busy)
        busy.apply(service("far", "far", ("TCP", 80, ECHO), ("UDP", 80, ECHO), type="NodePort"))
        assert all(identity(node) != before[node] for node in NODES)
        node_port = busy.node_port("far")
        for node in world.spec.nodes:
            assert busy.who(world.outside, node.address, node_port) == "far"
        busy.apply(service("far", "far", ("TCP", 80, ECHO), ("UDP", 80, ECHO)))
        assert {node: identity(node) for node in NODES} == before
        for node in world.spec.nodes:
            assert busy.who(world.outside, node.address, node_port) in ("refused", "timeout")
        time.sleep(0.2)
    running.check(at_least=40)
