"""Addresses and networks, found by each other: as cheap as what is found, whatever there is."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Generic, TypeVar

from cubelet.state.index import Index, Keyed
from cubelet_hooks.objects import Address, Network

T = TypeVar("T", bound=Keyed)
_Prefix = tuple[int, int, int]
"""The family, the length, and the bits of that length."""


class Networks(Generic[T]):
    """Finds objects by an address in one of their networks."""

    def __init__(self, networks: Callable[[T], Iterable[Network]]) -> None:
        self._networks = networks
        self._found = Index[_Prefix, T](lambda each: map(_prefix, dict.fromkeys(networks(each))))
        self._lengths: Counter[tuple[int, int]] = Counter()

    def replace(self, old: T | None, new: T | None) -> None:
        """Forget ``old``, exactly as it was added, and find ``new`` from now on."""
        for each, count in ((old, -1), (new, 1)):
            for network in dict.fromkeys(self._networks(each)) if each is not None else ():
                self._lengths[network.version, network.prefixlen] += count
        self._found.replace(old, new)

    def around(self, address: Address) -> Iterator[T]:
        """The objects with a network that has the address, the narrowest first, then by key."""
        number = int(address)
        for length in range(address.max_prefixlen, -1, -1):
            if self._lengths.get((address.version, length)):
                bits = number >> address.max_prefixlen - length
                yield from self._found.ordered((address.version, length, bits))


def _prefix(network: Network) -> _Prefix:
    bits = int(network.network_address) >> network.max_prefixlen - network.prefixlen
    return network.version, network.prefixlen, bits


class Addresses(Generic[T]):
    """Finds objects by a network that one of their addresses is in."""

    def __init__(self, addresses: Callable[[T], Iterable[Address]]) -> None:
        self._addresses = addresses
        self._sorted: list[tuple[int, int, str]] = []
        self._objects: dict[str, T] = {}

    def __iter__(self) -> Iterator[T]:
        """All that have addresses."""
        return iter(self._objects.values())

    def replace(self, old: T | None, new: T | None) -> None:
        """Forget ``old``, exactly as it was added, and find ``new`` from now on."""
        if old is not None and self._objects.pop(old.key, None) is not None:
            for entry in self._entries(old):
                del self._sorted[bisect_left(self._sorted, entry)]
        if new is not None and (entries := self._entries(new)):
            self._objects[new.key] = new
            for entry in entries:
                insort(self._sorted, entry)

    def within(self, network: Network) -> Iterator[T]:
        """The objects with an address in the network, ordered by address; each once or more."""
        version, first = network.version, int(network.network_address)
        last = first + network.num_addresses
        begin = bisect_left(self._sorted, (version, first, ""))
        end = bisect_left(self._sorted, (version, last, ""))
        return (self._objects[key] for _, _, key in self._sorted[begin:end])

    def _entries(self, each: T) -> list[tuple[int, int, str]]:
        found = dict.fromkeys(self._addresses(each))
        return [(address.version, int(address), each.key) for address in found]
