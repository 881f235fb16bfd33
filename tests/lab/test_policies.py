"""NetworkPolicy cases of an independent conformance generator, on real packets.

The same data is used whole, without packets, by the firewall's own tests.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cubelet.lab.kinds import Key, Manifest
from cubelet.lab.probe import probe

from .manifests import pod, policy
from .world import Space, World

PROJECT = Path(__file__).parents[2]
DATA = PROJECT / "plugins" / "firewall" / "tests" / "data" / "policy-cases.json.gz"
SAMPLE = (
    # Any address will do: the pods are spread over both nodes.
    "pods by label + empty ns",
    "open a named port that doesn't match its protocol",
    "direction,end-port,ingress,numbered-port,port,protocol,sctp",
    "any-port,direction,egress,multi-port/protocol,named-port,port,rule",
    "Create/delete namespace",
    "allow all from source, deny all to dest",
    "should allow ingress access from updated pod",
    "should deny ingress access to updated pod",
    # Those that name addresses.
    "simple ipblock",
    "ingress, 2-peer: empty pods + nil ns, ipblock with except",
)


def cases() -> dict[str, dict[str, Any]]:
    """The sample, by description; of those with the same one the first."""
    found: dict[str, dict[str, Any]] = {}
    for case in json.loads(gzip.decompress(DATA.read_bytes())):
        found.setdefault(case["description"], case)
    return {description: found[description] for description in SAMPLE}


@pytest.fixture(scope="module")
def policy_cases() -> dict[str, dict[str, Any]]:
    """The cases to try."""
    return cases()


@pytest.fixture(scope="module")
def pods(world: World) -> Iterator[World]:
    """The shared lab, whose namespaces x, y, z are removed in the end."""
    yield world
    names = [m["metadata"]["name"] for m in world.objects.store.list("Namespace")]
    world.delete(*(Key("Namespace", "", name) for name in names if name != "default"))


def manifests(step: dict[str, Any]) -> list[Manifest]:
    found: list[Manifest] = [
        {"kind": "Namespace", "metadata": {"name": name, "labels": labels}}
        for name, labels in step["namespaces"].items()
    ]
    found += [{**each, "kind": "NetworkPolicy"} for each in step["policies"]]
    for number, each in enumerate(step["pods"]):
        ports = [
            {"containerPort": p["port"], "protocol": p["protocol"], "name": p["name"]}
            for p in each["ports"]
        ]
        metadata = {name: each[name] for name in ("namespace", "name", "labels")}
        node = f"node{number % 2 + 1}"
        if step["fixed_ips"]:
            metadata["annotations"] = {"cubelet.io/ip": each["ip"]}
            node = "node1"
        spec = {"nodeName": node, "containers": [{"name": "c", "ports": ports}]}
        found.append({"kind": "Pod", "metadata": metadata, "spec": spec})
    return found


def converge(world: World, wanted: list[Manifest]) -> None:
    """Make the lab hold these objects, beside its nodes and the namespace `default`."""
    names = {
        Key(m["kind"], m["metadata"].get("namespace", ""), m["metadata"]["name"]) for m in wanted
    }
    kept = {Key("Namespace", "", "default")} | names
    kinds = ("NetworkPolicy", "Pod", "Namespace")
    stored = [
        Key(kind, m["metadata"].get("namespace", ""), m["metadata"]["name"])
        for kind in kinds
        for m in world.objects.store.list(kind)
    ]
    world.delete(*(key for key in stored if key not in kept))
    world.apply(*wanted)


@pytest.mark.parametrize("description", SAMPLE)
def test_case(pods: World, policy_cases: dict[str, dict[str, Any]], description: str) -> None:
    for step in policy_cases[description]["steps"]:
        converge(pods, manifests(step))
        probed = {(protocol, port) for protocol, port in step["probed"]}
        denied = {tuple(each) for each in step["denied"]}
        seen = [row for row in probe(pods.layout) if (row.protocol, row.port) in probed]
        count = len(step["pods"])
        assert len(seen) == count * (count - 1) * len(probed)
        refused = {
            (row.source, row.target, row.protocol, row.port)
            for row in seen
            if row.verdict == "denied"
        }
        assert refused == denied, sorted(refused ^ denied)[:10]


def test_the_host_of_another_node_is_meant_by_its_nodes_address(world: World, space: Space) -> None:
    """By the one of node2, that of its network, and no other."""
    space.apply(pod("web", ("TCP", 80), nodeName="node1"))
    node1, node2 = (str(world.node(name).address) for name in ("node1", "node2"))
    network = str(ip_network(f"{node2}/24", strict=False))

    def seen(*blocks: dict[str, Any]) -> str:
        rules = [{"from": [{"ipBlock": each} for each in blocks]}] if blocks else []
        space.apply(policy("p", "web", ingress=rules))
        return space.who(world.at_node("node2"), space.ip("web"), 80, timeout=0.5)

    assert seen({"cidr": f"{node2}/32"}) == "web"
    assert seen() != "web"
    assert seen({"cidr": network}) == "web"
    assert seen({"cidr": network, "except": [f"{node2}/32"]}) != "web"
    assert seen({"cidr": f"{node1}/32"}) != "web"
