"""What the kernel's own network says of addresses: who has them, and what nodes stand next to."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_address
from socket import AF_INET
from typing import TYPE_CHECKING, Any

from cubelet.net import rtnl
from cubelet_hooks.objects import Address, Network

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_RTN_UNICAST = 1
_RTN_LOCAL = 2


@dataclass(frozen=True)
class Surroundings:
    """All but what our own devices have, ordered; for the fields see ``LocalNode``."""

    held: tuple[Address, ...]
    onlink: tuple[Network, ...]
    next_hops: tuple[Address, ...]


def survey(ipr: IPRoute, ours: Collection[int]) -> Surroundings:
    """What all tables say, without the devices ``ours``. Raises NetError.

    A default route without a next hop (as of a tunnel) makes nothing a neighbour.
    """
    with rtnl.attempt("list the routes"):
        routes = [each for each in ipr.get_routes(family=AF_INET) if _leads(each) - set(ours)]
    held: set[Address] = set()
    onlink: set[Network] = set()
    next_hops: set[Address] = set()
    for route in routes:
        network = IPv4Network((route.get("dst") or "0.0.0.0", route["dst_len"]))
        if route["type"] == _RTN_LOCAL and network.prefixlen == network.max_prefixlen:
            held.add(network.network_address)
        if route["type"] != _RTN_UNICAST:
            continue
        hops = set(_next_hops(route))
        next_hops |= hops
        if not hops and network.prefixlen:
            onlink.add(network)
    return Surroundings(
        held=tuple(sorted(each for each in held if not each.is_loopback)),
        onlink=tuple(sorted(onlink)),
        next_hops=tuple(sorted(next_hops)),
    )


def _leads(route: Any) -> set[int]:
    """The devices that a route leads to; none for one that leads nowhere."""
    hops = route.get("multipath") or (route,)
    found = (hop["oif"] if "oif" in hop else hop.get("oif") for hop in hops)
    return {index for index in found if index is not None}


def _next_hops(route: Any) -> Iterator[IPv4Address]:
    for hop in (route, *(route.get("multipath") or ())):
        if gateway := hop.get("gateway"):
            found = ip_address(gateway)
            if isinstance(found, IPv4Address):
                yield found
