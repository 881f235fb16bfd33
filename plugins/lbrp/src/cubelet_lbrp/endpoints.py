"""Selects the backends of a Service's port from its endpoints, by pure functions.

Ready endpoints take new connections, of them those that hints keep for this node or its zone
(KEP-2433, KEP-3015). Where a scope has none that is ready, those that still serve while they
terminate do (KEP-1669). Open connections ask for no endpoint: they last as long as their pods do.
"""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from cubelet_hooks.addresses import unusable
from cubelet_hooks.objects import Endpoint, EndpointSlice, ServicePort
from cubelet_hooks.records import Address, Family


class Condition(enum.IntEnum):
    """An endpoint's usability; a scope's endpoints with the highest are chosen, never PRESENT."""

    PRESENT = 0
    DRAINING = 1
    READY = 2


@dataclass(frozen=True)
class Candidate:
    """An endpoint's address and port. ``node_name`` is empty if it is on no known node."""

    address: Address
    port: int
    condition: Condition
    node_name: str
    hint_zones: tuple[str, ...] = ()
    hint_nodes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Here:
    """The clients' node and its zone; empty if unknown."""

    node: str = ""
    zone: str = ""


@dataclass(frozen=True)
class BackendSet:
    """The backends of one scope: those ``chosen`` for new connections.

    ``elsewhere``: none was chosen in this scope, but the cluster has some.
    """

    chosen: tuple[Candidate, ...]
    elsewhere: bool = False

    @cached_property
    def id(self) -> int:
        """A 64-bit hash of addresses and ports alone, so that equal sets share their entries."""
        digest = hashlib.blake2b(digest_size=8)
        for candidate in self.chosen:
            digest.update(candidate.address.packed + candidate.port.to_bytes(2, "big"))
        return int.from_bytes(digest.digest(), "big")


Numbers = tuple[tuple[int, ...], ...]
"""The port numbers that a Service's port leads to, slice by slice."""


class Served:
    """The endpoints in a Service's slices of one family; its ports are many or the slices are."""

    def __init__(self, slices: Iterable[EndpointSlice], family: Family) -> None:
        self._slices = [item for item in slices if item.address_type == f"IPv{family}"]
        self._ports: list[dict[tuple[str, str], tuple[int, ...]]] = []
        for item in self._slices:
            ports: dict[tuple[str, str], tuple[int, ...]] = {}
            for each in item.ports:
                place = (each.name, each.protocol)
                ports[place] = (*ports.get(place, ()), each.port)
            self._ports.append(ports)

    def numbers(self, port: ServicePort) -> Numbers:
        """Equal for ports that lead to the same endpoints."""
        place = (port.name, port.protocol)
        return tuple(ports.get(place, ()) for ports in self._ports)

    def candidates(self, numbers: Numbers) -> tuple[Candidate, ...]:
        """All endpoints of a Service's port, ordered, each address and port once.

        While slices are rewritten an endpoint may be in two of them: its better condition counts.
        What is no host's address is no backend, as for the API server: it could lead to the node.
        """
        found: dict[tuple[bytes, int], Candidate] = {}
        for item, own in zip(self._slices, numbers, strict=True):
            for candidate in _of_slice(item, own):
                place = (candidate.address.packed, candidate.port)
                known = found.get(place)
                if known is None or known.condition < candidate.condition:
                    found[place] = candidate
        return tuple(candidate for _, candidate in sorted(found.items()))


def _of_slice(item: EndpointSlice, numbers: Iterable[int]) -> Iterable[Candidate]:
    for number in numbers:
        for endpoint in item.endpoints:
            # An endpoint's addresses all belong to the same pod: consumers use the first.
            for address in endpoint.addresses[:1]:
                if f"IPv{address.version}" != item.address_type or unusable(address):
                    continue
                yield Candidate(
                    address,
                    number,
                    _condition(endpoint),
                    endpoint.node_name,
                    endpoint.hint_zones,
                    endpoint.hint_nodes,
                )


def _condition(endpoint: Endpoint) -> Condition:
    if endpoint.ready:
        return Condition.READY
    draining = endpoint.serving and endpoint.terminating
    return Condition.DRAINING if draining else Condition.PRESENT


def select(
    found: tuple[Candidate, ...], node_name: str | None = None, here: Here | None = None
) -> BackendSet:
    """The backends of the whole cluster or, under a Local policy, of the node ``node_name``.

    Of the cluster's ready ones hints decide which are for ``here``, if it is given.
    """
    scope = [c for c in found if node_name is None or c.node_name == node_name]
    best = max((c.condition for c in scope), default=Condition.PRESENT)
    chosen = tuple(c for c in scope if c.condition == best > Condition.PRESENT)
    if here is not None and node_name is None and best is Condition.READY:
        chosen = _near(chosen, here)
    return BackendSet(
        chosen=chosen,
        elsewhere=not chosen and any(c.condition > Condition.PRESENT for c in found),
    )


def _near(ready: tuple[Candidate, ...], here: Here) -> tuple[Candidate, ...]:
    """Those with hints for the node, else those for its zone, if all endpoints have such hints.

    If none is for this node or zone, all are, as if there were no hints.
    """
    if all(c.hint_nodes for c in ready):
        own = tuple(c for c in ready if here.node in c.hint_nodes)
        if own:
            return own
    if all(c.hint_zones for c in ready):
        return tuple(c for c in ready if here.zone in c.hint_zones) or ready
    return ready
