"""The host's routes into the datapath.

Packets of host processes to pods, Services and external VIPs enter through the gateway. These
routes share a next hop that exists only as a permanent neighbour entry, and a protocol number of
their own, by which a later run recognises them.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, ip_network
from socket import if_indextoname
from typing import TYPE_CHECKING

from cubelet.net import NetError, fib, rtnl
from cubelet.net.fib import Hop, Route
from cubelet_hooks.objects import Address, LocalNode, Network

if TYPE_CHECKING:
    from pyroute2 import IPRoute

NEXT_HOP = IPv4Address("169.254.1.1")
PROTOCOL = 203  # unassigned in rtnetlink.h and in iproute2's rt_protos

_RTNH_F_ONLINK = 4
_GONE = (errno.ESRCH, errno.ENODEV)


@dataclass(frozen=True)
class Refused:
    """A wanted network that we could not route, and why."""

    network: Network
    reason: str


@dataclass(frozen=True)
class RouteReport:
    """The changes of one synchronisation; `refused` lists networks as long as the cause lasts."""

    installed: tuple[Network, ...] = ()
    removed: tuple[Network, ...] = ()
    refused: tuple[Refused, ...] = ()


def sync_routes(
    wanted: Iterable[Network],
    local: LocalNode,
    remove: bool = True,
    spared: Iterable[Address] = (),
) -> RouteReport:
    """Make our routes in the main table exactly those to `wanted`, through the gateway.

    Without `remove` others of ours stay: it may only be unknown who wants them.
    A network that anybody else routes, with whatever metric, is refused: the same prefix through
    the gateway could cut the node off. So is one by which a `spared` address would go through the
    gateway, where the API server is, say; such routes of ours go first, and in any case.
    Raises NetError when routes cannot be listed or removed.
    """
    spared = tuple(spared)
    with rtnl.session() as ipr:
        routes = _main_table()
        in_the_way = _in_the_way(routes, spared) if spared else ()
        for route in in_the_way:
            _remove(ipr, route)
        left = [each for each in routes if each not in in_the_way] if in_the_way else routes
        return _Sync(ipr, left, local, spared).run(wanted, remove)


def _in_the_way(routes: Sequence[Route], spared: Collection[Address]) -> tuple[Route, ...]:
    """Those of our routes that `spared` addresses take."""
    ours = [route for route in routes if route.protocol == PROTOCOL]
    foreign = [route.network for route in routes if route.protocol != PROTOCOL]
    return tuple(route for route in ours if _taken(route.network, spared, foreign))


def free(addresses: Iterable[Address]) -> tuple[Network, ...]:
    """Remove the routes that we have to these very addresses. Raises NetError.

    For an agent that may have cut itself off: a mistake of an earlier run is not to be for good.
    """
    wanted = {ip_network(address) for address in addresses}
    with rtnl.session() as ipr:
        found = [each for each in _main_table() if each.protocol == PROTOCOL]
        mistaken = [route for route in found if route.network in wanted]
        for route in mistaken:
            _remove(ipr, route)
    return tuple(route.network for route in mistaken)


def _taken(network: Network, spared: Collection[Address], foreign: Collection[Network]) -> str:
    """The first of the addresses whose way would lead through the network's route; '' if none."""
    for address in spared:
        if address in network and not any(
            address in other and other.prefixlen > network.prefixlen for other in foreign
        ):
            return str(address)
    return ""


def remove_routes(ipr: IPRoute) -> tuple[Network, ...]:
    """Remove every route of ours; returns their networks. Raises NetError."""
    ours = [route for route in _main_table() if route.protocol == PROTOCOL]
    for route in ours:
        _remove(ipr, route)
    return tuple(route.network for route in ours)


class _Sync:
    """One run: the diff of the wanted networks against the main table."""

    def __init__(
        self,
        ipr: IPRoute,
        routes: Iterable[Route],
        local: LocalNode,
        spared: Collection[Address],
    ) -> None:
        self._ipr = ipr
        self._spared = spared
        self._nexthop = {
            "oif": local.gateway_ifindex,
            "gateway": str(NEXT_HOP),
            "prefsrc": str(local.gateway),
        }
        self._way = (Hop(local.gateway_ifindex, NEXT_HOP, direct=False),), local.gateway
        routes = tuple(routes)
        self._ours = [route for route in routes if route.protocol == PROTOCOL]
        self._right = {route.network for route in self._ours if self._is_right(route)}
        self._foreign = {each.network: each for each in routes if each.protocol != PROTOCOL}

    def run(self, wanted: Iterable[Network], remove: bool) -> RouteReport:
        installed, refused = [], []
        held: set[Network] = set()
        for network in dict.fromkeys(wanted):
            reason = self._objection(network)
            if reason is None and network not in self._right:
                reason = self._install(network)
                if reason is None:
                    installed.append(network)
            if reason is None:
                held.add(network)
            else:
                refused.append(Refused(network, reason))
        removed = self._prune(held) if remove else ()
        return RouteReport(tuple(installed), removed, tuple(refused))

    def _is_right(self, route: Route) -> bool:
        return (
            route.type == fib.UNICAST
            and _is_plain(route)
            and (route.hops, route.source) == self._way
        )

    def _objection(self, network: Network) -> str | None:
        if not isinstance(network, IPv4Network):
            return "only IPv4 networks are routed through the gateway"
        if address := _taken(network, self._spared, self._foreign):
            return f"the node reaches {address} by another way, which it needs"
        route = self._foreign.get(network)
        return None if route is None else f"another route to it exists: {_describe(route)}"

    def _install(self, network: Network) -> str | None:
        """Add the route, or replace a wrong one of ours; returns the reason if it fails."""
        try:
            with rtnl.attempt(f"route {network} through the gateway"):
                self._ipr.route(
                    "replace",
                    dst=str(network),
                    table=fib.MAIN_TABLE,
                    proto=PROTOCOL,
                    flags=_RTNH_F_ONLINK,
                    **self._nexthop,
                )
        except NetError as error:
            return str(error)
        return None

    def _prune(self, held: set[Network]) -> tuple[Network, ...]:
        """Remove our unwanted routes; returns the networks that have none any more."""
        removed: dict[Network, None] = {}
        for route in self._ours:
            network = route.network
            if network in held and _is_plain(route):
                continue
            _remove(self._ipr, route)
            if network not in held:
                removed[network] = None
        return tuple(removed)


def _main_table() -> list[Route]:
    with rtnl.attempt("list the routes"):
        return fib.routes(fib.MAIN_TABLE)


def _is_plain(route: Route) -> bool:
    """Whether a route has neither TOS nor metric: the kernel replaces only routes that agree in
    prefix, TOS and metric."""
    return not route.tos and not route.priority


def _describe(route: Route) -> str:
    """The route in the words of ip-route(8)."""
    words = [f"proto {route.protocol}"]
    for hop in route.hops:
        if hop.gateway:
            words.append(f"via {hop.gateway}")
        # The device may have been removed meanwhile, and its routes with it.
        with suppress(OSError):
            words.append(f"dev {if_indextoname(hop.device)}")
    if route.priority:
        words.append(f"metric {route.priority}")
    return " ".join(words)


def _remove(ipr: IPRoute, route: Route) -> None:
    network = route.network
    with rtnl.attempt(f"remove the route to {network}", ignore=_GONE):
        ipr.route(
            "del",
            dst=str(network),
            table=fib.MAIN_TABLE,
            proto=PROTOCOL,
            tos=route.tos,
            priority=route.priority,
        )
