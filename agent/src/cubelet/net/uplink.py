"""Finds the node's uplink, and its addresses and MTU."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cubelet.net import NetError, fib, rtnl
from cubelet.net.fib import Route
from cubelet.net.rtnl import Link
from cubelet_hooks.objects import Address

if TYPE_CHECKING:
    from pyroute2 import IPRoute

    from cubelet.net.rtnl import Interface

VXLAN_OVERHEAD = 50  # outer IPv4 20, UDP 8, VXLAN 8 and the inner Ethernet header 14

# Drivers' own devices, of which the kernel names no kind, and what is made of NICs. A veth is one
# in a node that is a container; those of other networks' pods have no network of their own.
_NICS = frozenset({None, "bond", "team", "vlan", "macvlan", "ipvlan", "veth"})
_SINGLE = 32  # the prefix length of an address without a network


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


@dataclass(frozen=True)
class Wish:
    """The main uplink's name, if it is set; the node's addresses; devices that are no uplinks."""

    name: str | None
    addresses: tuple[Address, ...]
    apart: Collection[str] = ()


@dataclass(frozen=True)
class Found:
    """The main uplink, the other ones, and the largest packet in bytes that fits a tunnel."""

    main: Uplink
    further: tuple[Uplink, ...]
    overlay_mtu: int

    @property
    def all(self) -> tuple[Uplink, ...]:
        """Main and other ones."""
        return (self.main, *self.further)


def find_uplinks(
    ipr: IPRoute, candidates: Mapping[str, Link], routes: Iterable[Route], wish: Wish
) -> Found:
    """The main uplink, and all other NICs that are up and connected to some network.

    The main one is the named device, or else the default route's among `routes`, or else the one
    with a node address. `candidates` are the namespace's devices without the agent's own. Tunnels
    come to the node's address, which may be on another NIC. Raises NetError when there is no main
    one, or when it is no Ethernet device or has no address.
    """
    held = rtnl.addresses_by_device(ipr)
    main = _main(candidates, held, routes, wish)
    apart = {main.name, *wish.apart}
    further = tuple(
        _uplink(link, held[link.index])
        for link in sorted(candidates.values(), key=lambda link: link.index)
        if link.name not in apart and _is_nic(link) and _is_connected(held.get(link.index, ()))
    )
    mtus = [each.mtu for each in further if {*wish.addresses[:1]} & {*each.addresses}]
    return Found(main, further, min((main.mtu, *mtus)) - VXLAN_OVERHEAD)


def _main(
    candidates: Mapping[str, Link],
    held: Mapping[int, tuple[Interface, ...]],
    routes: Iterable[Route],
    wish: Wish,
) -> Uplink:
    name = wish.name
    link = candidates.get(name) if name else _detect(candidates, held, routes, wish.addresses)
    if link is None:
        raise NetError(
            f"there is no device {name} to be the uplink"
            if name
            else "no uplink found: no default route, and no device has a node address; "
            "name one in the settings"
        )
    if not link.ethernet:
        raise NetError(f"the uplink {link.name} is no Ethernet device; name another")
    found = held.get(link.index)
    if not found:
        raise NetError(f"the uplink {link.name} has no address yet")
    return _uplink(link, found)


def _is_nic(link: Link) -> bool:
    return link.ethernet and link.up and link.kind in _NICS


def _is_connected(found: Iterable[Interface]) -> bool:
    return any(each.version == 4 and each.network.prefixlen < _SINGLE for each in found)


def _uplink(link: Link, found: Iterable[Interface]) -> Uplink:
    addresses = tuple(each.ip for each in found)
    return Uplink(link.name, link.index, link.mac, link.mtu, addresses, _broadcasts(found))


def _broadcasts(found: Iterable[Interface]) -> tuple[Address, ...]:
    """Of networks that have one: RFC 3021's of two addresses have none."""
    networks = (each.network for each in found)
    own = (n.broadcast_address for n in networks if n.version == 4 and n.prefixlen < 31)
    return tuple(dict.fromkeys(own))


def _detect(
    candidates: Mapping[str, Link],
    held: Mapping[int, tuple[Interface, ...]],
    routes: Iterable[Route],
    addresses: tuple[Address, ...],
) -> Link | None:
    by_index = {link.index: link for link in candidates.values()}
    for index in _default_devices(routes):
        if index in by_index:
            return by_index[index]
    for link in candidates.values():
        if any(each.ip in addresses for each in held.get(link.index, ())):
            return link
    return None


def _default_devices(routes: Iterable[Route]) -> Iterator[int]:
    """Devices of the main table's default routes, the most preferred first."""
    defaults = [
        each
        for each in routes
        if not each.length and each.type == fib.UNICAST and each.table == fib.MAIN_TABLE
    ]
    for route in sorted(defaults, key=lambda route: route.priority):
        yield from (hop.device for hop in route.hops)
