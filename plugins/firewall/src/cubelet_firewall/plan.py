"""Plans the entries for the policies of a namespace's local pods, and for peers' identities."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from operator import attrgetter

from cubelet_firewall import records
from cubelet_firewall.blocks import blocks
from cubelet_firewall.identities import identity, is_peer, owner, pod_number, space_number
from cubelet_firewall.peers import Meant
from cubelet_firewall.policies import Applied, numbered, selection
from cubelet_firewall.portsets import (
    NOTHING,
    NOTHING_NUMBER,
    PortSet,
    set_entries,
    set_number,
    union,
)
from cubelet_firewall.records import (
    HOST_ADDRESSES,
    BlockKey,
    Direction,
    Host,
    HostKey,
    IdentityKey,
    IsolatedKey,
    PeerKey,
    Policy,
    bits_to,
)
from cubelet_firewall.rules import Space, space_of
from cubelet_hooks.cube import Entry, Part
from cubelet_hooks.objects import Address, Node, Pod, Port
from cubelet_hooks.records import Family, Record
from cubelet_hooks.view import View

_CLOSED = Policy(NOTHING_NUMBER, 0, 0)
"""Of a number that no contents have: nothing is allowed."""


def identity_entries(address: Address, view: View) -> Iterator[Entry]:
    """The identity of an address; none while the cluster has no policy that could use it."""
    pod = owner(address, view) if view.policies else None
    if pod is not None:
        found = identity(pod, space_of(pod.namespace, view))
        yield Entry("identities", IdentityKey(address), found)


def host_entries(node: Node, family: Family) -> Iterator[Entry]:
    """The addresses of the host that other nodes see as its first address among its pods."""
    addresses = [each for each in node.addresses if each.version == family][:HOST_ADDRESSES]
    for cidr in node.pod_cidrs:
        if cidr.version == family and cidr.num_addresses > 1:
            for index, address in enumerate(addresses):
                yield Entry("hosts", HostKey(cidr[1], index), Host(address))


def isolated_entries(home: str, view: View, family: Family, closed: bool) -> Iterator[Entry]:
    """Which local pods of a namespace policies isolate; ``closed`` if nothing is to be allowed."""
    for port, policy in _applied(home, view):
        value = Policy(policy.number, policy.has_peers, policy.has_blocks(family))
        for address in port.addresses:
            if address.version == family:
                key = IsolatedKey(address, policy.direction)
                yield Entry("isolated", key, _CLOSED if closed else value)


def policy_parts(home: str, view: View, family: Family) -> Iterator[Part]:
    """What is allowed to the namespace's local pods: networks and pods, each once for all pods."""
    found: dict[int, Applied] = {}
    pods: dict[int, list[str]] = {}
    for port, policy in _applied(home, view):
        found[policy.number] = policy
        pods.setdefault(policy.number, []).append(port.name)
    for number, policy in found.items():
        whose = f"the {policy.direction.name.lower()} policies of {home}/{_some(pods[number])}"
        about = (Pod.kind, f"{home}/{min(pods[number])}")
        yield Part(
            f"blocks {number:x}",
            _block_entries(policy, family),
            fixed=True,
            title=f"ipBlocks in {whose}",
            about=about,
        )
        if policy.has_peers:
            yield Part(
                f"peers {number:x}",
                _peer_entries(policy, view, family),
                title=f"selectors in {whose}",
                about=about,
            )


def _applied(home: str, view: View) -> Iterator[tuple[Port, Applied]]:
    """The namespace's local pods, each with what applies to it in a direction."""
    policies = selection(home, view)
    for port in view.ports.values():
        if port.namespace == home:
            for direction in Direction:
                policy = policies.applied(view.pods.get(port.key), direction)
                if policy is not None:
                    yield port, policy


def _some(names: list[str]) -> str:
    others = len(names) - 1
    return f"{min(names)} and {others} more" if others else names[0]


class _Sets:
    """Entries that allow sets of ports: each set is written once."""

    def __init__(self, family: Family) -> None:
        self._family = family
        self._numbers: dict[PortSet, records.PortSet] = {}
        self._last: tuple[PortSet, records.PortSet] = (NOTHING, records.PortSet(NOTHING_NUMBER))

    def allow(self, map: str, key: Record, ports: PortSet) -> Iterator[Entry]:
        if ports is not self._last[0]:
            value = self._numbers.get(ports)
            if value is None:
                value = self._numbers[ports] = records.PortSet(set_number(ports))
                yield from set_entries(ports, self._family)
            self._last = (ports, value)
        yield Entry(map, key, self._last[1])


def _block_entries(policy: Applied, family: Family) -> Iterator[Entry]:
    fixed, number, sets = bits_to(BlockKey, "policy", family), policy.number, _Sets(family)
    for network, ports in blocks(policy.rules, family):
        key = BlockKey(fixed + network.prefixlen, number, network.network_address)
        yield from sets.allow("blocks", key, ports)


def _peer_entries(policy: Applied, view: View, family: Family) -> Iterator[Entry]:
    """An entry for all pods, then those for namespaces and identities whose answer differs."""
    policy_bits, space_bits, pod_bits = (
        bits_to(PeerKey, last, family) for last in ("policy", "namespace", "pod")
    )
    peers, sets = policy.peers, _Sets(family)
    for_all = union(rule.ports for rule in peers.everywhere.whole)
    if for_all != NOTHING:
        yield from sets.allow("peers", PeerKey(policy_bits, policy.number, 0, 0), for_all)
    for space in _spaces(policy, view):
        meant = peers.within(space)
        for_space = union([for_all, *(rule.ports for rule in meant.whole)])
        number = space_number(space)
        if for_space != for_all:
            key = PeerKey(space_bits, policy.number, number, 0)
            yield from sets.allow("peers", key, for_space)
        for pod, ports in _singled_out(meant, for_space, space, view):
            key = PeerKey(pod_bits, policy.number, number, pod)
            yield from sets.allow("peers", key, ports)


def _spaces(policy: Applied, view: View) -> Iterable[Space]:
    """The namespaces that rules may tell apart, those too that only have pods."""
    names = policy.peers.spaces()
    if names is None:
        names = {*view.namespaces, *map(attrgetter("namespace"), view.pods.values())}
    return (space_of(name, view) for name in names)


def _singled_out(
    meant: Meant, for_space: PortSet, space: Space, view: View
) -> Iterator[tuple[int, PortSet]]:
    """What is allowed to those pods of the namespace that a rule tells apart, by identity."""
    known: set[int] = set()
    for pod in view.pods_in(space.name) if meant.single else ():
        rules = list(meant.of(pod.labels)) if is_peer(pod) else []
        number = pod_number(pod) if rules else 0
        if not rules or number in known:
            continue
        known.add(number)
        own = (numbered(rule.named, pod.ports) for rule in rules if rule.named)
        ports = union([for_space, *(rule.ports for rule in rules), *own])
        if ports != for_space:
            yield number, ports
