"""The NetworkPolicies that apply to one pod, with their rules put together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from cubelet_firewall.matching import Selectors
from cubelet_firewall.numbers import canonical, number
from cubelet_firewall.peers import Peers
from cubelet_firewall.portsets import EVERYTHING, LAST_PORT, PROTOCOLS, Ports, PortSet, union
from cubelet_firewall.records import Direction
from cubelet_firewall.rules import PortName, Rule
from cubelet_hooks.objects import ContainerPort, NetworkPolicy, Pod, PolicyPort, PolicyRule
from cubelet_hooks.records import Family
from cubelet_hooks.view import View

_Declared = Iterable[ContainerPort]
_REMEMBERED = 256
"""Namespaces, and in each sets of labels, for which the policies are not asked again."""


class Policies:
    """Policies as a key: the same objects, not equal ones, which takes long to find out."""

    __slots__ = ("_ids", "policies")

    def __init__(self, policies: tuple[NetworkPolicy, ...]) -> None:
        self.policies = policies
        self._ids = tuple(map(id, policies))

    def __hash__(self) -> int:
        return hash(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Policies) and self._ids == other._ids


@dataclass(frozen=True)
class Applied:
    """All rules that apply to a pod in one direction."""

    direction: Direction
    rules: tuple[Rule, ...]

    @cached_property
    def number(self) -> int:
        """The policy's number, the same for all pods with these rules in any order."""
        rules = sorted({canonical(rule).decode() for rule in self.rules})
        return number("policy", (self.direction, rules))

    @cached_property
    def has_peers(self) -> bool:
        """Whether some rule allows pods as peers, rather than everyone or networks."""
        return any(
            rule.named or any(peer.cidr is None for peer in rule.peers) for rule in self.rules
        )

    @cached_property
    def _families(self) -> frozenset[int]:
        peers = (peer for rule in self.rules for peer in rule.peers)
        return frozenset(peer.cidr.version for peer in peers if peer.cidr is not None)

    def has_blocks(self, family: Family) -> bool:
        """Whether some of what is allowed is so to networks of the family alone."""
        return family in self._families

    @cached_property
    def peers(self) -> Peers:
        """The pods that are named."""
        return Peers(self.rules)


class Selection:
    """A namespace's policies: which of them select a pod, and what they allow it together."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies.policies
        pairs = [(policy.pod_selector, at) for at, policy in enumerate(policies.policies)]
        self._selectors = Selectors(pairs)
        self._selected: dict[frozenset[tuple[str, str]], tuple[int, ...]] = {}
        self._equal: dict[tuple[int, ...], tuple[int, ...]] = {}
        self._applied: dict[object, Applied | None] = {}

    def selects(self, pod: Pod | None) -> bool:
        """Whether any does, or may select one that is not known yet (None)."""
        return bool(self._policies if pod is None else self._selecting(pod))

    def applied(self, pod: Pod | None, direction: Direction) -> Applied | None:
        """What applies to a pod; None if nothing isolates it.

        Of a pod that is attached but not known yet (None) the labels are not known either: if any
        policy might select it, nothing is allowed until they are.
        """
        if pod is None:
            some = any(rules_of(policy, direction) is not None for policy in self._policies)
            return Applied(direction, ()) if some else None
        declared = pod.ports if direction is Direction.INGRESS else ()
        selecting = self._selecting(pod)
        key = (direction, selecting, tuple(p for p in declared if p.name))
        if key not in self._applied:
            if len(self._applied) >= _REMEMBERED:
                self._applied.clear()
            self._applied[key] = self._together(selecting, direction, declared)
        return self._applied[key]

    def _selecting(self, pod: Pod) -> tuple[int, ...]:
        labels = frozenset(pod.labels.items())
        found = self._selected.get(labels)
        if found is None:
            if len(self._selected) >= _REMEMBERED:
                self._selected.clear()
                self._equal.clear()
            found = tuple(sorted(self._selectors.matching(pod.labels)))
            found = self._selected[labels] = self._equal.setdefault(found, found)
        return found

    def _together(
        self, selecting: Iterable[int], direction: Direction, declared: _Declared
    ) -> Applied | None:
        policies = [self._policies[at] for at in selecting]
        isolating = [p for p in policies if rules_of(p, direction) is not None]
        if not isolating:
            return None
        rules = (
            read_rule(rule, policy.namespace, direction, declared)
            for policy in isolating
            for rule in rules_of(policy, direction) or ()
        )
        return Applied(direction, tuple(rule for rule in rules if rule.ports or rule.named))


_read: dict[str, tuple[Policies, Selection]] = {}


def selection(namespace: str, view: View) -> Selection:
    """The namespace's policies, read once as long as they stay the same."""
    policies = Policies(tuple(view.policies_in(namespace)))
    known = _read.get(namespace)
    if known is None or known[0] != policies:
        if len(_read) >= _REMEMBERED:
            _read.clear()
        known = _read[namespace] = (policies, Selection(policies))
    return known[1]


def isolates_local_pods(view: View) -> bool:
    """Whether any policy selects a pod of this node, or may select one that is not known yet.

    Pods that are bound to the node count before they are attached, so that their policies are in
    force when they are.
    """
    local = {port.key: (port.namespace, view.pods.get(port.key)) for port in view.ports.values()}
    for pod in view.pods_on(view.local.name) if view.local else ():
        if not pod.host_network and not pod.finished:
            local[pod.key] = (pod.namespace, pod)
    found = {namespace: selection(namespace, view) for namespace, _ in local.values()}
    return any(found[namespace].selects(pod) for namespace, pod in local.values())


def rules_of(policy: NetworkPolicy, direction: Direction) -> tuple[PolicyRule, ...] | None:
    """The policy's rules; None if it does not isolate the direction."""
    return policy.ingress if direction is Direction.INGRESS else policy.egress


def read_rule(rule: PolicyRule, home: str, direction: Direction, declared: _Declared) -> Rule:
    """The rule as it applies to a pod of ``home`` that declares these ports.

    A named port is the receiver's: on ingress the pod's own, on egress each peer's.
    """
    if not rule.ports:
        return Rule(home, rule.peers, EVERYTHING)
    named = tuple(PortName(p.protocol, p.port) for p in rule.ports if isinstance(p.port, str))
    ports = union(_range(port) for port in rule.ports if not isinstance(port.port, str))
    if direction is Direction.EGRESS:
        return Rule(home, rule.peers, ports, named)
    return Rule(home, rule.peers, union([ports, numbered(named, declared)]))


def _range(port: PolicyPort) -> PortSet:
    if not isinstance(port.port, int):
        return (Ports(PROTOCOLS[port.protocol], 0, LAST_PORT),)
    return (Ports(PROTOCOLS[port.protocol], port.port, port.end_port or port.port),)


def numbered(named: Iterable[PortName], declared: _Declared) -> PortSet:
    """The numbers of the named ports in a pod that declares the ports ``declared``."""
    wanted = set(named)
    return union(
        (Ports(PROTOCOLS[port.protocol], port.port, port.port),)
        for port in declared
        if PortName(port.protocol, port.name) in wanted
    )
