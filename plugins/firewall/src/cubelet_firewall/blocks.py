"""Cuts ipBlocks (CIDRs minus exceptions) into networks that each allow one set of ports."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from typing import NamedTuple

from cubelet_firewall.portsets import NOTHING, PortSet, union
from cubelet_firewall.rules import Rule
from cubelet_hooks.objects import Network
from cubelet_hooks.records import Family

_Place = tuple[int, int]
"""A network's first address and its prefix length, so that what is around comes first."""
_EVERYWHERE: dict[Family, Network] = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}


def blocks(rules: tuple[Rule, ...], family: Family) -> Iterator[tuple[Network, PortSet]]:
    """The networks and the ports allowed with their addresses; the longest prefix decides.

    Rules without peers allow their ports with every address. A network is left out if it allows the
    same as the network around it, or nothing at all.
    """
    allowed: list[PortSet] = [union(rule.ports for rule in rules if not rule.peers)]
    everywhere = _EVERYWHERE[family]
    networks = {_place(everywhere): everywhere}
    begins: dict[_Place, list[int]] = defaultdict(list, {_place(everywhere): [0]})
    ends: dict[_Place, list[int]] = defaultdict(list)
    for rule in rules:
        for peer in rule.peers:
            if peer.cidr is None or peer.cidr.version != family:
                continue
            for network, found in ((peer.cidr, begins), *((each, ends) for each in peer.excepts)):
                place = _place(network)
                networks[place] = network
                found[place].append(len(allowed))
            allowed.append(rule.ports)
    walk = _Walk(allowed)
    for place in sorted(networks):
        network = networks[place]
        outer = walk.leave(place[0])
        last = place[0] + (1 << network.max_prefixlen - place[1]) - 1
        ports = walk.enter(last, begins.get(place, ()), ends.get(place, ()))
        if ports != outer:
            yield network, ports


class _Around(NamedTuple):
    """A network that the walk is in: its last address, and what it has changed."""

    last: int
    begun: list[int]
    ended: list[int]
    answer: PortSet
    answers: dict[tuple[frozenset[PortSet], frozenset[PortSet]], PortSet]


class _Walk:
    """Goes from each network to those within it, which come right after it in order.

    ``allowed`` is what each ipBlock allows: they are known by number, since two may allow the same
    and end apart. What is allowed where the walk is changes with each network by its own ipBlocks.
    """

    def __init__(self, allowed: list[PortSet]) -> None:
        self._allowed = allowed
        self._inside: set[int] = set()
        self._counts: Counter[PortSet] = Counter()
        self._around: list[_Around] = []

    def leave(self, address: int) -> PortSet:
        """Leave what does not have the address; the answer of what does."""
        while self._around and self._around[-1].last < address:
            gone = self._around.pop()
            self._change(gone.ended, gone.begun)
        return self._around[-1].answer if self._around else NOTHING

    def enter(self, last: int, begins: Iterable[int], ends: Iterable[int]) -> PortSet:
        """The answer of a network within, up to its last address."""
        ending = set(ends)
        begun = [each for each in begins if each not in ending]
        ended = [each for each in ending if each in self._inside]
        added, removed = self._change(begun, ended)
        outer = self._around[-1] if self._around else None
        answer = outer.answer if outer else NOTHING
        if added or removed:
            answers = outer.answers if outer else {}
            answer = answers.get((added, removed)) or answers.setdefault(
                (added, removed), union(self._counts if removed else (answer, *added))
            )
        self._around.append(_Around(last, begun, ended, answer, {}))
        return answer

    def _change(
        self, begun: Iterable[int], ended: Iterable[int]
    ) -> tuple[frozenset[PortSet], frozenset[PortSet]]:
        """Let ipBlocks begin and end; the sets of ports that only now count, or no longer do."""
        before: dict[PortSet, bool] = {}
        for numbers, step in ((begun, 1), (ended, -1)):
            for number in numbers:
                ports = self._allowed[number]
                before.setdefault(ports, ports in self._counts)
                self._counts[ports] += step
                if not self._counts[ports]:
                    del self._counts[ports]
        self._inside.update(begun)
        self._inside.difference_update(ended)
        changed = [ports for ports, had in before.items() if had != (ports in self._counts)]
        added = frozenset(ports for ports in changed if ports in self._counts)
        return added, frozenset(changed) - added


def _place(network: Network) -> _Place:
    return int(network.network_address), network.prefixlen
