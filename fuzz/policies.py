"""NetworkPolicies, and what they allow by the API's documentation: no code of a cube is used."""

from __future__ import annotations

from collections.abc import Sequence
from ipaddress import ip_network
from typing import Literal

from cubelet_hooks.objects import LabelSelector, NetworkPolicy, PolicyPeer, PolicyPort, PolicyRule

from .cluster import IDENTITIES, NAMESPACE_LABELS, PROTOCOLS, Network, Place


def _app(name: str) -> LabelSelector:
    return LabelSelector({"app": name})


_8080 = (PolicyPort("TCP", 8080), PolicyPort("UDP", 8080))
_ALL = LabelSelector()
_BLOCK = PolicyPeer(cidr=ip_network("192.0.2.0/24"), excepts=(ip_network("192.0.2.128/25"),))
POLICIES: Sequence[tuple[NetworkPolicy, ...]] = (
    (),
    (
        NetworkPolicy(
            "default",
            "clients",
            pod_selector=_app("client"),
            egress=(
                PolicyRule(peers=(PolicyPeer(pod_selector=_app("server")),), ports=_8080),
                PolicyRule(peers=(PolicyPeer(cidr=ip_network("198.51.100.0/24")),)),
            ),
        ),
        NetworkPolicy(
            "default",
            "servers",
            pod_selector=_app("server"),
            ingress=(PolicyRule(peers=(PolicyPeer(pod_selector=_app("client")),), ports=_8080),),
        ),
    ),
    (
        NetworkPolicy("default", "closed", pod_selector=_app("server"), ingress=()),
        NetworkPolicy("default", "mute", pod_selector=_app("db"), egress=()),
    ),
    (
        NetworkPolicy(
            "default",
            "some",
            pod_selector=_ALL,
            ingress=(
                PolicyRule(peers=(_BLOCK,), ports=(PolicyPort("TCP", 8080, 8090),)),
                PolicyRule(
                    peers=(PolicyPeer(namespace_selector=LabelSelector({"team": "other"})),)
                ),
            ),
        ),
    ),
    (
        NetworkPolicy(
            "default",
            "only-names",
            pod_selector=_ALL,
            ingress=(),
            egress=(PolicyRule(ports=(PolicyPort("UDP", 53),)),),
        ),
    ),
    (
        NetworkPolicy(
            "default",
            "near",
            pod_selector=_app("server"),
            ingress=(
                PolicyRule(
                    peers=(
                        PolicyPeer(pod_selector=_app("db")),
                        PolicyPeer(cidr=ip_network("10.1.1.0/24")),
                    )
                ),
            ),
        ),
    ),
)
"""Alternatives, of which one is in force at a time."""


def _peer_matches(peer: PolicyPeer, home: str, address: int, who: Place | None) -> bool:
    if peer.cidr is not None:
        blocks = (peer.cidr, *peer.excepts)
        found = [address in Network.of(str(each)) for each in blocks]
        return found[0] and not any(found[1:])
    if who is None:
        return False
    spaces = peer.namespace_selector
    if spaces is None and who.namespace != home:
        return False
    if spaces is not None and not spaces.matches(NAMESPACE_LABELS[who.namespace]):
        return False
    return peer.pod_selector is None or peer.pod_selector.matches(who.labels)


def _port_matches(port: PolicyPort, protocol: int, wanted: int) -> bool:
    if PROTOCOLS[port.protocol] != protocol:
        return False
    if port.port is None:
        return True
    first = int(port.port)
    return first <= wanted <= (port.end_port or first)


def _rule_matches(
    rule: PolicyRule, home: str, address: int, who: Place | None, protocol: int, port: int
) -> bool:
    return (
        not rule.peers or any(_peer_matches(each, home, address, who) for each in rule.peers)
    ) and (not rule.ports or any(_port_matches(each, protocol, port) for each in rule.ports))


def allows(
    policies: Sequence[NetworkPolicy],
    direction: Literal["ingress", "egress"],
    pod: int,
    peer: int,
    known: bool,
    protocol: int,
    port: int,
) -> bool:
    """May the pod have this traffic with the peer, who counts as a pod only if ``known`` to be?"""
    own, who = IDENTITIES[pod], IDENTITIES.get(peer) if known else None
    isolating = [
        (policy, rules)
        for policy in policies
        if policy.namespace == own.namespace
        and policy.pod_selector.matches(own.labels)
        and (rules := getattr(policy, direction)) is not None
    ]
    return not isolating or any(
        _rule_matches(rule, policy.namespace, peer, who, protocol, port)
        for policy, rules in isolating
        for rule in rules
    )
