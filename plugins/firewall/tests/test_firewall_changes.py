"""Following changes: what is planned again, and that nothing is missed or left behind."""

from __future__ import annotations

import random

import msgspec
import pytest

from cubelet_hooks.objects import (
    Change,
    ContainerPort,
    LocalNode,
    Namespace,
    Object,
    Service,
)

from .node import Node, pod, policy, port

LOCAL_POD = pod("a", "10.1.1.2")


def test_units_of_changes() -> None:
    monitors = {"podSelector": {"matchLabels": {"pod": "monitor"}}, "namespaceSelector": {}}
    node = Node(LOCAL_POD, port(LOCAL_POD), Namespace("z"), policy(ingress=[{"from": [monitors]}]))
    assert node.put(pod("c", "10.1.2.7", "z")) == {("identity", "10.1.2.7")}
    assert node.put(pod("c", "10.1.2.7", "z", ready=True)) == set()
    monitor = {("identity", "10.1.2.8"), ("namespace", "x")}
    assert node.put(pod("monitor", "10.1.2.8", "z")) == monitor
    assert node.remove(pod("monitor", "10.1.2.8", "z")) == monitor
    assert node.put(policy(namespace="z", ingress=[])) == {("namespace", "z")}
    assert node.put(Service("x", "web")) == set()


def _universe(chance: random.Random) -> Object:
    """Some version of one of a few objects, which have much to do with each other."""
    space = chance.choice("xyz")
    match chance.randrange(5):
        case 0:
            return Namespace(space, {"team": chance.choice("tu"), **_named(space)})
        case 1 | 2:
            number = chance.randrange(2, 9)
            made = pod(
                f"p{number}",
                f"10.1.{chance.choice('12')}.{chance.choice((number, 2))}",
                space,
                labels={"app": chance.choice("ab")},
                ports=(ContainerPort(chance.choice((80, 81)), "TCP", "web"),),
                host_network=chance.random() < 0.1,
            )
            return msgspec.structs.replace(made, phase=chance.choice(("Running", "Failed")))
        case 3:
            number = chance.randrange(2, 9)
            return port(pod(f"p{number}", f"10.1.1.{number}", space))
    peers = [
        {"podSelector": {"matchLabels": {"app": chance.choice("ab")}}},
        {"namespaceSelector": {"matchLabels": {"team": chance.choice("tu")}}},
        {"namespaceSelector": {"matchLabels": _named("z")}, "podSelector": {}},
        {"namespaceSelector": {}, "podSelector": {"matchLabels": {"app": "a"}}},
        {"namespaceSelector": {}},
        {"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.2.0/28"]}},
    ]
    ports = [{"port": chance.choice((80, "web")), "protocol": "TCP"}]
    some = chance.sample(peers, chance.randrange(3))
    direction, key = chance.choice((("ingress", "from"), ("egress", "to")))
    rule = {key: some, "ports": ports if chance.random() < 0.5 else []}
    return policy(chance.choice("pq"), space, **{direction: [rule]})


def _named(space: str) -> dict[str, str]:
    return {"kubernetes.io/metadata.name": space}


@pytest.mark.parametrize("seed", range(60))
def test_following_changes_gives_what_planning_afresh_would(seed: int) -> None:
    """Whatever comes in one batch: nothing is missed, and nothing left behind."""
    chance = random.Random(seed)
    node = Node()
    for _ in range(25):
        batch = [_universe(chance) for _ in range(chance.randrange(1, 5))]
        known = [each for each in node.state if not isinstance(each, LocalNode)]
        gone = chance.sample(known, min(len(known), chance.randrange(4)))
        changes = [Change.between(None, each) for each in batch]
        changes += [Change.between(each, None) for each in gone]
        chance.shuffle(changes)
        node.take_in(changes)
        assert node.planner.contents() == node.planned_afresh()
