"""Sets of ports that rules allow, and their entries in the map ``ports``."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from cubelet_firewall.numbers import number
from cubelet_firewall.records import PortKey, Present, bits_to
from cubelet_hooks.cube import Entry
from cubelet_hooks.objects import Protocol
from cubelet_hooks.records import Family

PROTOCOLS: dict[Protocol, int] = {"TCP": 6, "UDP": 17, "SCTP": 132}
"""IP protocol numbers (IANA)."""

ALL_PROTOCOLS = 0
"""Stands for all protocols, also without ports: no packet has protocol 0 (hop-by-hop options)."""

LAST_PORT = 65535
_PORT_BITS = 16


class Ports(NamedTuple):
    """The ports from ``first`` to ``last`` of an IP protocol."""

    protocol: int
    first: int
    last: int


PortSet = tuple[Ports, ...]
"""In order, without overlaps or neighbours: equal sets are equal tuples."""

NOTHING: PortSet = ()
EVERYTHING: PortSet = (Ports(ALL_PROTOCOLS, 0, LAST_PORT),)
NOTHING_NUMBER = 0
EVERYTHING_NUMBER = 1


def union(sets: Iterable[PortSet]) -> PortSet:
    """The ports that are in any of the sets."""
    merged: list[Ports] = []
    for ports in sorted({ports for each in sets for ports in each}):
        if ports.protocol == ALL_PROTOCOLS:
            return EVERYTHING
        if merged and merged[-1].protocol == ports.protocol and ports.first <= merged[-1].last + 1:
            merged[-1] = merged[-1]._replace(last=max(merged[-1].last, ports.last))
        else:
            merged.append(ports)
    return tuple(merged)


def set_number(ports: PortSet) -> int:
    """The set's number, as in the record ``PortSet``."""
    if ports in (NOTHING, EVERYTHING):
        return NOTHING_NUMBER if ports == NOTHING else EVERYTHING_NUMBER
    return number("ports", ports)


def set_entries(ports: PortSet, family: Family) -> Iterator[Entry]:
    """The set's own entries; none for the two sets that have a fixed number."""
    if ports in (NOTHING, EVERYTHING):
        return
    fixed, found = bits_to(PortKey, "port", family) - _PORT_BITS, set_number(ports)
    for each in ports:
        for first, length in prefixes(each.first, each.last):
            yield Entry("ports", PortKey(fixed + length, found, each.protocol, first), Present(1))


def prefixes(first: int, last: int) -> Iterator[tuple[int, int]]:
    """The fewest port prefixes that make up a range, each its first port and length: at most 30."""
    while first <= last:
        size = first & -first or LAST_PORT + 1
        while first + size - 1 > last:
            size >>= 1
        yield first, _PORT_BITS + 1 - size.bit_length()
        first += size
