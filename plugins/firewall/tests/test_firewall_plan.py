"""What single policies let pass, and what they take up in the maps."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from cubelet_firewall.cube import Firewall, cubelet_cubes
from cubelet_firewall.records import Direction, IdentityKey, IsolatedKey, Policy
from cubelet_firewall.settings import Settings
from cubelet_hooks.metrics import Sample
from cubelet_hooks.objects import ContainerPort, Namespace, NetworkPolicy

from .node import LOCAL, Node, pod, policy, port

OUTSIDE = "192.0.2.7"
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
@pytest.mark.parametrize(
    "peers",
    [
        [],
        [{"podSelector": {"matchLabels": {}}}],
        [{"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "x"}}}],
    ],
    ids=["everyone", "pods", "namespace"],
)
def test_ports(
    direction: str,
    peers: list[dict[str, Any]],
    ports: list[dict[str, Any]],
    open_ports: list[tuple[str, int]],
    closed: list[tuple[str, int]],
) -> None:
    named = (ContainerPort(8080, "TCP", "web"), ContainerPort(53, "UDP", "dns"))
    other = (ContainerPort(8081, "TCP", "web"), ContainerPort(54, "UDP", "dns"))
    receiver = pod("receiver", "10.1.1.7", ports=named)
    sender = pod("sender", "10.1.1.8", ports=other)
    key = "from" if direction == "ingress" else "to"
    spec: dict[str, Any] = {direction: [{key: peers, "ports": ports}]}
    node = Node(receiver, sender, port(receiver), port(sender), policy(**spec))

    def allows(protocol: str, number: int) -> bool:
        if direction == "ingress":
            return node.ingress(receiver, sender, protocol, number)
        return node.egress(sender, receiver, protocol, number)

    assert [each for each in open_ports if not allows(*each)] == []
    assert [each for each in closed if allows(*each)] == []


@pytest.mark.parametrize("peers", [[], [{"namespaceSelector": {}}]])
def test_a_named_port_means_another_number_at_each_peer(peers: list[dict[str, Any]]) -> None:
    one = pod("one", "10.1.2.8", ports=(ContainerPort(1111, "TCP", "web"),))
    two = pod("two", "10.1.2.9", "y", ports=(ContainerPort(2222, "TCP", "web"),))
    node = Node(*PODS, one, two, policy(egress=[{"to": peers, "ports": [{"port": "web"}]}]))
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


def test_it_is_needed_while_a_policy_selects_a_pod_of_this_node() -> None:
    bound = pod("bound", "10.1.1.9", node_name=LOCAL.name)
    node = Node(A, FAR, policy(ingress=[]))
    needed = node.firewall.needed_on
    assert needed(node.state) == ()  # both are elsewhere
    node.put(bound)
    assert needed(node.state) == ("pod",)
    node.put(policy(ingress=[], podSelector={"matchLabels": {"pod": "a"}}))
    assert needed(node.state) == ()
    node.put(port(A))
    assert needed(node.state) == ("pod",)
    node.remove(A)  # attached, and not known: any policy may select it
    node.put(policy(ingress=[], podSelector={"matchLabels": {"pod": "b"}}))
    assert needed(node.state) == ("pod",)
    node.remove(port(A))
    assert needed(node.state) == ()


def test_isolated_pods_are_counted_by_direction() -> None:
    keys = [
        IsolatedKey(ip_address(text), direction)
        for text, direction in (
            ("10.1.0.2", Direction.INGRESS),
            ("10.1.0.3", Direction.INGRESS),
            ("10.1.0.3", Direction.EGRESS),
        )
    ]
    held = {"isolated": dict.fromkeys(keys, Policy(policy=1, peers=0, blocks=0))}
    counted = list(Firewall("firewall", Settings()).collect(held.__getitem__, Node().state))
    assert counted == [
        Sample("isolated_pods", 2, ("ingress",)),
        Sample("isolated_pods", 1, ("egress",)),
    ]
    none = Firewall("firewall", Settings()).collect(lambda _: {}, Node().state)
    assert [each.value for each in none] == [0, 0]
