"""What the kernel's own network says of addresses: who has them, and what nodes stand next to."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from cubelet.net import fib
from cubelet.net.fib import Route
from cubelet_hooks.objects import Address, Network

_WHOLE = 32  # the prefix length of a single address


@dataclass(frozen=True)
class Surroundings:
    """All but what our own devices have, ordered; for the fields see ``LocalNode``."""

    held: tuple[Address, ...]
    onlink: tuple[Network, ...]
    next_hops: tuple[Address, ...]


def survey(routes: Iterable[Route], ours: Collection[int]) -> Surroundings:
    """What these routes say, without the devices ``ours``.

    A default route without a next hop (as of a tunnel) makes nothing a neighbour.
    """
    held: set[Address] = set()
    onlink: set[Network] = set()
    next_hops: set[Address] = set()
    for route in routes:
        if {hop.device for hop in route.hops} <= {0, *ours}:
            continue
        if route.type == fib.LOCAL and route.length == _WHOLE:
            held.add(route.network.network_address)
        if route.type != fib.UNICAST:
            continue
        next_hops.update(hop.gateway for hop in route.hops if hop.gateway)
        if route.length and all(hop.direct for hop in route.hops):
            onlink.add(route.network)
    return Surroundings(
        held=tuple(sorted(each for each in held if not each.is_loopback)),
        onlink=tuple(sorted(onlink)),
        next_hops=tuple(sorted(next_hops)),
    )
