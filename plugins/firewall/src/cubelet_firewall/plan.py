"""From objects to entries: the policies of a namespace's local pods, and the identity of a peer."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from operator import attrgetter

from cubelet_firewall import records
from cubelet_firewall.blocks import blocks
from cubelet_firewall.identities import identity, is_peer, owner, pod_number, space_number
from cubelet_firewall.policies import Applied, applied
from cubelet_firewall.portsets import NOTHING, PortSet, set_entries, set_number
from cubelet_firewall.records import (
    BlockKey,
    Direction,
    IdentityKey,
    IsolatedKey,
    PeerKey,
    Policy,
    bits_to,
)
from cubelet_firewall.rules import Rule, Space, space_of
from cubelet_hooks.cube import Entry
from cubelet_hooks.objects import Address
from cubelet_hooks.records import Family, Record
from cubelet_hooks.view import View


def identity_entries(address: Address, view: View) -> Iterator[Entry]:
    """Which pod an address is; nothing while the cluster has no policy that could ask."""
    pod = owner(address, view) if view.policies else None
    if pod is not None:
        found = identity(pod, space_of(pod.namespace, view))
        yield Entry("identities", IdentityKey(address), found)


def namespace_entries(home: str, view: View, family: Family) -> Iterator[Entry]:
    """What isolates the namespace's local pods, and all that is allowed to them."""
    found: dict[int, Applied] = {}
    for port in view.ports.values():
        for direction in Direction if port.namespace == home else ():
            policy = applied(view.pods.get(port.key), home, direction, view)
            if policy is None:
                continue
            found[policy.number] = policy
            value = Policy(policy.number, policy.has_peers, policy.has_blocks(family))
            for address in port.addresses:
                if address.version == family:
                    yield Entry("isolated", IsolatedKey(address, direction), value)
    for policy in found.values():
        yield from _block_entries(policy, family)
        if policy.has_peers:
            yield from _peer_entries(policy, view, family)


def _allow(map: str, key: Record, ports: PortSet, family: Family) -> Iterator[Entry]:
    yield Entry(map, key, records.PortSet(set_number(ports)))
    yield from set_entries(ports, family)


def _block_entries(policy: Applied, family: Family) -> Iterator[Entry]:
    fixed = bits_to(BlockKey, "policy", family)
    for network, ports in blocks(policy.rules, family):
        key = BlockKey(fixed + network.prefixlen, policy.number, network.network_address)
        yield from _allow("blocks", key, ports, family)


def _peer_entries(policy: Applied, view: View, family: Family) -> Iterator[Entry]:
    """All pods, then namespaces and single identities where the answer differs from theirs."""
    policy_bits, space_bits, pod_bits = (
        bits_to(PeerKey, last, family) for last in ("policy", "namespace", "pod")
    )
    for_all = policy.ports(Rule.covers_all)
    if for_all != NOTHING:
        yield from _allow("peers", PeerKey(policy_bits, policy.number, 0, 0), for_all, family)
    for space in _spaces(policy.rules, view):
        for_space = policy.ports(partial(Rule.covers_space, space=space))
        number = space_number(space)
        if for_space != for_all:
            key = PeerKey(space_bits, policy.number, number, 0)
            yield from _allow("peers", key, for_space, family)
        for pod, ports in _singled_out(policy, space, view).items():
            if ports != for_space:
                key = PeerKey(pod_bits, policy.number, number, pod)
                yield from _allow("peers", key, ports, family)


def _spaces(rules: Iterable[Rule], view: View) -> Iterable[Space]:
    """The namespaces that a rule tells apart, those too that only have pods."""
    found: dict[str, Space] = {}
    anywhere: list[Rule] = []
    for rule in rules:
        names = rule.spaces()
        found |= {name: space_of(name, view) for name in names or ()}
        if names is None:
            anywhere.append(rule)
    if anywhere:
        known = {*view.namespaces, *map(attrgetter("namespace"), view.pods.values())}
        for space in (space_of(name, view) for name in known - found.keys()):
            if any(rule.tells_spaces_apart(space) for rule in anywhere):
                found[space.name] = space
    return found.values()


def _singled_out(policy: Applied, space: Space, view: View) -> dict[int, PortSet]:
    """What is allowed to those pods of the namespace that a rule tells apart, by identity."""
    rules = [rule for rule in policy.rules if rule.tells_pods_apart(space)]
    found: dict[int, PortSet] = {}
    for pod in view.pods_in(space.name) if rules else ():
        if is_peer(pod) and any(rule.covers_pod(space, pod.labels) for rule in rules):
            covers = partial(Rule.covers_pod, space=space, labels=pod.labels)
            found[pod_number(pod)] = policy.ports(covers, pod.ports)
    return found
