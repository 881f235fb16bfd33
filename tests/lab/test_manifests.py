"""Manifests that cannot be read: told by file and field, and nothing else suffers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from .load import connections, datagrams, loads
from .manifests import pod, policy, service
from .world import Space, World, eventually

PORTS = (("TCP", 7), ("UDP", 7))
BROKEN = {
    "no YAML": ("kind: Pod\n  metadata: {", (".yaml:2", "YAML")),
    "unknown kind": ("kind: Gadget\nmetadata: {name: g}\n", ("Gadget", "kind")),
    "no object": ("- just\n- a list\n", ()),
    "wrong type": (
        (
            "kind: Service\nmetadata: {name: s, namespace: x}\n"
            "spec: {clusterIP: 10.96.0.99, ports: [{port: eighty}]}\n"
        ),
        ("spec.ports[0].port", "s"),
    ),
    "no address": (
        "kind: Pod\nmetadata: {name: p, namespace: x}\nstatus: {podIP: not-an-address}\n",
        ("podIP", "p"),
    ),
    "bad CIDR": (
        (
            "kind: NetworkPolicy\nmetadata: {name: n, namespace: x}\n"
            "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/99}}]}]}\n"
        ),
        ("spec.ingress[0].from[0].ipBlock.cidr", "n"),
    ),
}


@pytest.fixture(scope="module")
def site(world: World) -> Iterator[Space]:
    """A server that one client may reach, through a Service."""
    space = Space(world, "site")
    space.apply(
        pod("client", nodeName="node1"),
        pod("stranger", nodeName="node1"),
        pod("server", *PORTS, nodeName="node2"),
        service("server", "server", ("TCP", 80, 7), ("UDP", 80, 7), clusterIP=VIP),
        policy(
            "p", "server", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]
        ),
    )
    yield space
    space.delete("Pod", "client", "stranger", "server")
    space.delete("Service", "server")
    space.delete("NetworkPolicy", "p")


@pytest.fixture
def file(world: World) -> Iterator[Path]:
    """A file in the folder of manifests, removed in the end."""
    path = world.layout.manifests / "broken.yaml"
    yield path
    path.unlink(missing_ok=True)
    world.sync()


def problems(world: World, node: str = "node1") -> list[str]:
    found: list[str] = world.call(node, "status")["problems"]
    return found


VIP = "10.96.4.4"


def works(site: Space) -> bool:
    """Whether what was programmed before is in force."""
    client, stranger = site.at("client"), site.at("stranger")
    return (
        site.who(client, VIP, 80) == "server"
        and site.who(stranger, site.ip("server"), 7, timeout=0.3) == "timeout"
    )


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_wrong_is_told_until_it_is_mended(site: Space, file: Path, case: str) -> None:
    text, words = BROKEN[case]
    file.write_text(text)
    for node in ("node1", "node2"):
        eventually(lambda node=node: bool(problems(site.world, node)), 2)  # type: ignore[misc]
        (problem,) = problems(site.world, node)
        assert file.name in problem
        for word in words:
            assert word in problem, problem
        assert site.world.call(node, "status")["ready"]
    assert works(site)
    file.unlink()
    eventually(lambda: problems(site.world) == [], 2)


def test_a_bad_object_beside_good_ones_is_left_out_alone(site: Space, file: Path) -> None:
    good = service("beside", "server", ("TCP", 80, 7), clusterIP="10.96.5.5")
    good["metadata"]["namespace"] = site.name
    bad = {"kind": "Service", "metadata": {"name": "bad", "namespace": "x"}, "spec": {"ports": 7}}
    file.write_text(yaml.safe_dump_all([bad, good]))
    site.world.sync()
    assert site.who(site.at("client"), "10.96.5.5", 80) == "server"
    (problem,) = problems(site.world)
    assert "bad" in problem
    assert "spec.ports" in problem


def test_an_object_that_becomes_invalid_stays_as_it_was(site: Space) -> None:
    store = site.world.layout.manifests / f"service.{site.name}.server.yaml"
    before = store.read_text()
    try:
        with loads() as running:
            running.add("UDP", site.at("client"), datagrams, VIP, 80, 100)
            running.add("TCP", site.at("client"), connections, VIP, 80)
            store.write_text(before.replace("port: 80", "port: 99999"))
            eventually(lambda: bool(problems(site.world)), 2)
            assert "spec.ports[0].port" in problems(site.world)[0]
            store.write_text("]" + before)
            eventually(lambda: "spec.ports" not in problems(site.world)[0], 2)
            time.sleep(0.3)
        running.check(at_least=5)
    finally:
        store.write_text(before)
    eventually(lambda: problems(site.world) == [], 2)
    assert works(site)


def test_nothing_is_lost_when_the_agent_starts_with_a_broken_file(site: Space) -> None:
    """What the file said cannot be known: all that the kernel holds stays."""
    world = site.world
    store = world.layout.manifests / f"service.{site.name}.server.yaml"
    rules = world.layout.manifests / f"networkpolicy.{site.name}.p.yaml"
    texts = {path: path.read_text() for path in (store, rules)}
    before = {node: world.planned(node) for node in ("node1", "node2")}
    try:
        with loads() as running:
            running.add("UDP", site.at("client"), datagrams, VIP, 80, 100)
            running.add("TCP", site.at("client"), connections, VIP, 80)
            for path in texts:
                path.write_text("{")
            for node in ("node1", "node2"):
                world.kill(node)
            world.start("node1", "node2")
            assert len(problems(world)) == 2
            assert works(site)
        running.check(at_least=20)
        assert {node: world.planned(node) for node in before} == before
    finally:
        for path, text in texts.items():
            path.write_text(text)
    eventually(lambda: problems(world) == [], 3)
    world.sync()
    assert {node: world.planned(node) for node in before} == before
    assert works(site)
