"""The frontends of a Service, and the map entries for them and their backends."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import islice
from typing import Any, NamedTuple

from cubelet_hooks.addresses import Holding, Standing, holding, reserved
from cubelet_hooks.cube import Entry, Rank
from cubelet_hooks.objects import EndpointSlice, Network, Node, Protocol, Service, ServicePort
from cubelet_hooks.records import Address, Family
from cubelet_hooks.view import View
from cubelet_lbrp.endpoints import BackendSet, Here, Numbers, Served, select
from cubelet_lbrp.records import (
    PROTOCOLS,
    Backend,
    BackendKey,
    Frontend,
    FrontendKey,
    MemberKey,
    Precedence,
    Present,
    Scope,
    Shared,
    SourceKey,
)

FOREIGN_PROXY = "service.kubernetes.io/service-proxy-name"
HEADLESS = "service.kubernetes.io/headless"
LOOPBACK = ip_address("127.0.0.1")
"""Where the node alone asks for its own ports."""
ZONE = "topology.kubernetes.io/zone"
_VIRTUAL = Frontend(set_id=0, count=0, elsewhere=0)
_STAND_INS = 8
_NEWEST = 2**63
"""When an object was made of which nobody says when it was."""


@dataclass(frozen=True)
class Place:
    """An address and port of a Service in one scope; ``local`` is its traffic policy there."""

    address: Address
    port: int
    scope: Scope
    local: bool
    rank: Rank
    """Who has the port, if others ask for it too."""
    shared: Shared = Shared.NOBODY
    """Which sockets of the node's may have the number, too."""
    ranges: int = 0
    """The number of the networks whose clients are served; 0: everyone's are."""
    sticky: int = 0
    """Seconds for which a client keeps its backend; 0: it is chosen for each flow."""
    group: int = 0
    """The key of remembered backends, the same for all places of a Service's port."""


def programmed(service: Service) -> bool:
    """Whether the Service has virtual addresses that are ours to serve."""
    ignored = service.labels.keys() & {FOREIGN_PROXY, HEADLESS}
    return service.type != "ExternalName" and not service.headless and not ignored


def slices(service: Service, view: View) -> tuple[EndpointSlice, ...]:
    """The Service's slices that are for us."""
    return tuple(each for each in view.slices_of(service.key) if each.for_proxies)


def exposed(service: Service) -> bool:
    """Whether packets that enter by the uplink can reach the Service."""
    external = service.external_ips or service.load_balancer_ips
    return programmed(service) and bool(external or any(p.node_port for p in service.ports))


def keeps_clients(service: Service, view: View) -> bool:
    """Whether clients from outside must keep their addresses up to a backend on the host's network.

    That is what externalTrafficPolicy Local asks for.
    """
    if service.external_traffic_policy != "Local" or not exposed(service) or view.local is None:
        return False
    endpoints = (each for item in slices(service, view) for each in item.endpoints)
    return any(address in view.local.addresses for e in endpoints for address in e.addresses[:1])


def sticky(service: Service) -> bool:
    """Whether the Service has session affinity."""
    return service.session_affinity == "ClientIP" and programmed(service)


def entries(service: Service, view: View, family: Family) -> Iterator[Entry]:
    """All entries of one Service. Ports that lead to the same endpoints share their sets."""
    local = view.local
    served = Served(slices(service, view), family)
    known: dict[Numbers, dict[bool, BackendSet]] = {}
    written: set[int] = set()
    yield from _virtual_addresses(service, view, family)
    exposed = tuple(_exposed(service, view, family))
    for port in service.ports:
        numbers = served.numbers(port)
        if numbers not in known:
            found = served.candidates(numbers)
            # An empty name is no node's: without a node of ours nothing is local.
            known[numbers] = {
                False: select(found, here=here_of(view)),
                True: select(found, local.name if local else ""),
            }
        for place in _places(service, port, exposed, view):
            if place.address.version == family:
                backends = known[numbers][place.local]
                yield frontend_entry(place, port.protocol, backends)
                if backends.id not in written:
                    written.add(backends.id)
                    yield from backend_entries(backends)
    yield from _sources(service.source_ranges, family)


def refused(service: Service, view: View, family: Family) -> Iterator[Entry]:
    """What stands for a Service that is not served: whoever asks for it is told at once.

    Of many addresses some: what stands for others is beyond shares, and must be little.
    """
    return islice(_virtual_addresses(service, view, family), _STAND_INS)


def here_of(view: View) -> Here:
    """This node and its zone, by Kubernetes' label for zones."""
    if view.local is None:
        return Here()
    node = view.nodes.get(view.local.name)
    return Here(view.local.name, zone_of(node))


def zone_of(node: object) -> str:
    """A node's zone; empty if it has none, or if the object is no Node."""
    return node.labels.get(ZONE, "") if isinstance(node, Node) else ""


def hinted(service: Service, view: View) -> bool:
    """Whether some endpoint has hints, so that the Service's backends depend on the node."""
    endpoints = (each for item in slices(service, view) for each in item.endpoints)
    return any(each.hint_zones or each.hint_nodes for each in endpoints)


def rank_of(asked_as: Precedence, service: Service) -> Rank:
    """By what an object's port is asked for as, then the older object: nobody chooses its age."""
    return (asked_as, _NEWEST if service.created is None else service.created)


def asked_at(
    service: Service, port: ServicePort, own: tuple[Address, ...]
) -> Iterator[tuple[Precedence, Address, int]]:
    """Where a Service's port is asked for, whoever has it; ``own`` are the node's addresses."""
    for address in service.cluster_ips:
        yield Precedence.CLUSTER_IP, address, port.port
    for address in own if port.node_port else ():
        yield Precedence.NODE_PORT, address, port.node_port
    for asked_as, addresses, _ in _asked_beyond(service):
        for address in addresses:
            yield asked_as, address, port.port


def _places(
    service: Service, port: ServicePort, exposed: Iterable[_Exposed], view: View
) -> Iterator[Place]:
    affinity = _affinity(service, port)
    own = view.local.addresses if view.local else ()
    for address in service.cluster_ips:
        local = service.internal_traffic_policy == "Local"
        rank = rank_of(Precedence.CLUSTER_IP, service)
        yield Place(address, port.port, Scope.INSIDE, local, rank, **affinity)
    if port.node_port:
        rank = rank_of(Precedence.NODE_PORT, service)
        yield Place(LOOPBACK, port.node_port, Scope.NODE, False, rank, **affinity)
        for address in own:
            yield from _both_scopes(service, address, port.node_port, rank=rank, **affinity)
    for each in exposed:
        free, address = each.held.standing is Standing.FREE, each.address
        if free or not reserved(address, port.protocol, port.port, view):
            fields = {
                "rank": rank_of(each.asked_as, service),
                "ranges": each.ranges,
                "shared": _shared(each.asked_as, each.held),
            }
            yield from _both_scopes(service, address, port.port, **fields, **affinity)


def _shared(asked_as: Precedence, held: Holding) -> Shared:
    """An external IP is named by who writes the Service, a load balancer's by its controller."""
    if not held.here:
        return Shared.NOBODY
    return Shared.YIELDS if asked_as is Precedence.EXTERNAL else Shared.CLIENTS


class _Exposed(NamedTuple):
    """An address beyond the Service's own that it may have; ``ranges`` is :class:`Place`'s."""

    asked_as: Precedence
    address: Address
    ranges: int
    held: Holding


def _exposed(service: Service, view: View, family: Family) -> Iterator[_Exposed]:
    for asked_as, addresses, ranges in _asked_beyond(service):
        for address in addresses:
            held = holding(address, view)
            if address.version == family and held.standing is not Standing.REFUSED:
                yield _Exposed(asked_as, address, ranges, held)


def _asked_beyond(service: Service) -> tuple[tuple[Precedence, tuple[Address, ...], int], ...]:
    return (
        (Precedence.LOAD_BALANCER, service.load_balancer_ips, _number_of(service.source_ranges)),
        (Precedence.EXTERNAL, service.external_ips, 0),
    )


def _both_scopes(service: Service, address: Address, number: int, **fields: Any) -> Iterator[Place]:
    yield Place(address, number, Scope.INSIDE, False, **fields)
    local = service.external_traffic_policy == "Local"
    yield Place(address, number, Scope.OUTSIDE, local, **fields)


def _affinity(service: Service, port: ServicePort) -> dict[str, Any]:
    """The fields for session affinity of the port's places."""
    if not sticky(service):
        return {}
    group = _number(f"{service.key} {port.protocol} {port.port}")
    return {"sticky": service.affinity_timeout, "group": group}


def frontend_entry(place: Place, protocol: Protocol, backends: BackendSet) -> Entry:
    """The entry that sends a place's packets to a set of backends."""
    key = FrontendKey(place.address, place.port, PROTOCOLS[protocol], place.scope)
    value = Frontend(
        backends.id,
        len(backends.chosen),
        int(backends.elsewhere),
        place.shared,
        place.ranges,
        place.group,
        place.sticky,
        int(place.local and place.scope is Scope.OUTSIDE),
    )
    return Entry("services", key, value, place.rank)


def backend_entries(backends: BackendSet) -> Iterator[Entry]:
    """The entries of a set, the same for every frontend that uses it."""
    set_id = backends.id
    for index, found in enumerate(backends.chosen):
        backend = Backend(found.address, found.port)
        yield Entry("backends", BackendKey(set_id, index), backend)
    for found in backends.chosen:
        yield Entry("members", MemberKey(set_id, found.address, found.port), Present(1))


def _sources(networks: tuple[Network, ...], family: Family) -> Iterator[Entry]:
    """The entries of the allowed client networks; a family without any has no allowed clients."""
    number = _number_of(networks)
    for network in networks:
        if network.version == family:
            bits = SourceKey.bits(family, network.prefixlen)
            yield Entry("sources", SourceKey(bits, number, network.network_address), Present(1))


def _number_of(networks: tuple[Network, ...]) -> int:
    """A 64-bit hash of the networks, 0 for none: Services with equal ones share their entries."""
    if not networks:
        return 0
    return _number(" ".join(sorted(map(str, networks))))


def _number(text: str) -> int:
    """A 64-bit hash of a text."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _virtual_addresses(service: Service, view: View, family: Family) -> Iterator[Entry]:
    """Marks the addresses of which the Service has all ports, those too that nobody asks for."""
    for address in service.cluster_ips:
        if address.version == family:
            yield Entry("services", FrontendKey(address, 0, 0, Scope.INSIDE), _VIRTUAL)
    for address in dict.fromkeys(service.exposed_ips):
        if address.version == family and holding(address, view).standing is Standing.FREE:
            for scope in (Scope.INSIDE, Scope.OUTSIDE):
                yield Entry("services", FrontendKey(address, 0, 0, scope), _VIRTUAL)
