"""Whose an address is, and so what a Service may be asked for at beyond its ClusterIPs.

Whoever may write a Service may name any address as external IP, and who assigns load balancers'
addresses may err. What is somebody's own stays theirs:

* no Service is asked for at what no host has (loopback, multicast...), at pods', at ClusterIPs, at
  routers', and at the API server's address,
* at a node's address, and at one of a network that nodes are connected to, a Service has its own
  ports and nothing else; some ports of nodes are the cluster's own,
* an address that is nobody's is the Service's as a whole.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from cubelet_hooks.objects import (
    Address,
    Change,
    EndpointSlice,
    LocalNode,
    Network,
    Node,
    Protocol,
    Service,
)
from cubelet_hooks.view import View

API_SERVICE = "default/kubernetes"
"""The Service, and the EndpointSlice, that the API server keeps for itself."""
_THIS_NETWORK = IPv4Network("0.0.0.0/8")
_RESERVED = IPv4Network("240.0.0.0/4")
_ORDINARY = frozenset(range(1, 224)) - {127, 169}
"""First octets of IPv4 addresses with nothing special among them: of most, asked for often."""


class Standing(enum.Enum):
    """How much of an address a Service may have."""

    FREE = "free"
    """Nobody has it: all of it is the Service's."""
    SHARED = "shared"
    """Somebody has it, and keeps all ports but the Service's."""
    REFUSED = "refused"
    """Somebody has it, or nobody can: none of it is the Service's."""


@dataclass(frozen=True)
class Holding:
    """Who has an address: ``holder`` in words, empty for nobody; ``here``: this node itself.

    ``node`` says that it is some node's by its Node object, whose other ports are that node's.
    """

    standing: Standing
    holder: str = ""
    here: bool = False
    node: bool = False


_FREE = Holding(Standing.FREE)


def unusable(address: Address) -> str:
    """What kind of address it is, if it is one that no host or pod can be reached by from others.

    By the rules of the API server for endpoints, and what no router forwards besides.
    """
    if isinstance(address, IPv4Address) and int(address) >> 24 in _ORDINARY:
        return ""
    if address.is_unspecified or (isinstance(address, IPv4Address) and address in _THIS_NETWORK):
        return "an unspecified address"
    if address.is_loopback:
        return "a loopback address"
    if address.is_link_local:
        return "a link-local address"
    if address.is_multicast:
        return "a multicast address"
    if isinstance(address, IPv4Address) and address in _RESERVED:
        return "a reserved or broadcast address"
    return ""


def holding(address: Address, view: View) -> Holding:
    """Who has an address that a Service names beyond its ClusterIPs."""
    nodes = view.nodes_at(address)
    if refused := _refusal(address, view, bool(nodes)):
        return Holding(Standing.REFUSED, refused)
    local = view.local
    held = local is not None and (address in local.held or address in local.addresses)
    if nodes:
        return Holding(Standing.SHARED, f"node {nodes[0].name}'s", held, node=True)
    if held:
        return Holding(Standing.SHARED, "this node's", here=True)
    for network in local.onlink if local else ():
        if address in network:
            return Holding(Standing.SHARED, f"in the network {network} that nodes are connected to")
    return _FREE


def _refusal(address: Address, view: View, is_nodes: bool) -> str:
    """Why no port of the address can be had; '' if some can."""
    if kind := unusable(address):
        return kind
    if nodes := view.nodes_around(address):
        return f"in the podCIDR of node {nodes[0].name}"
    local = view.local
    if local is not None and address in local.pod_cidr:
        return f"in the podCIDR of node {local.name}"
    for service in view.services_at(address):
        if address in service.cluster_ips:
            return f"the ClusterIP of Service {service.key}"
    for network in local.service_cidrs if local else ():
        if address in network:
            return f"in the cluster's Service range {network}"
    if is_nodes:
        return ""
    if any(address == each for each, _ in api_servers(view)):
        return "the API server's"
    if local is not None and address in local.next_hops:
        return "a router's, which this node's routes lead to"
    return ""


def reserved(address: Address, protocol: Protocol, port: int, view: View) -> str:
    """What a shared address's port is for, if it is one that the cluster cannot do without."""
    if protocol == "TCP" and (address, port) in set(api_servers(view)):
        return "the API server"
    nodes = view.nodes_at(address)
    own = view.local is not None and address in view.local.addresses
    if not nodes and not own:
        return ""
    if view.local is not None and protocol == "UDP" and port == view.local.vxlan_port:
        return "the overlay between nodes"
    if protocol == "TCP" and any(port == node.kubelet_port for node in nodes):
        return "the node's kubelet"
    return ""


def api_servers(view: View) -> Iterator[tuple[Address, int]]:
    """Where API servers are reached, by this node's agent and by what they say themselves.

    They keep one slice, and no other counts: who may make slices may label them like it.
    """
    if view.local is not None:
        yield from view.local.api_servers
    found = view.slices.get(API_SERVICE)
    for endpoint in found.endpoints if found else ():
        for address in endpoint.addresses:
            for port in found.ports if found else ():
                yield address, port.port


def affected(change: Change, view: View) -> Iterable[Service]:
    """The Services with addresses whose holders the change may have altered; their own excepted."""
    old, new = change.old, change.new
    if change.kind == Service.kind:
        return _at(set(_cluster_ips(old)) ^ set(_cluster_ips(new)), view)
    if change.kind == Node.kind:
        return _near(old, new, view)
    if change.kind == EndpointSlice.kind and change.key == API_SERVICE:
        return _at({*_endpoints(old), *_endpoints(new)}, view)
    if change.kind == LocalNode.kind:
        return view.exposed_services()
    return ()


def _cluster_ips(found: object) -> tuple[Address, ...]:
    return found.cluster_ips if isinstance(found, Service) else ()


def _endpoints(found: object) -> Iterator[Address]:
    for endpoint in found.endpoints if isinstance(found, EndpointSlice) else ():
        yield from endpoint.addresses


def _at(addresses: Iterable[Address], view: View) -> Iterator[Service]:
    for address in addresses:
        for service in view.services_at(address):
            if address in service.exposed_ips:
                yield service


def _near(old: object, new: object, view: View) -> Iterator[Service]:
    """The Services at a node's addresses and in its podCIDRs, as it is and as it was."""
    nodes = [each for each in (old, new) if isinstance(each, Node)]
    told = {(each.addresses, each.pod_cidrs, each.kubelet_port) for each in nodes}
    if len(told) < len(nodes):
        return
    yield from _at({address for each in nodes for address in each.addresses}, view)
    cidrs: set[Network] = {cidr for each in nodes for cidr in each.pod_cidrs}
    for cidr in cidrs:
        yield from view.services_exposed_in(cidr)
