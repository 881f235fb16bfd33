"""Reading of NetworkPolicies and label selectors."""

from __future__ import annotations

from typing import Literal

from cubelet.sources.cluster import PROTOCOLS
from cubelet.sources.fields import MAX_PORT, Field
from cubelet_hooks.objects import (
    LabelSelector,
    Network,
    NetworkPolicy,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Requirement,
)
from cubelet_hooks.selectors import Operator

_OPERATORS: tuple[Operator, ...] = ("In", "NotIn", "Exists", "DoesNotExist")
_DIRECTIONS: tuple[Literal["Ingress", "Egress"], ...] = ("Ingress", "Egress")


def read_selector(field: Field) -> LabelSelector:
    """Read a label selector; an absent one selects everything, as an empty one does."""
    return LabelSelector(
        match_labels=field["matchLabels"].strings(),
        match_expressions=field["matchExpressions"].each(_requirement),
    )


def _requirement(field: Field) -> Requirement:
    operator = field["operator"].choice(_OPERATORS)
    values = field["values"].each(Field.text)
    if operator in ("In", "NotIn") and not values:
        raise field["values"].error(f"is required with {operator}: at least one value")
    if operator in ("Exists", "DoesNotExist") and values:
        raise field["values"].error(f"must be empty with {operator}")
    return Requirement(field["key"].text(None), operator, values)


def read_policy(root: Field, namespace: str, name: str) -> NetworkPolicy:
    """Read a NetworkPolicy; rules of a direction that it does not isolate are left out."""
    spec = root["spec"]
    ingress = spec["ingress"].each(lambda each: _rule(each, "from"))
    egress = spec["egress"].each(lambda each: _rule(each, "to"))
    types = spec["policyTypes"].each(lambda each: each.choice(_DIRECTIONS))
    if not types:
        types = ("Ingress", "Egress") if egress else ("Ingress",)
    return NetworkPolicy(
        namespace=namespace,
        name=name,
        pod_selector=read_selector(spec["podSelector"]),
        ingress=ingress if "Ingress" in types else None,
        egress=egress if "Egress" in types else None,
    )


def _rule(field: Field, peers: str) -> PolicyRule:
    return PolicyRule(peers=field[peers].each(_peer), ports=field["ports"].each(_port))


def _peer(field: Field) -> PolicyPeer:
    pods, namespaces, block = field["podSelector"], field["namespaceSelector"], field["ipBlock"]
    if block.given:
        if pods.given or namespaces.given:
            raise block.error("must not stand beside podSelector or namespaceSelector")
        cidr = block["cidr"].network()
        return PolicyPeer(cidr=cidr, excepts=block["except"].each(lambda each: _except(each, cidr)))
    if not pods.given and not namespaces.given:
        raise field.error("must have a podSelector, a namespaceSelector or an ipBlock")
    return PolicyPeer(
        pod_selector=read_selector(pods) if pods.given else None,
        namespace_selector=read_selector(namespaces) if namespaces.given else None,
    )


def _except(field: Field, cidr: Network) -> Network:
    network = field.network()
    if (
        network.version != cidr.version
        or network.prefixlen <= cidr.prefixlen
        or network.network_address not in cidr
    ):
        raise field.error(f"must be a strict part of the block's cidr {cidr}, is {network}")
    return network


def _port(field: Field) -> PolicyPort:
    port = field["port"].port_or_name() if field["port"].given else None
    end = field["endPort"].number(1, MAX_PORT) if field["endPort"].given else None
    if end is not None:
        if not isinstance(port, int):
            raise field["endPort"].error("needs a port that is a number")
        if end < port:
            raise field["endPort"].error(f"must not be below port {port}, is {end}")
    return PolicyPort(field["protocol"].choice(PROTOCOLS, "TCP"), port, end)
