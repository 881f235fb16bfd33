"""Cases of an independent conformance generator, with the connectivity they must give."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from cubelet.sources.decode import decode_object
from cubelet_hooks.objects import ContainerPort, Namespace, Object, Pod

from .node import Node, pod, port

CASES = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "policy-cases.json.gz").read_bytes())
)
MUTATED = "should enforce updated policy"
"""Recorded after its policy had been updated in place: both steps hold the second one's, denying
all, but expect different things. The first one's is in the policy's name, and allows all."""


def _steps(case: Mapping[str, Any]) -> list[dict[str, Any]]:
    steps: list[dict[str, Any]] = json.loads(json.dumps(case["steps"]))
    if case["description"] == MUTATED:
        first, second = steps
        assert first["policies"] == second["policies"]
        assert (first["denied"] == [], second["denied"] == []) == (True, False)
        assert first["policies"][0]["metadata"]["name"] == "allow-all-mutate-to-deny-all"
        first["policies"][0]["spec"]["ingress"] = [{}]
    return steps


def _step_objects(step: Mapping[str, Any]) -> dict[tuple[str, str], Object]:
    """Without ``fixed_ips`` addresses are placeholders, not always different ones."""
    found: list[Object] = [Namespace(name, labels) for name, labels in step["namespaces"].items()]
    found += [
        pod(
            each["name"],
            each["ip"] if step["fixed_ips"] else f"10.1.1.{number}",
            each["namespace"],
            labels=each["labels"],
            ports=tuple(ContainerPort(p["port"], p["protocol"], p["name"]) for p in each["ports"]),
        )
        for number, each in enumerate(step["pods"], 2)
    ]
    found += [decode_object({**each, "kind": "NetworkPolicy"}) for each in step["policies"]]
    return {(each.kind, each.key): each for each in found}


def _connections(step: Mapping[str, Any]) -> Iterator[tuple[str, str, str, int]]:
    names = [f"{each['namespace']}/{each['name']}" for each in step["pods"]]
    return (
        (source, target, protocol, number)
        for source in names
        for target in names
        if source != target
        for protocol, number in step["probed"]
    )


@pytest.mark.parametrize(
    "number", range(len(CASES)), ids=lambda n: f"{n}-{CASES[n]['description']}"
)
def test_independent_case(number: int) -> None:
    """Two nodes, pods in turn: the sender's judges egress, the receiver's ingress."""
    nodes = (Node(), Node())
    known: dict[tuple[str, str], Object] = {}
    for step in _steps(CASES[number]):
        objects = _step_objects(step)
        pods = {key: each for (_, key), each in objects.items() if isinstance(each, Pod)}
        of = {key: nodes[index % 2] for index, key in enumerate(sorted(pods))}
        for node in nodes:
            gone = [each for key, each in known.items() if key not in objects]
            node.remove(*gone, *(p for p in node.state.ports.values() if of.get(p.key) != node))
            node.put(*objects.values(), *(port(pods[key]) for key in pods if of[key] is node))
            assert node.planner.contents() == node.planned_afresh()
        known = objects
        denied = {
            (source, target, protocol, number)
            for source, target, protocol, number in _connections(step)
            if not of[source].egress(pods[source], pods[target], protocol, number)
            or not of[target].ingress(pods[target], pods[source], protocol, number)
        }
        assert denied == {tuple(each) for each in step["denied"]}
