"""Finds the node's uplink, and its addresses and MTU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cubelet.net import NetError, fib, rtnl
from cubelet.net.rtnl import Link
from cubelet_hooks.objects import Address

if TYPE_CHECKING:
    from pyroute2 import IPRoute

    from cubelet.net.rtnl import Interface

VXLAN_OVERHEAD = 50  # outer IPv4 20, UDP 8, VXLAN 8 and the inner Ethernet header 14


@dataclass(frozen=True)
class Uplink:
    """The node's NIC; `addresses` are those of global scope, in the kernel's order.

    `broadcasts` are the broadcast addresses of their networks.
    """

    name: str
    index: int
    mac: str
    mtu: int
    addresses: tuple[Address, ...]
    broadcasts: tuple[Address, ...] = ()

    @property
    def overlay_mtu(self) -> int:
        """The largest packet in bytes that fits through the uplink once it is encapsulated."""
        return self.mtu - VXLAN_OVERHEAD


def find_uplink(
    ipr: IPRoute, candidates: Mapping[str, Link], name: str | None, addresses: tuple[Address, ...]
) -> Uplink:
    """The named device, or else the default route's, or else the one with a node address.

    `candidates` are the namespace's devices without the agent's own. Raises NetError when there
    is none, or when it is no Ethernet device or has no address.
    """
    link = candidates.get(name) if name else _detect(ipr, candidates, addresses)
    if link is None:
        raise NetError(
            f"there is no device {name} to be the uplink"
            if name
            else "no uplink found: no default route, and no device has a node address; "
            "name one in the settings"
        )
    if not link.ethernet:
        raise NetError(f"the uplink {link.name} is no Ethernet device; name another")
    found = rtnl.addresses(ipr, link.index, global_only=True)
    if not found:
        raise NetError(f"the uplink {link.name} has no address yet")
    addresses = tuple(a.ip for a in found)
    return Uplink(link.name, link.index, link.mac, link.mtu, addresses, _broadcasts(found))


def _broadcasts(found: Iterable[Interface]) -> tuple[Address, ...]:
    """Of networks that have one: RFC 3021's of two addresses have none."""
    networks = (each.network for each in found)
    own = (n.broadcast_address for n in networks if n.version == 4 and n.prefixlen < 31)
    return tuple(dict.fromkeys(own))


def _detect(
    ipr: IPRoute, candidates: Mapping[str, Link], addresses: tuple[Address, ...]
) -> Link | None:
    by_index = {link.index: link for link in candidates.values()}
    for index in _default_devices():
        if index in by_index:
            return by_index[index]
    for link in candidates.values():
        if any(a.ip in addresses for a in rtnl.addresses(ipr, link.index)):
            return link
    return None


def _default_devices() -> Iterator[int]:
    """Devices of the default routes, the most preferred first."""
    with rtnl.attempt("list the routes"):
        found = fib.routes(fib.MAIN_TABLE)
    defaults = [each for each in found if not each.length and each.type == fib.UNICAST]
    for route in sorted(defaults, key=lambda route: route.priority):
        yield from (hop.device for hop in route.hops)
