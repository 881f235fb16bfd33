"""The lbrp cube: load balancer and reverse proxy for Kubernetes Services, and pods' host ports.

A Service's backends are a set whose id is a hash of its contents. A new set is written first, then
each frontend is switched to it by one write, and the old set is removed last.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import ClassVar

from cubelet_hooks import cube
from cubelet_hooks.addresses import affected
from cubelet_hooks.cube import Complaint, Cube, Entry, Read, Reason, Row, Unit
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import (
    Address,
    Change,
    EndpointSlice,
    LocalNode,
    Node,
    Pod,
    Port,
    Service,
)
from cubelet_hooks.records import Record
from cubelet_hooks.view import View
from cubelet_lbrp import complaints, hostports
from cubelet_lbrp.display import service_rows
from cubelet_lbrp.frontends import (
    entries,
    exposed,
    hinted,
    keeps_clients,
    programmed,
    refused,
    sticky,
    zone_of,
)
from cubelet_lbrp.records import (
    Affinity,
    AffinityKey,
    Backend,
    BackendKey,
    Frontend,
    FrontendKey,
    MemberKey,
    NodeKey,
    Present,
    Scope,
    Shared,
    SourceKey,
)


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of the maps; the kernel allocates them at once, about 70 bytes per entry (IPv4).

    The defaults hold 10,000 Services of two ports, a third of them with a node port, and some
    200,000 endpoints: 4.7 MB for the frontends, 19 MB each for backends and members. Leave room
    for a set to exist twice while it is switched.
    """

    max_frontends: int = 65536
    """Pairs of an address and a port, one per scope, and one more per virtual address."""
    max_backends: int = 262144
    """Endpoints, counted once per set of backends they are in; the size of two maps."""
    max_node_addresses: int = 16384
    max_source_ranges: int = 16384
    """Networks of loadBalancerSourceRanges, those of equal lists counted once."""
    max_affinities: int = 65536
    """Clients of Services with sessionAffinity, once per port; the least recent are evicted."""

    def __post_init__(self) -> None:
        """Raise ValueError for a size below 1."""
        for name in self.__struct_fields__:
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, not {getattr(self, name)}")


def _frontend_address(key: FrontendKey, _: Frontend) -> Address:
    return key.address


def _node_address(key: NodeKey, _: Present) -> Address:
    return key.address


class Lbrp(Cube):
    """Sends flows to a Service or a host port on to a backend, chosen at the first packet."""

    kind: ClassVar[str] = "lbrp"
    essential: ClassVar[bool] = True
    inward: ClassVar[frozenset[str]] = frozenset({"pod", "host", "uplink"})
    specialised_by: ClassVar[frozenset[str] | None] = frozenset(
        {Service.kind, EndpointSlice.kind, Port.kind, LocalNode.kind}
    )
    settings_type: ClassVar[type[cube.Settings]] = Settings
    reasons: ClassVar[tuple[Reason, ...]] = (
        Reason("no_service", "a Service's address, but none of its ports"),
        Reason("no_endpoints", "the Service has no endpoint that serves"),
        Reason("no_local_endpoints", "the Service has none on this node, as its policy demands"),
        Reason("no_backend", "the Service's backends were being replaced"),
        Reason("backend_gone", "the flow's backend no longer serves the Service"),
        Reason("service_gone", "the flow's Service no longer exists"),
        Reason("source_range", "the client is in none of the Service's loadBalancerSourceRanges"),
    )
    maps: ClassVar[tuple[Map, ...]] = (
        Map("backends", MapType.HASH, BackendKey, Backend, "max_backends"),
        Map("members", MapType.HASH, MemberKey, Present, "max_backends"),
        Map("sources", MapType.LPM_TRIE, SourceKey, Present, "max_source_ranges"),
        Map(
            "nodes",
            MapType.HASH,
            NodeKey,
            Present,
            "max_node_addresses",
            concerns=_node_address,
        ),
        Map(
            "services",
            MapType.HASH,
            FrontendKey,
            Frontend,
            "max_frontends",
            concerns=_frontend_address,
        ),
        Map(
            "affinities",
            MapType.LRU_HASH,
            AffinityKey,
            Affinity,
            "max_affinities",
            planned=False,
        ),
    )
    shows: ClassVar[Mapping[str, str]] = {"services": "services"}

    def defines(self, view: View) -> Mapping[str, int]:
        """Whose packets a frontend is for and who else may have it, how many bits find a client
        among sources, and whether some Service wants its clients to keep their backends."""
        return {
            "INSIDE": Scope.INSIDE,
            "OUTSIDE": Scope.OUTSIDE,
            "NODE": Scope.NODE,
            "YIELDS": Shared.YIELDS,
            "AFFINITY": int(any(sticky(service) for service in view.services.values())),
            "SOURCE_BITS": SourceKey.bits(self.family, 32 if self.family == 4 else 128),
        }

    def needed_on(self, view: View) -> Collection[str]:
        """Pods' and the host's ports, and the uplink while something can be asked for there.

        Its egress while a backend on the host's network has to see clients' own addresses.
        """
        outside = any(port.host_ports for port in view.ports.values()) or any(
            exposed(service) for service in view.services.values()
        )
        if not outside:
            return self.inward - {"uplink"}
        keeps = any(keeps_clients(service, view) for service in view.services.values())
        return self.inward | {cube.UPLINK_EGRESS} if keeps else self.inward

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """One unit per Service, per node and per pod with host ports; this node's: ``("local",)``.

        A pod's unit also has the ifindex of its attachment in its name: see :mod:`.hostports`.
        """
        return dict.fromkeys((*_own_units(change, view), *_units_of(affected(change, view))))

    def plan(self, unit: Unit, view: View) -> Iterable[Entry | Complaint]:
        """Frontends and backends of a Service or a pod, or the addresses of a node."""
        if unit[0] == "service":
            service = view.services.get(unit[1])
            if service is None or not programmed(service):
                return ()
            return chain(
                entries(service, view, self.family),
                complaints.of_service(service, view, self.family),
            )
        if unit[0] == hostports.WORKLOAD:
            port = hostports.port_of(unit, view)
            if port is None or view.local is None:
                return ()
            return dict.fromkeys(hostports.entries(port, view.local, self.family))
        node = view.local if unit[0] == "local" else view.nodes.get(unit[1])
        return [
            Entry("nodes", NodeKey(address), Present(1))
            for address in (node.addresses if node else ())
            if address.version == self.family
        ]

    def refused(self, unit: Unit, view: View) -> Iterable[Entry]:
        """A Service's addresses without its ports. Its old backends may be others' pods by now."""
        service = view.services.get(unit[1]) if unit[0] == "service" else None
        if service is None or not programmed(service):
            return ()
        return refused(service, view, self.family)

    def object_of(self, unit: Unit, view: View) -> tuple[str, str] | None:
        """The Service, the pod whose host ports they are, or the node."""
        workload = unit[0] == hostports.WORKLOAD
        return (Pod.kind, unit[-1]) if workload else super().object_of(unit, view)

    def rejected(self, key: Record, holder: Unit, other: Unit) -> str | Complaint:
        """Who holds an address's port that another Service or pod asks for as well."""
        return complaints.of_contest(key, holder, other) if isinstance(key, FrontendKey) else ""

    def rows(self, noun: str, read: Read, view: View) -> Iterable[Row]:
        """The frontends of Services and host ports, with their backends."""
        return service_rows(read, view)


def _own_units(change: Change, view: View) -> Iterable[Unit]:
    """The units of what has changed, and of what is planned from it."""
    if change.kind == Service.kind:
        return [("service", change.key)]
    if change.kind == EndpointSlice.kind:
        return sorted(_services_of(change))
    if change.kind == Node.kind:
        return [("node", change.key), *_after_move(change, view)]
    if change.kind == Port.kind:
        return hostports.units_of((change.old, change.new))
    if change.kind == LocalNode.kind:
        return [("local",), *_tied_to_this_node(view)]
    return ()


def _units_of(services: Iterable[Service]) -> Iterator[Unit]:
    return (("service", each.key) for each in services)


def _services_of(change: Change) -> set[Unit]:
    slices = [item for item in (change.old, change.new) if isinstance(item, EndpointSlice)]
    return {("service", item.service_key) for item in slices if item.service}


def _after_move(change: Change, view: View) -> Iterator[Unit]:
    """Units of the Services with hints, if this node's zone has changed."""
    if view.local is None or change.key != view.local.name:
        return
    if zone_of(change.old) != zone_of(change.new):
        for service in view.services.values():
            if hinted(service, view):
                yield ("service", service.key)


def _tied_to_this_node(view: View) -> Iterator[Unit]:
    """Units of the Services whose entries name this node's addresses or its endpoints."""
    for service in view.services.values():
        policies = (service.internal_traffic_policy, service.external_traffic_policy)
        exposes = any(port.node_port for port in service.ports)
        if "Local" in policies or exposes or hinted(service, view):
            yield ("service", service.key)
    yield from hostports.units_of(view.ports.values())


@hookimpl
def cubelet_cubes() -> Sequence[type[Cube]]:
    """The one cube of this package."""
    return [Lbrp]
