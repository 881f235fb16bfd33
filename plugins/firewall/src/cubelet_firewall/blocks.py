"""ipBlocks: CIDRs minus exceptions, cut into networks that each have one answer."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from ipaddress import ip_network

from cubelet_firewall.portsets import NOTHING, PortSet, union
from cubelet_firewall.rules import Rule
from cubelet_hooks.objects import Network
from cubelet_hooks.records import Family

_EVERYWHERE: dict[Family, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_Allowance = tuple[int, PortSet]
"""What one ipBlock allows, with a number of its own: two may allow the same and end apart."""


def blocks(rules: tuple[Rule, ...], family: Family) -> Iterator[tuple[Network, PortSet]]:
    """What may be spoken with the addresses of a network, by the longest prefix that has them.

    Rules without peers allow it with every address. A network is left out if its answer is that
    of the one around it, or nothing at all.
    """
    begins: dict[Network, set[_Allowance]] = defaultdict(set)
    ends: dict[Network, set[_Allowance]] = defaultdict(set)
    begins[_EVERYWHERE[family]].add((-1, union(rule.ports for rule in rules if not rule.peers)))
    peers = ((peer, rule.ports) for rule in rules for peer in rule.peers)
    for number, (peer, ports) in enumerate(peers):
        if peer.cidr is None or peer.cidr.version != family:
            continue
        begins[peer.cidr].add((number, ports))
        for network in peer.excepts:
            ends[network].add((number, ports))
    yield from _answers(begins, ends)


def _answers(
    begins: dict[Network, set[_Allowance]], ends: dict[Network, set[_Allowance]]
) -> Iterator[tuple[Network, PortSet]]:
    """Walk from each network to those within it, which come right after it in order."""
    around: list[tuple[Network, set[_Allowance], PortSet]] = []
    for network in sorted(begins.keys() | ends.keys(), key=_order):
        while around and int(around[-1][0].broadcast_address) < int(network.network_address):
            around.pop()
        outer, answer = (around[-1][1], around[-1][2]) if around else (set(), NOTHING)
        inside = (outer | begins.get(network, set())) - ends.get(network, set())
        ports = union(ports for _, ports in inside)
        if ports != answer:
            yield network, ports
        around.append((network, inside, ports))


def _order(network: Network) -> tuple[int, int]:
    return int(network.network_address), network.prefixlen
