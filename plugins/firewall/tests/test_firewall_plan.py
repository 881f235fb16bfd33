"""What the plans let pass, found by the lookups that the C makes in the planned maps' bytes."""

from __future__ import annotations

import gzip
import json
import random
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cubelet.planner import Planner
from cubelet.sources.decode import decode_object
from cubelet.state import State
from cubelet_firewall.cube import Firewall, cubelet_cubes
from cubelet_firewall.portsets import EVERYTHING_NUMBER, NOTHING_NUMBER
from cubelet_firewall.records import (
    BlockKey,
    Direction,
    Identity,
    IdentityKey,
    IsolatedKey,
    PeerKey,
    Policy,
    PortKey,
    PortSet,
)
from cubelet_firewall.settings import Settings
from cubelet_hooks.cube import Unit
from cubelet_hooks.objects import (
    Address,
    Change,
    ContainerPort,
    LocalNode,
    Namespace,
    NetworkPolicy,
    Object,
    Pod,
    Port,
    Service,
)
from cubelet_hooks.records import Record

PROTOCOLS = {"ICMP": 1, "TCP": 6, "UDP": 17, "SCTP": 132}
CASES = json.loads(
    gzip.decompress((Path(__file__).parent / "data" / "policy-cases.json.gz").read_bytes())
)
OUTSIDE = "192.0.2.7"


class Tries:
    """Contents of maps, with the kernel's two ways to look something up."""

    def __init__(self, contents: Mapping[str, Mapping[bytes, bytes]]) -> None:
        self._maps = contents
        self._lengths = {
            name: sorted({int.from_bytes(key[:4], "little") for key in entries}, reverse=True)
            for name, entries in contents.items()
        }

    def exact(self, name: str, key: Record) -> bytes | None:
        return self._maps[f"firewall0_{name}"].get(key.pack())

    def longest(self, name: str, key: Record) -> bytes | None:
        raw = key.pack()
        given, bits = int.from_bytes(raw[:4], "little"), int.from_bytes(raw[4:], "big")
        width = 8 * (len(raw) - 4)
        for length in self._lengths[f"firewall0_{name}"]:
            data = (bits >> (width - length) << (width - length)).to_bytes(width // 8, "big")
            wanted = length.to_bytes(4, "little") + data
            found = self._maps[f"firewall0_{name}"].get(wanted)
            if length <= given and found is not None:
                return found
        return None


class Node:
    """A node's state and its firewall's plans; ``allows`` is what the C does with them."""

    def __init__(self, *objects: Object) -> None:
        self.state = State()
        self.firewall = Firewall("firewall0", Settings())
        self.planner = Planner([self.firewall])
        self.bits = self.firewall.defines(self.state)
        self.put(LOCAL, *objects)

    def put(self, *objects: Object) -> set[Unit]:
        return self._take_in(Change.between(None, each) for each in objects)

    def remove(self, *objects: Object) -> set[Unit]:
        return self._take_in(Change.between(each, None) for each in objects)

    def _take_in(self, changes: Iterable[Change]) -> set[Unit]:
        real = [change for change in map(self.state.apply, changes) if change]
        units = self.planner.units(real, self.state)
        self.planner.replan(units, self.state)
        assert self.planner.failures == {}
        self.tries = Tries(self.planner.contents())
        return {unit for _, unit in units}

    def entries(self, name: str) -> int:
        return len(self.planner.contents()[f"firewall0_{name}"])

    def planned_afresh(self) -> Mapping[str, Mapping[bytes, bytes]]:
        planner = Planner([self.firewall])
        changes = [Change.between(None, each) for each in self.state]
        planner.replan(planner.units(changes, self.state), self.state)
        return planner.contents()

    def allows(
        self, direction: Direction, pod: Address, peer: Address, protocol: str, port: int
    ) -> bool:
        raw = self.tries.exact("isolated", IsolatedKey(pod, direction))
        if raw is None:
            return True
        policy = Policy.unpack(raw)
        if policy.peers:
            found = self.tries.exact("identities", IdentityKey(peer))
            if found is not None:
                who = Identity.unpack(found)
                key = PeerKey(self.bits["PEER_BITS"], policy.policy, who.namespace, who.pod)
                if self._in_set(self.tries.longest("peers", key), protocol, port):
                    return True
                if not policy.blocks:
                    return False
        block = BlockKey(self.bits["BLOCK_BITS"], policy.policy, peer)
        return self._in_set(self.tries.longest("blocks", block), protocol, port)

    def _in_set(self, raw: bytes | None, protocol: str, port: int) -> bool:
        number = PortSet.unpack(raw).set if raw is not None else NOTHING_NUMBER
        if number in (NOTHING_NUMBER, EVERYTHING_NUMBER):
            return number == EVERYTHING_NUMBER
        key = PortKey(self.bits["PORT_BITS"], number, PROTOCOLS[protocol], port)
        return self.tries.longest("ports", key) is not None

    def egress(self, pod: Pod, peer: Pod | str, protocol: str = "TCP", port: int = 80) -> bool:
        return self.allows(Direction.EGRESS, pod.ips[0], _address(peer), protocol, port)

    def ingress(self, pod: Pod, peer: Pod | str, protocol: str = "TCP", port: int = 80) -> bool:
        return self.allows(Direction.INGRESS, pod.ips[0], _address(peer), protocol, port)


def _address(peer: Pod | str) -> Address:
    return ip_address(peer) if isinstance(peer, str) else peer.ips[0]


LOCAL = LocalNode(
    name="n1",
    addresses=(ip_address("172.18.0.2"),),
    pod_cidr=ip_network("10.1.1.0/24"),
    gateway=ip_address("10.1.1.1"),
    gateway_mac="02:00:00:00:00:01",
    gateway_ifindex=2,
    datapath_ifindex=3,
    overlay_ifindex=4,
    uplink_ifindex=5,
    uplink_mac="02:00:00:00:00:05",
    uplink_mtu=1500,
    overlay_mtu=1450,
    router_mac="02:00:00:00:00:02",
)


def pod(name: str, address: str, namespace: str = "x", **fields: Any) -> Pod:
    fields.setdefault("labels", {"pod": name})
    return Pod(namespace, name, ips=(ip_address(address),), phase="Running", **fields)


def port(of: Pod) -> Port:
    return Port(
        namespace=of.namespace,
        name=of.name,
        container_id=of.name,
        ifname="eth0",
        netns="",
        host_ifname="cbl0",
        ifindex=9,
        mac="02:00:00:00:00:07",
        host_mac="06:00:00:00:00:07",
        addresses=of.ips,
        mtu=1450,
    )


def policy(name: str = "p", namespace: str = "x", **spec: Any) -> NetworkPolicy:
    if "policyTypes" not in spec:
        spec["policyTypes"] = [key.title() for key in ("ingress", "egress") if key in spec]
    read = decode_object(
        {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"podSelector": {}, **spec},
        }
    )
    assert isinstance(read, NetworkPolicy)
    return read


A, B = pod("a", "10.1.1.2"), pod("b", "10.1.1.3")
FAR, OTHER = pod("far", "10.1.2.2"), pod("a", "10.1.2.3", "y")
PODS = (A, B, FAR, OTHER, port(A), port(B))


def test_the_package_offers_the_firewall() -> None:
    assert list(cubelet_cubes()) == [Firewall]
    assert Firewall.source().is_file()


def test_default_sizes_fit_the_settings() -> None:
    firewall = Firewall("firewall0", Settings())
    assert all(firewall.size_of(each) >= 1024 for each in Firewall.maps)
    with pytest.raises(msgspec.ValidationError, match="max_peers"):
        msgspec.convert({"max_peers": 0}, Settings)


# --- the independent cases -----------------------------------------------------------------


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


# --- single rules --------------------------------------------------------------------------


def test_without_policies_nothing_is_planned() -> None:
    node = Node(*PODS, Namespace("x"))
    assert all(not entries for entries in node.planner.contents().values())
    assert node.ingress(A, OUTSIDE)
    assert node.egress(A, FAR)


def test_a_direction_that_is_not_isolated_stays_open() -> None:
    node = Node(*PODS, policy(ingress=[], podSelector={"matchLabels": {"pod": "a"}}))
    assert not node.ingress(A, B)
    assert node.egress(A, B)
    assert node.ingress(B, A)
    assert node.entries("isolated") == 1


@pytest.mark.parametrize(
    ("ports", "open_ports", "closed"),
    [
        ([{"port": 80}], [("TCP", 80)], [("UDP", 80), ("SCTP", 80), ("TCP", 81), ("ICMP", 0)]),
        ([{"protocol": "SCTP", "port": 80}], [("SCTP", 80)], [("TCP", 80), ("UDP", 80)]),
        ([{"protocol": "UDP"}], [("UDP", 0), ("UDP", 65535)], [("TCP", 80), ("ICMP", 0)]),
        (
            [{"port": 79, "endPort": 1025}],
            [("TCP", n) for n in (79, 80, 128, 512, 1024, 1025)],
            [("TCP", n) for n in (78, 1026, 0, 65535)] + [("UDP", 80)],
        ),
        ([{"port": 80, "endPort": 80}], [("TCP", 80)], [("TCP", 81), ("TCP", 79)]),
        ([{"port": 1, "endPort": 65535}], [("TCP", 1), ("TCP", 65535)], [("TCP", 0)]),
        ([{"port": "web"}], [("TCP", 8080)], [("TCP", 8081), ("UDP", 8080), ("TCP", 80)]),
        ([{"port": "dns", "protocol": "UDP"}], [("UDP", 53)], [("TCP", 53)]),
        ([{"port": "nobody"}], [], [("TCP", 80), ("TCP", 8080), ("ICMP", 0)]),
        ([], [("TCP", 1), ("SCTP", 9), ("ICMP", 0)], []),
    ],
)
@pytest.mark.parametrize("direction", ["ingress", "egress"])
@pytest.mark.parametrize("peers", ["any", "pods", "space"])
def test_ports(
    direction: str,
    peers: str,
    ports: list[dict[str, Any]],
    open_ports: list[tuple[str, int]],
    closed: list[tuple[str, int]],
) -> None:
    named = (ContainerPort(8080, "TCP", "web"), ContainerPort(53, "UDP", "dns"))
    other = (ContainerPort(8081, "TCP", "web"), ContainerPort(54, "UDP", "dns"))
    receiver = pod("receiver", "10.1.1.7", ports=named)
    sender = pod("sender", "10.1.1.8", ports=other)
    selectors = {"any": [], "pods": [{"podSelector": {"matchLabels": {}}}], "space": [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "x"}}}
    ]}  # fmt: skip
    key = "from" if direction == "ingress" else "to"
    node = Node(
        *(receiver, sender, port(receiver), port(sender)),
        policy(**{direction: [{key: selectors[peers], "ports": ports}]}),
    )

    def allows(protocol: str, number: int) -> bool:
        if direction == "ingress":
            return node.ingress(receiver, sender, protocol, number)
        return node.egress(sender, receiver, protocol, number)

    assert [each for each in open_ports if not allows(*each)] == []
    assert [each for each in closed if allows(*each)] == []


def test_a_named_port_means_another_number_at_each_peer() -> None:
    one = pod("one", "10.1.2.8", ports=(ContainerPort(1111, "TCP", "web"),))
    two = pod("two", "10.1.2.9", "y", ports=(ContainerPort(2222, "TCP", "web"),))
    node = Node(*PODS, one, two, policy(egress=[{"ports": [{"port": "web"}]}]))
    seen = {(p.name, n) for p in (one, two, FAR) for n in (1111, 2222) if node.egress(A, p, port=n)}
    assert seen == {("one", 1111), ("two", 2222)}
    assert not node.egress(A, OUTSIDE, port=1111)


def test_peers_by_address() -> None:
    wide = {"ipBlock": {"cidr": "192.0.0.0/8", "except": ["192.0.2.0/24"]}}
    inner = {"ipBlock": {"cidr": "192.0.2.128/25"}}
    node = Node(
        *PODS,
        policy(
            egress=[
                {"to": [wide], "ports": [{"port": 80}]},
                {"to": [inner], "ports": [{"port": 81}]},
                {"to": [{"ipBlock": {"cidr": "10.1.2.2/32"}}]},
            ]
        ),
    )
    answers = {
        address: [n for n in (80, 81) if node.egress(A, address, port=n)]
        for address in ("192.0.1.1", "192.0.2.1", "192.0.2.129", "193.0.0.1", "10.1.2.3")
    }
    assert answers == {
        "192.0.1.1": [80],
        "192.0.2.1": [],
        "192.0.2.129": [81],
        "193.0.0.1": [],
        "10.1.2.3": [],
    }
    assert node.egress(A, FAR)


def test_an_address_excepted_by_one_rule_and_named_by_another_is_allowed() -> None:
    excepting = {"ipBlock": {"cidr": "10.1.0.0/16", "except": ["10.1.2.0/24"]}}
    naming = {"ipBlock": {"cidr": "10.1.2.2/32"}}
    first = policy("one", egress=[{"to": [excepting]}])
    node = Node(*PODS, first)
    assert (node.egress(A, FAR), node.egress(A, B)) == (False, True)
    node.put(policy("two", egress=[{"to": [naming]}]))
    assert (node.egress(A, FAR), node.egress(A, OTHER)) == (True, False)


def test_all_pods_are_not_all_addresses() -> None:
    node = Node(*PODS, policy(ingress=[{"from": [{"namespaceSelector": {}}]}]))
    assert node.ingress(A, OTHER)
    assert not node.ingress(A, OUTSIDE)
    assert node.entries("peers") == 1  # one answer for the whole cluster


def test_a_whole_namespace_is_one_entry() -> None:
    crowd = [pod(f"p{n}", f"10.1.3.{n}", "y") for n in range(1, 50)]
    selector = {"matchExpressions": [{"key": "team", "operator": "Exists"}]}
    rule = {"from": [{"namespaceSelector": selector}], "ports": [{"port": 80}]}
    node = Node(*PODS, *crowd, Namespace("y", {"team": "t"}), policy(ingress=[rule]))
    assert node.entries("peers") == 1
    assert node.entries("ports") == 1
    assert node.ingress(A, crowd[7])
    assert not node.ingress(A, B)


def test_host_network_pods_have_no_identity_and_are_not_selected() -> None:
    host = pod("host", "172.18.0.2", host_network=True)
    node = Node(*PODS, host, policy(ingress=[{"from": [{"podSelector": {}}]}]))
    assert not node.ingress(A, host)
    assert node.ingress(A, FAR)


def test_a_namespace_that_was_not_declared_is_known_by_its_name() -> None:
    selector = {"matchLabels": {"kubernetes.io/metadata.name": "y"}}
    loose = {"matchExpressions": [{"key": "kubernetes.io/metadata.name", "operator": "Exists"}]}
    for each in (selector, loose):
        node = Node(*PODS, policy(ingress=[{"from": [{"namespaceSelector": each}]}]))
        assert node.ingress(A, OTHER)
        late = pod("late", "10.1.2.9", "z")
        node.put(late)
        assert node.ingress(A, late) == (each is loose)


def test_an_attached_pod_that_is_not_known_yet_is_closed() -> None:
    new = pod("new", "10.1.1.9")
    web = policy(podSelector={"matchLabels": {"pod": "web"}}, ingress=[{}])
    node = Node(*PODS, web, port(new))
    assert not node.ingress(new, B)
    assert node.egress(new, B)
    node.put(new)
    assert node.ingress(new, B)


def test_an_attachment_tells_a_pod_before_its_status_does() -> None:
    stale = pod("stale", "10.1.1.9", "y", terminating=True)
    new = pod("new", "10.1.1.9")
    node = Node(*PODS, stale, policy(ingress=[{"from": [{"podSelector": {}}]}]))
    assert not node.ingress(A, "10.1.1.9")
    node.put(port(new), msgspec.structs.replace(new, ips=()))
    assert node.ingress(A, "10.1.1.9")


def test_a_finished_pods_address_is_another_pods() -> None:
    done = pod("a-done", "10.1.2.2", "y")
    node = Node(*PODS, done, policy(ingress=[{"from": [{"podSelector": {}}]}]))
    node.put(msgspec.structs.replace(done, phase="Succeeded"))
    assert node.ingress(A, FAR)


def test_equal_policies_are_kept_once() -> None:
    node = Node(*PODS, policy(ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": 80}]}]))
    assert (node.entries("isolated"), node.entries("peers"), node.entries("ports")) == (2, 1, 1)


def test_a_changed_policy_is_another_number() -> None:
    def rules(number: int) -> NetworkPolicy:
        return policy(ingress=[{"from": [{"podSelector": {}}], "ports": [{"port": number}]}])

    node = Node(*PODS, rules(80))
    before = node.planner.contents()
    node.put(rules(81))
    after = node.planner.contents()
    for name in ("firewall0_peers", "firewall0_ports"):
        assert not before[name].keys() & after[name].keys()
    assert before["firewall0_isolated"].keys() == after["firewall0_isolated"].keys()
    assert before["firewall0_isolated"] != after["firewall0_isolated"]


def test_concerns_name_the_address() -> None:
    node = Node(*PODS, policy(ingress=[{}]))
    by_name = {each.name: each for each in Firewall.maps}
    key = IsolatedKey(A.ips[0], Direction.INGRESS)
    for name, record in (("isolated", key), ("identities", IdentityKey(A.ips[0]))):
        concerns = by_name[name].concerns
        assert concerns is not None
        assert concerns(record, None) == A.ips[0]
    assert {name for name, each in by_name.items() if each.concerns is None} == {
        "ports",
        "peers",
        "blocks",
    }
    assert node.entries("identities") == 4


# --- changes -------------------------------------------------------------------------------


def test_units_of_changes() -> None:
    monitors = {"podSelector": {"matchLabels": {"pod": "monitor"}}, "namespaceSelector": {}}
    node = Node(*PODS, Namespace("z"), policy(ingress=[{"from": [monitors]}]))
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
        node._take_in(changes)
        assert node.planner.contents() == node.planned_afresh()
