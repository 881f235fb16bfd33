"""Policies that are many or large, and those that are too large for the maps."""

from __future__ import annotations

from typing import Any

import pytest

from cubelet.control.planner import Planner
from cubelet_firewall import matching, plan
from cubelet_firewall.cube import Firewall
from cubelet_firewall.settings import Settings
from cubelet_hooks.objects import Pod

from .node import Node, pod, policy, port

HERE = [pod(f"p{n}", f"10.1.1.{n}", labels={"app": "t", "n": str(n)}) for n in range(2, 12)]
VICTIM = pod("v", "10.1.1.100", "y", labels={"app": "v"})
OUTSIDE = "192.0.2.7"


def small(**sizes: int) -> Node:
    """A node whose firewall has these sizes of maps, a few pods, and one of another namespace."""
    node = Node()
    node.firewall = Firewall("firewall0", Settings(**sizes))
    node.planner = Planner([node.firewall])
    for each in (*HERE, VICTIM):
        node.put(each, port(each))
    return node


def blocks(count: int, first: int = 0) -> list[dict[str, Any]]:
    return [
        {"ipBlock": {"cidr": f"100.{n >> 16}.{n >> 8 & 255}.{n & 255}/32"}}
        for n in range(first, first + count)
    ]


def large(count: int, name: str = "large", labels: dict[str, str] | None = None) -> Any:
    egress = [{"to": [*blocks(count), {"ipBlock": {"cidr": f"{OUTSIDE}/32"}}]}]
    return policy(name, podSelector={"matchLabels": labels or {"app": "t"}}, egress=egress)


def told(node: Node) -> str:
    return "\n".join((*node.planner.rejected(), *map(str, node.planner.complaints())))


def test_what_does_not_fit_closes_the_pods_it_is_for_and_no_others() -> None:
    node = small(max_blocks=2049)
    one, two = HERE[:2]
    for each in (one, two):
        labels = {"n": each.labels["n"]}
        node.put(large(1 if each is two else 1024, f"for-{each.name}", labels))
    assert (node.egress(one, OUTSIDE), node.egress(two, OUTSIDE)) == (False, True)
    assert node.ingress(one, two), "the policy is of the other direction"
    assert node.egress(HERE[2], OUTSIDE), "no policy selects it"
    assert "ipBlocks in the egress policies of x/p2: refused" in told(node)
    assert {(each.kind, each.key) for each in node.planner.complaints()} == {("Pod", "x/p2")}
    open_to = [{"from": [{"ipBlock": {"cidr": f"{OUTSIDE}/32"}}]}]
    node.put(policy("victim", "y", ingress=open_to))
    assert (node.ingress(VICTIM, OUTSIDE), node.ingress(VICTIM, one)) == (True, False)
    node.put(large(100, "for-p2", {"n": "2"}))
    assert (node.egress(one, OUTSIDE), told(node)) == (True, "")


def test_a_pod_that_starts_is_closed_by_what_was_refused() -> None:
    node = small(max_blocks=2049)
    node.put(large(1024))
    late = pod("late", "10.1.1.50", labels={"app": "t"})
    node.put(late, port(late))
    assert not node.egress(late, OUTSIDE)
    assert "x/late and 10 more" in told(node)


def test_peers_that_do_not_fit_are_denied_and_networks_are_not() -> None:
    node = small(max_peers=1025)
    friends = [pod(f"f{n}", f"10.1.{2 + (n >> 8)}.{n & 255}", "z") for n in range(600)]
    node.put(*friends)
    to = [{"podSelector": {}, "namespaceSelector": {"matchLabels": {"no": "such"}}}]
    to += [
        {"podSelector": {"matchLabels": {"pod": f"f{n}"}}, "namespaceSelector": {}}
        for n in range(600)
    ]
    node.put(policy(egress=[{"to": to}, {"to": [{"ipBlock": {"cidr": f"{OUTSIDE}/32"}}]}]))
    assert "selectors in the egress policies of x/p10 and 9 more: refused" in told(node)
    assert not node.egress(HERE[0], friends[0])
    assert node.egress(HERE[0], OUTSIDE)
    assert node.ingress(VICTIM, HERE[0])


def test_pods_that_find_no_place_among_the_isolated_are_held_up_alone() -> None:
    node = small(max_isolated=8)
    node.put(policy(egress=[]))
    assert "refused and NOT closed" in node.planner.holds_up("x", "x/p2")
    assert node.planner.holds_up("y", "y/v") == ""
    node.put(policy(namespace="y", egress=[]))
    assert not node.egress(VICTIM, OUTSIDE)


def test_pods_beyond_their_namespaces_share_of_isolated_ones_are_closed() -> None:
    node = small(max_isolated=1030)
    many = [pod(f"m{n}", f"10.1.{4 + (n >> 7)}.{n & 127}", "m") for n in range(300)]
    node.put(*(each for one in many for each in (one, port(one))))
    allowed = [{"to": [{"ipBlock": {"cidr": f"{OUTSIDE}/32"}}]}]
    node.put(policy(namespace="m", egress=allowed, ingress=[]))
    assert "Namespace m: firewall0: refused: it needs more than the 515 entries" in told(node)
    assert node.planner.holds_up("m", "m/m0") == ""
    assert not any(node.egress(each, OUTSIDE) or node.ingress(each, VICTIM) for each in many)
    node.put(policy(namespace="y", egress=allowed))
    assert (node.egress(VICTIM, OUTSIDE), node.egress(VICTIM, "192.0.2.8")) == (True, False)


def test_the_share_is_a_namespaces_not_a_policys() -> None:
    node = small(max_blocks=4097)
    for n in range(5):
        node.put(large(500 - n, f"l{n}", {"n": str(n + 2)}))
    held = 501 + 500 + 499 + 498
    assert node.entries("blocks") == held
    victim = [{"to": blocks(512, first=1 << 16)}]
    node.put(policy("own", "y", egress=victim))
    assert node.entries("blocks") == held + 512


def test_a_large_policy_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not again for each pod that it selects, nor when another pod of its namespace starts."""
    made = []
    entries = plan._block_entries

    def counted(*args: Any) -> Any:
        for each in entries(*args):
            made.append(each)
            yield each

    monkeypatch.setattr(plan, "_block_entries", counted)
    node = small()
    node.put(large(1000))
    assert len(made) == 1001
    late = pod("late", "10.1.1.50", labels={"app": "t"})
    node.put(late, port(late))
    assert len(made) == 1001
    assert node.egress(late, OUTSIDE)


def test_many_networks_within_many_that_allow_the_same() -> None:
    """3,000 in 3,000 took 85 s when each network listed what is around it."""
    node = small()
    outer = [
        {"to": [{"ipBlock": {"cidr": "100.0.0.0/8"}}], "ports": [{"port": 2 * n + 1}]}
        for n in range(3000)
    ]
    node.put(policy(egress=[*outer, {"to": blocks(3000), "ports": [{"port": 2}]}]))
    assert node.entries("blocks") == 3001
    pod_here = HERE[0]
    assert [node.egress(pod_here, "100.0.0.9", port=p) for p in (1, 2, 3, 4)] == [
        *(True, True, True, False)
    ]
    assert [node.egress(pod_here, "100.1.0.9", port=p) for p in (1, 2, 5999)] == [
        *(True, False, True)
    ]


def test_of_many_policies_only_those_that_may_select_a_pod_are_asked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    node = small()
    asked = []
    allow = matching._allow

    def counted(demands: Any, labels: Any) -> bool:
        asked.append(labels)
        return allow(demands, labels)

    node.put(
        *(
            policy(
                f"q{n}",
                podSelector={"matchLabels": {"app": "t", "n": str(n)}},
                ingress=[{"from": [{"podSelector": {"matchLabels": {"app": f"u{n}"}}}]}],
            )
            for n in range(2000)
        )
    )
    monkeypatch.setattr(matching, "_allow", counted)
    stranger: Pod = pod("s", "10.1.7.7", labels={"app": "u3", "n": "9"})
    node.put(stranger)
    assert len(asked) < 100
    assert (node.ingress(HERE[1], stranger), node.ingress(HERE[0], stranger)) == (True, False)
