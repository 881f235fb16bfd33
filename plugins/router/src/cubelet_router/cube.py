"""The router cube: longest-prefix routes between pods, host, overlay and uplink.

It has routes to the cluster's own prefixes; all others it leaves to the kernel's routing table,
which is looked up once per flow.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import IPv4Address, ip_network
from typing import Annotated, ClassVar

import msgspec

from cubelet_hooks.cube import PORT_CLASSES, Cube, Entry, Reason, Settings, Unit
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, LocalNode, Network, Node
from cubelet_hooks.view import View
from cubelet_router.records import Prefix, Route, RouteKind

_LOCAL: Unit = ("local",)


class RouterSettings(Settings, frozen=True, kw_only=True):
    """``unreachable`` are prefixes to which no packet leaves the node untranslated.

    It should contain the Service range: packets to a ClusterIP without a Service must not leak to
    the uplink. ``routes`` is the size of the table, about one per node.
    """

    unreachable: tuple[str, ...] = ("10.96.0.0/12",)
    routes: Annotated[int, msgspec.Meta(ge=16, le=1 << 20)] = 16_384

    def __post_init__(self) -> None:
        for prefix in self.unreachable:
            ip_network(prefix)  # raises ValueError, naming the prefix


def _concerns(key: Prefix, _value: Route) -> Network:
    return ip_network((key.address, key.length), strict=False)


class Router(Cube):
    """Decides where a packet leaves the node and by which next hop."""

    kind: ClassVar[str] = "router"
    essential: ClassVar[bool] = True
    core: ClassVar[bool] = True
    inward: ClassVar[frozenset[str]] = frozenset(PORT_CLASSES)
    requires: ClassVar[tuple[str, ...]] = ("bridge",)
    settings_type: ClassVar[type[Settings]] = RouterSettings
    settings: RouterSettings
    reasons: ClassVar[tuple[Reason, ...]] = (
        Reason("martian", "a destination that is never routed: multicast, broadcast, loopback"),
        Reason("link_local", "a link-local IPv6 destination, which no router forwards (RFC 4291)"),
        Reason("no_route", "no route to the destination's network"),
        Reason("unreachable", "a destination in a range that is kept unreachable"),
        Reason("overlay_loop", "from the overlay to the overlay: the sender's routes are outdated"),
        Reason("host_unreachable", "a route of the kernel's says unreachable"),
        Reason("prohibited", "a route of the kernel's says prohibit"),
        Reason("blackhole", "a route of the kernel's says blackhole"),
    )
    maps: ClassVar[tuple[Map, ...]] = (
        Map("routes", MapType.LPM_TRIE, Prefix, Route, "routes", concerns=_concerns),
    )
    shows: ClassVar[Mapping[str, str]] = {"routes": "routes"}

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """This node's own routes are a unit, and the routes to each other node are one."""
        if change.kind == Node.kind:
            return (("node", change.key),)
        if change.kind == LocalNode.kind:
            return (_LOCAL, *self._nodes_after(change, view))
        return ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """The routes of one unit; none before this node is set up."""
        if view.local is None:
            return
        if unit == _LOCAL:
            routes = dict(self._local_routes(view.local))
        else:
            node = view.nodes.get(unit[1])
            routes = dict(self._node_routes(node, view.local)) if node else {}
        for network, route in routes.items():
            key = Prefix(length=network.prefixlen, address=network.network_address)
            yield Entry("routes", key, route)

    def _nodes_after(self, change: Change, view: View) -> Iterable[Unit]:
        """The nodes' units, if ``change`` decides which of their routes are this node's."""
        old, new = (
            (node.name, node.pod_cidr) if isinstance(node, LocalNode) else None
            for node in (change.old, change.new)
        )
        return (("node", name) for name in view.nodes) if old != new else ()

    def _local_routes(self, local: LocalNode) -> Iterator[tuple[Network, Route]]:
        """This node's routes; later ones override earlier ones of the same prefix."""
        default: Network = ip_network("0.0.0.0/0" if self.family == 4 else "::/0")
        yield default, _route(RouteKind.UPLINK)
        for prefix in map(ip_network, self.settings.unreachable):
            if prefix.version == self.family:
                yield prefix, _route(RouteKind.UNREACHABLE)
        if local.pod_cidr.version == self.family:
            yield from _segment_routes(local.pod_cidr)
        for address in (local.gateway, *local.addresses):
            if address.version == self.family:
                yield ip_network(address), _route(RouteKind.HOST)

    def _node_routes(self, node: Node, local: LocalNode) -> Iterator[tuple[Network, Route]]:
        """Routes to another node's pods: UNREACHABLE, not by the uplink, if it has no address."""
        if node.name == local.name:
            return
        remote = next((a for a in node.addresses if isinstance(a, IPv4Address)), None)
        route = _route(RouteKind.OVERLAY, remote) if remote else _route(RouteKind.UNREACHABLE)
        for cidr in node.pod_cidrs:
            if cidr.version == self.family and not self._is_own(cidr, local):
                yield cidr, route

    def _is_own(self, cidr: Network, local: LocalNode) -> bool:
        """Whether ``cidr`` is a route of this node's own, which another node cannot take."""
        return any(cidr == network for network, _ in self._local_routes(local))


def _segment_routes(pod_cidr: Network) -> Iterator[tuple[Network, Route]]:
    yield pod_cidr, _route(RouteKind.SEGMENT)
    if pod_cidr.version == 4 and pod_cidr.prefixlen <= 30:
        for address in (pod_cidr.network_address, pod_cidr.broadcast_address):
            yield ip_network(address), _route(RouteKind.BROADCAST)


def _route(kind: RouteKind, remote: IPv4Address | None = None) -> Route:
    return Route(remote=int(remote) if remote else 0, kind=kind)


@hookimpl
def cubelet_cubes() -> Sequence[type[Cube]]:
    """Offer the router."""
    return [Router]
