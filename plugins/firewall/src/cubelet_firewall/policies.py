"""NetworkPolicies as they apply to one pod: their rules together."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property

from cubelet_firewall.numbers import canonical, number
from cubelet_firewall.portsets import EVERYTHING, LAST_PORT, PROTOCOLS, Ports, PortSet, union
from cubelet_firewall.records import Direction
from cubelet_firewall.rules import PortName, Rule
from cubelet_hooks.objects import ContainerPort, NetworkPolicy, Pod, PolicyPort, PolicyRule
from cubelet_hooks.records import Family
from cubelet_hooks.view import View

_Declared = Iterable[ContainerPort]


@dataclass(frozen=True)
class Applied:
    """All that policies allow a pod in one direction."""

    direction: Direction
    rules: tuple[Rule, ...]

    @cached_property
    def number(self) -> int:
        """The same for all pods that this applies to; the order of rules does not count."""
        rules = sorted({canonical(rule).decode() for rule in self.rules})
        return number("policy", (self.direction, rules))

    @property
    def has_peers(self) -> bool:
        """Whether some of what is allowed is so to pods alone."""
        return any(
            rule.named or any(peer.cidr is None for peer in rule.peers) for rule in self.rules
        )

    def has_blocks(self, family: Family) -> bool:
        """Whether some of what is allowed is so to networks of the family alone."""
        return any(
            peer.cidr is not None and peer.cidr.version == family
            for rule in self.rules
            for peer in rule.peers
        )

    def ports(self, covers: Callable[[Rule], bool], declared: _Declared = ()) -> PortSet:
        """What the rules that cover a peer allow; ``declared`` are the ports it has names for."""
        allowing = [rule for rule in self.rules if covers(rule)]
        return union(
            [rule.ports for rule in allowing]
            + [numbered(rule.named, declared) for rule in allowing if rule.named]
        )


def applied(pod: Pod | None, home: str, direction: Direction, view: View) -> Applied | None:
    """What applies to a pod of the namespace ``home``; None if nothing isolates it.

    Of a pod that is attached but not known yet (None) the labels are not known either: if any
    policy might select it, nothing is allowed until they are.
    """
    selecting = [
        policy
        for policy in view.policies_in(home)
        if rules_of(policy, direction) is not None
        and (pod is None or policy.pod_selector.matches(pod.labels))
    ]
    if not selecting:
        return None
    if pod is None:
        return Applied(direction, ())
    rules = (
        read_rule(rule, home, direction, pod.ports)
        for policy in selecting
        for rule in rules_of(policy, direction) or ()
    )
    return Applied(direction, tuple(rule for rule in rules if rule.ports or rule.named))


def isolates_local_pods(view: View) -> bool:
    """Whether any policy selects a pod of this node, or may select one that is not known yet.

    Pods that are bound to the node count before they are attached: what applies to them is then
    in place when they are.
    """
    local = {port.key: (port.namespace, view.pods.get(port.key)) for port in view.ports.values()}
    for pod in view.pods_on(view.local.name) if view.local else ():
        if not pod.host_network and not pod.finished:
            local[pod.key] = (pod.namespace, pod)
    return any(
        pod is None or policy.pod_selector.matches(pod.labels)
        for namespace, pod in local.values()
        for policy in view.policies_in(namespace)
    )


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
    """The ports that a pod which declares ``declared`` means by these names."""
    wanted = set(named)
    return union(
        (Ports(PROTOCOLS[port.protocol], port.port, port.port),)
        for port in declared
        if PortName(port.protocol, port.name) in wanted
    )
