"""The agent's state of the cluster: the one place where objects are kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import chain
from types import MappingProxyType
from typing import Any

from cubelet.state.index import Index
from cubelet.state.prefixes import Addresses, Networks
from cubelet_hooks.objects import (
    Address,
    Change,
    ConfigMap,
    Custom,
    EndpointSlice,
    LocalNode,
    Namespace,
    Network,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    Port,
    Service,
)


class State:
    """Implements ``cubelet_hooks.view.View``; changed by ``apply`` alone.

    The cost of an update grows with the size of the object, not with that of the cluster.
    """

    def __init__(self) -> None:
        self._local: dict[str, LocalNode] = {}
        self._nodes: dict[str, Node] = {}
        self._namespaces: dict[str, Namespace] = {}
        self._pods: dict[str, Pod] = {}
        self._services: dict[str, Service] = {}
        self._slices: dict[str, EndpointSlice] = {}
        self._policies: dict[str, NetworkPolicy] = {}
        self._config_maps: dict[str, ConfigMap] = {}
        self._ports: dict[str, Port] = {}
        self._tables: dict[str, dict[str, Any]] = {
            LocalNode.kind: self._local,
            Node.kind: self._nodes,
            Namespace.kind: self._namespaces,
            Pod.kind: self._pods,
            Service.kind: self._services,
            EndpointSlice.kind: self._slices,
            NetworkPolicy.kind: self._policies,
            ConfigMap.kind: self._config_maps,
            Port.kind: self._ports,
        }
        self._customs: dict[str, dict[str, Any]] = {}
        self.followers: list[Callable[[Change], None]] = []
        """Called with each change that was taken in."""
        self._slices_by_service = Index[str, EndpointSlice](_service)
        self._pods_by_namespace = Index[str, Pod](_namespace)
        self._pods_by_node = Index[str, Pod](_node_name)
        self._pods_by_ip = Index[Address, Pod](_ips)
        self._policies_by_namespace = Index[str, NetworkPolicy](_namespace)
        self._nodes_by_address = Index[Address, Node](_node_addresses)
        self._nodes_by_cidr = Networks[Node](_pod_cidrs)
        self._services_by_address = Index[Address, Service](_service_addresses)
        self._exposed = Addresses[Service](_exposed_ips)
        self._indexes: dict[str, tuple[Any, ...]] = {
            EndpointSlice.kind: (self._slices_by_service,),
            Pod.kind: (self._pods_by_namespace, self._pods_by_node, self._pods_by_ip),
            NetworkPolicy.kind: (self._policies_by_namespace,),
            Node.kind: (self._nodes_by_address, self._nodes_by_cidr),
            Service.kind: (self._services_by_address, self._exposed),
        }

    def apply(self, change: Change) -> Change | None:
        """Take in ``change.new``, or remove the object when that is None.

        Returns the change from the object known here (``change.old`` is not read), or None if the
        two are equal. Raises ValueError for an unknown kind.
        """
        table = self._tables.get(change.kind)
        if table is None:
            if not isinstance(change.new or change.old, Custom):
                raise ValueError(f"unknown kind of object: {change.kind}")
            table = self._customs.setdefault(change.kind, {})
        old, new = table.get(change.key), change.new
        if old == new:
            return None
        if new is None:
            del table[change.key]
        else:
            table[change.key] = new
        for index in self._indexes.get(change.kind, ()):
            index.replace(old, new)
        taken = Change(change.kind, change.key, old, new)
        for follow in self.followers:
            follow(taken)
        return taken

    def __iter__(self) -> Iterator[Object]:
        """All objects, kind by kind."""
        tables = (*self._tables.values(), *self._customs.values())
        return chain.from_iterable(table.values() for table in tables)

    @property
    def local(self) -> LocalNode | None:
        """This node's own devices and addresses; None until they are set up."""
        return next(iter(self._local.values()), None)

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All nodes by name."""
        return MappingProxyType(self._nodes)

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """All declared namespaces by name."""
        return MappingProxyType(self._namespaces)

    @property
    def pods(self) -> Mapping[str, Pod]:
        """All pods by key."""
        return MappingProxyType(self._pods)

    @property
    def services(self) -> Mapping[str, Service]:
        """All Services by key."""
        return MappingProxyType(self._services)

    @property
    def policies(self) -> Mapping[str, NetworkPolicy]:
        """All NetworkPolicies by key."""
        return MappingProxyType(self._policies)

    @property
    def slices(self) -> Mapping[str, EndpointSlice]:
        """All EndpointSlices by key."""
        return MappingProxyType(self._slices)

    @property
    def ports(self) -> Mapping[str, Port]:
        """The pods attached on this node by the pod's key."""
        return MappingProxyType(self._ports)

    @property
    def config_maps(self) -> Mapping[str, ConfigMap]:
        """The ConfigMaps that the source knows, by key; no cube plans from them."""
        return MappingProxyType(self._config_maps)

    def nodes_at(self, address: Address) -> tuple[Node, ...]:
        """The nodes that have this address, ordered by name."""
        return self._nodes_by_address.ordered(address)

    def nodes_around(self, address: Address) -> tuple[Node, ...]:
        """The nodes in whose podCIDRs the address is, the narrowest first."""
        return tuple(self._nodes_by_cidr.around(address))

    def services_at(self, address: Address) -> tuple[Service, ...]:
        """The Services that name this address, whatever as, ordered by key."""
        return self._services_by_address.ordered(address)

    def exposed_services(self) -> Iterable[Service]:
        """The Services that name addresses beyond their ClusterIPs, in no particular order."""
        return iter(self._exposed)

    def services_exposed_in(self, network: Network) -> Iterable[Service]:
        """Those of them with such an address in the network, each once or more."""
        return self._exposed.within(network)

    def custom(self, kind: str) -> Mapping[str, Custom]:
        """All objects of a kind of a cube's own by key; none of a kind that is not watched."""
        return MappingProxyType(self._customs.get(kind, {}))

    def slices_of(self, service_key: str) -> tuple[EndpointSlice, ...]:
        """The Service's EndpointSlices, ordered by key."""
        return self._slices_by_service.ordered(service_key)

    def pods_in(self, namespace: str) -> Iterable[Pod]:
        """The namespace's pods, in no particular order."""
        return self._pods_by_namespace.get(namespace)

    def pods_on(self, node_name: str) -> Iterable[Pod]:
        """The pods that are bound to a node, attached or not, in no particular order."""
        return self._pods_by_node.get(node_name)

    def policies_in(self, namespace: str) -> Iterable[NetworkPolicy]:
        """The namespace's NetworkPolicies, in no particular order."""
        return self._policies_by_namespace.get(namespace)

    def pods_by_ip(self, address: Address) -> tuple[Pod, ...]:
        """The pods with this address, finished ones too, ordered by key."""
        return self._pods_by_ip.ordered(address)


def _namespace(found: Pod | NetworkPolicy) -> tuple[str]:
    return (found.namespace,)


def _node_name(pod: Pod) -> tuple[str, ...]:
    return (pod.node_name,) if pod.node_name else ()


def _ips(pod: Pod) -> tuple[Address, ...]:
    return pod.ips


def _service(found: EndpointSlice) -> tuple[str, ...]:
    return (found.service_key,) if found.service else ()


def _node_addresses(node: Node) -> tuple[Address, ...]:
    return node.addresses


def _pod_cidrs(node: Node) -> tuple[Network, ...]:
    return node.pod_cidrs


def _service_addresses(service: Service) -> Iterable[Address]:
    return dict.fromkeys((*service.cluster_ips, *service.exposed_ips))


def _exposed_ips(service: Service) -> tuple[Address, ...]:
    return service.exposed_ips
