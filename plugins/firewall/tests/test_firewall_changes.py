"""Following changes: what is planned again, and that nothing is missed or left behind."""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import Iterator
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from cubelet.state.cluster import State
from cubelet_firewall.records import Direction, Host, HostKey
from cubelet_hooks.objects import (
    Change,
    ContainerPort,
    LocalNode,
    Namespace,
    Object,
    Pod,
    PolicyPeer,
    PolicyRule,
    Service,
)
from cubelet_hooks.objects import Node as KubernetesNode

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
    for direction, one, peer, number in _connections(node):
        allowed = node.allows(direction, one.ips[0], peer.ips[0], "TCP", number)
        assert allowed == _plainly(node.state, direction, one, peer, number)


def _connections(node: Node) -> Iterator[tuple[Direction, Pod, Pod, int]]:
    """Between local pods and any others, as far as an address tells which pod is meant."""
    state = node.state
    held = Counter(address for each in state.ports.values() for address in each.addresses)
    held.update(each.ips[0] for each in state.pods.values() if each.key not in state.ports)
    clear = [
        each
        for each in state.pods.values()
        if held[each.ips[0]] == 1
        and (each.key not in state.ports or state.ports[each.key].addresses == each.ips)
    ]
    for direction, one, peer, number in itertools.product(Direction, clear, clear, (80, 81)):
        if one.key in state.ports and one is not peer:
            yield direction, one, peer, number


def _plainly(state: State, direction: Direction, one: Pod, peer: Pod, number: int) -> bool:
    """What the specification says of TCP between a pod and its peer, read word by word.

    What an ipBlock allows to a name is left open there; here it is nothing.
    """
    inward = direction is Direction.INGRESS
    selecting = [
        (each.ingress if inward else each.egress)
        for each in state.policies_in(one.namespace)
        if each.pod_selector.matches(one.labels)
    ]
    isolating = [rules for rules in selecting if rules is not None]
    return not isolating or any(
        _has_port(rule, number, one if inward else peer)
        and (not rule.peers or any(_is_meant(state, each, one, peer) for each in rule.peers))
        for rules in isolating
        for rule in rules
        if inward or not _only_blocks_have(rule, state, one, peer)
    )


def _has_port(rule: PolicyRule, number: int, receiver: Pod) -> bool:
    names = {each.port for each in receiver.ports if each.name == "web"}
    return not rule.ports or any(
        each.port == number or (each.port == "web" and number in names) for each in rule.ports
    )


def _only_blocks_have(rule: PolicyRule, state: State, one: Pod, peer: Pod) -> bool:
    """Whether the rule's port is a name, and the peer meant by its address or as a host."""
    named = any(isinstance(each.port, str) for each in rule.ports)
    by_pod = [each for each in rule.peers if each.cidr is None]
    meant = not rule.peers or any(_is_meant(state, each, one, peer) for each in by_pod)
    return named and (peer.host_network or peer.finished or not meant)


def _is_meant(state: State, peer: PolicyPeer, one: Pod, other: Pod) -> bool:
    if peer.cidr is not None:
        address = other.ips[0]
        return address in peer.cidr and not any(address in each for each in peer.excepts)
    if other.host_network or other.finished:
        return False
    known = state.namespaces.get(other.namespace)
    labels = known.labels if known else _named(other.namespace)
    if peer.namespace_selector is None and one.namespace != other.namespace:
        return False
    return (peer.namespace_selector is None or peer.namespace_selector.matches(labels)) and (
        peer.pod_selector is None or peer.pod_selector.matches(other.labels)
    )


def test_a_node_is_planned_by_itself() -> None:
    """Of 5,000 nodes one that comes or changes costs nobody's policies another plan."""
    allowed = [{"from": [{"ipBlock": {"cidr": "172.18.0.0/16"}}]}]
    node = Node(LOCAL_POD, port(LOCAL_POD), policy(ingress=allowed))
    host = KubernetesNode(
        "n2",
        addresses=tuple(map(ip_address, ("172.18.0.3", "fd00::3", "203.0.113.3"))),
        pod_cidrs=tuple(map(ip_network, ("10.1.2.0/24", "fd01::/64"))),
    )
    assert node.put(host) == {("node", "n2")}
    found = node.planner.contents()["firewall0_hosts"]
    assert {HostKey.unpack(key): Host.unpack(value).address for key, value in found.items()} == {
        HostKey(ip_address("10.1.2.1"), 0): ip_address("172.18.0.3"),
        HostKey(ip_address("10.1.2.1"), 1): ip_address("203.0.113.3"),
    }
    node.remove(host)
    assert node.entries("hosts") == 0
