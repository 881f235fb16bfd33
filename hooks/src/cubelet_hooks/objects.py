"""Kubernetes objects as cubes see them: reduced to the fields that a network needs.

All are frozen values with flattened metadata. ``kind`` and ``key`` identify an object: the key is
``namespace/name``, or ``name`` alone for Node, Namespace and LocalNode. Two objects are equal when
nothing that a cube could plan from differs.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network
from typing import Any, ClassVar, Literal

import msgspec

from cubelet_hooks import records, selectors

Address = records.Address
LabelSelector = selectors.LabelSelector
Requirement = selectors.Requirement
Network = IPv4Network | IPv6Network
Protocol = Literal["TCP", "UDP", "SCTP"]
ServiceType = Literal["ClusterIP", "NodePort", "LoadBalancer", "ExternalName"]
TrafficPolicy = Literal["Cluster", "Local"]


class Named(msgspec.Struct, frozen=True):
    """An object that belongs to no namespace."""

    name: str

    @property
    def key(self) -> str:
        """The name."""
        return self.name


class Namespaced(msgspec.Struct, frozen=True):
    """An object within a namespace."""

    namespace: str
    name: str

    @property
    def key(self) -> str:
        """``namespace/name``."""
        return f"{self.namespace}/{self.name}"


class Node(Named, frozen=True):
    """A node; its InternalIP addresses come before its ExternalIP ones.

    ``annotations`` are those that cubes declare in ``Cube.annotations``, and ``cubelet.io/`` ones.
    """

    kind: ClassVar[str] = "Node"

    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    addresses: tuple[Address, ...] = ()
    pod_cidrs: tuple[Network, ...] = ()
    kubelet_port: int = 0
    """Where the API server asks its kubelet; 0: not known."""


class Namespace(Named, frozen=True):
    """A namespace; the label ``kubernetes.io/metadata.name`` is always there.

    ``annotations`` are those that cubes declare in ``Cube.annotations``.
    """

    kind: ClassVar[str] = "Namespace"

    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}


class ContainerPort(msgspec.Struct, frozen=True):
    """A port that a container declares. ``host_port`` 0: none; ``host_ip`` None: any."""

    port: int
    protocol: Protocol = "TCP"
    name: str = ""
    host_port: int = 0
    host_ip: Address | None = None


class Pod(Namespaced, frozen=True):
    """A pod. ``ready`` is its Ready condition, also while ``terminating``.

    ``ips`` are the node's when ``host_network``. ``ports`` are those of all containers that run
    as long as the pod does, in their order.
    """

    kind: ClassVar[str] = "Pod"

    uid: str = ""
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    node_name: str = ""
    host_network: bool = False
    ips: tuple[Address, ...] = ()
    phase: str = "Pending"
    ready: bool = False
    terminating: bool = False
    ports: tuple[ContainerPort, ...] = ()

    @property
    def finished(self) -> bool:
        """Whether all containers have ended for good: its addresses may be another pod's by now."""
        return self.phase in ("Succeeded", "Failed")


class ServicePort(msgspec.Struct, frozen=True):
    """A port of a Service. ``target_port`` is a number or a container port's name.

    ``node_port`` 0: none.
    """

    name: str
    protocol: Protocol
    port: int
    target_port: int | str
    node_port: int = 0


class Service(Namespaced, frozen=True):
    """A Service. ``selector`` None: Kubernetes makes no EndpointSlices for it.

    ``load_balancer_ips`` are the load balancer's addresses of ``ipMode: VIP`` alone, and
    ``source_ranges`` (none: all) who may ask there. ``affinity_timeout`` is in seconds and counts
    with ``session_affinity`` ClientIP only. ``created`` is in seconds since 1970, None where nobody
    says, as in most manifests.
    """

    kind: ClassVar[str] = "Service"

    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    type: ServiceType = "ClusterIP"
    cluster_ips: tuple[Address, ...] = ()
    external_ips: tuple[Address, ...] = ()
    load_balancer_ips: tuple[Address, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    selector: Mapping[str, str] | None = None
    session_affinity: Literal["None", "ClientIP"] = "None"
    affinity_timeout: int = 10800
    internal_traffic_policy: TrafficPolicy = "Cluster"
    external_traffic_policy: TrafficPolicy = "Cluster"
    publish_not_ready: bool = False
    health_check_node_port: int = 0
    source_ranges: tuple[Network, ...] = ()
    created: int | None = None

    @property
    def exposed_ips(self) -> tuple[Address, ...]:
        """Where it is to be asked for beyond its ClusterIPs, whoever else has these addresses."""
        return self.external_ips + self.load_balancer_ips

    @property
    def headless(self) -> bool:
        """Whether it has no cluster address: ``clusterIP: None``, or none was assigned."""
        return self.type != "ExternalName" and not self.cluster_ips


class Endpoint(msgspec.Struct, frozen=True):
    """One backend. ``target`` is the pod's key, empty when it is no pod.

    Its hints name the zones and nodes whose traffic should go to it.
    """

    addresses: tuple[Address, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node_name: str = ""
    target: str = ""
    zone: str = ""
    hint_zones: tuple[str, ...] = ()
    hint_nodes: tuple[str, ...] = ()


class EndpointPort(msgspec.Struct, frozen=True):
    """A port that every endpoint of the slice serves; ``name`` is the Service port's."""

    name: str
    protocol: Protocol
    port: int


class EndpointSlice(Namespaced, frozen=True):
    """A part of a Service's endpoints. ``service`` is the Service's name, empty if none.

    A slice of address type FQDN has no endpoints here, and ports without a number are left out.
    ``for_proxies`` is False for a slice whose own labels keep it from whoever serves Services: it
    is that of a headless Service, or another proxy's.
    """

    kind: ClassVar[str] = "EndpointSlice"

    service: str = ""
    address_type: Literal["IPv4", "IPv6", "FQDN"] = "IPv4"
    endpoints: tuple[Endpoint, ...] = ()
    ports: tuple[EndpointPort, ...] = ()
    for_proxies: bool = True

    @property
    def service_key(self) -> str:
        """Key of the Service whose endpoints these are; empty if none."""
        return f"{self.namespace}/{self.service}" if self.service else ""


class PolicyPeer(msgspec.Struct, frozen=True):
    """An allowed peer: either ``cidr`` minus ``excepts``, or pods by selectors.

    With ``namespace_selector`` None the pods are those of the policy's own namespace; with
    ``pod_selector`` None they are all pods of the selected namespaces.
    """

    pod_selector: LabelSelector | None = None
    namespace_selector: LabelSelector | None = None
    cidr: Network | None = None
    excepts: tuple[Network, ...] = ()


class PolicyPort(msgspec.Struct, frozen=True):
    """Ports ``port`` to ``end_port``, or one port by number or name, or all (None)."""

    protocol: Protocol = "TCP"
    port: int | str | None = None
    end_port: int | None = None


class PolicyRule(msgspec.Struct, frozen=True):
    """Allows ``ports`` of ``peers``; an empty tuple stands for all."""

    peers: tuple[PolicyPeer, ...] = ()
    ports: tuple[PolicyPort, ...] = ()


class NetworkPolicy(Namespaced, frozen=True):
    """A NetworkPolicy. A direction that is None is not isolated; an empty one denies all."""

    kind: ClassVar[str] = "NetworkPolicy"

    pod_selector: LabelSelector = LabelSelector()
    ingress: tuple[PolicyRule, ...] | None = None
    egress: tuple[PolicyRule, ...] | None = None


class ConfigMap(Namespaced, frozen=True):
    """A ConfigMap's texts by key; binary data is left out."""

    kind: ClassVar[str] = "ConfigMap"

    data: Mapping[str, str] = {}


class HostPort(msgspec.Struct, frozen=True):
    """A port of the node that leads to a pod's ``container_port``.

    ``host_ip`` None: at every address of the node; 0.0.0.0 or ``::``: at those of its family.
    """

    port: int
    container_port: int
    protocol: Protocol = "TCP"
    host_ip: Address | None = None


class Port(Namespaced, frozen=True):
    """A pod's attachment on this node, made by CNI; namespace and name are the pod's.

    ``ifindex`` and ``host_ifname`` are the host side's; ``ifname`` and ``mac`` the pod side's.
    MAC addresses are written ``aa:bb:cc:dd:ee:ff``. The port that was attached first has the lower
    ``ifindex``, since the kernel counts upwards.
    """

    kind: ClassVar[str] = "Port"

    container_id: str
    ifname: str
    netns: str
    host_ifname: str
    ifindex: int
    mac: str
    host_mac: str
    addresses: tuple[Address, ...]
    mtu: int
    uid: str = ""
    host_ports: tuple[HostPort, ...] = ()


class Nic(msgspec.Struct, frozen=True):
    """A NIC by which packets leave the node, under ``address``."""

    ifindex: int
    mac: str
    address: Address


class LocalNode(Named, frozen=True):
    """The node this agent runs on, as its devices are.

    ``addresses`` are the node's; ``gateway`` is the first address of ``pod_cidr``, on the host
    end of the gateway pair, whose other end is the datapath's. ``vxlan_port`` is the overlay's
    UDP port, ``broadcasts`` are the broadcast addresses of the uplinks' networks. Tunnels' packets
    come from ``tunnel_source`` (None: as the kernel chooses). ``further_uplinks`` are the NICs
    beside the main one, which has the default route or the node's address; packets leave that one
    under ``uplink_address`` (None: the first of ``addresses``). Of the kernel's tables
    it has the addresses ``held`` by any device but ours, the networks that are ``onlink`` there,
    and the ``next_hops`` of routes. ``api_servers`` are where the agent reaches the API server,
    address and port, ``service_cidrs`` the cluster's Service ranges.
    """

    kind: ClassVar[str] = "LocalNode"

    addresses: tuple[Address, ...]
    pod_cidr: Network
    gateway: Address
    gateway_mac: str
    gateway_ifindex: int
    datapath_ifindex: int
    overlay_ifindex: int
    uplink_ifindex: int
    uplink_mac: str
    uplink_mtu: int
    overlay_mtu: int
    router_mac: str
    vxlan_port: int = 4789
    held: tuple[Address, ...] = ()
    onlink: tuple[Network, ...] = ()
    next_hops: tuple[Address, ...] = ()
    api_servers: tuple[tuple[Address, int], ...] = ()
    service_cidrs: tuple[Network, ...] = ()
    broadcasts: tuple[Address, ...] = ()
    further_uplinks: tuple[Nic, ...] = ()
    tunnel_source: Address | None = None
    uplink_address: Address | None = None

    @property
    def uplinks(self) -> tuple[Nic, ...]:
        """All NICs by which packets leave the node, the main one first."""
        address = self.uplink_address or self.addresses[0]
        main = Nic(self.uplink_ifindex, self.uplink_mac, address)
        return (main, *self.further_uplinks)


class Custom(msgspec.Struct, frozen=True):
    """An object of a kind in some ``Cube.watches``; ``namespace`` is empty for one without.

    ``spec`` is as in the manifest, nested mappings and tuples of plain values, all read-only.
    ``generation`` counts its changes; 0 where no API server counts them.
    """

    kind: str
    namespace: str
    name: str
    labels: Mapping[str, str] = {}
    annotations: Mapping[str, str] = {}
    spec: Mapping[str, Any] = {}
    generation: int = 0

    @property
    def key(self) -> str:
        """``namespace/name``, or the name alone."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


Object = (
    Node
    | Namespace
    | Pod
    | Service
    | EndpointSlice
    | NetworkPolicy
    | ConfigMap
    | Port
    | LocalNode
    | Custom
)
BUILT_IN = frozenset(
    each.kind
    for each in (
        *(Node, Namespace, Pod, Service, EndpointSlice, NetworkPolicy, ConfigMap),
        *(Port, LocalNode),
    )
)
"""The kinds that every cube sees, and that no cube can declare as its own."""


class Change(msgspec.Struct, frozen=True):
    """An object added (``old`` None), removed (``new`` None) or replaced."""

    kind: str
    key: str
    old: Object | None = None
    new: Object | None = None

    @property
    def gone(self) -> Object | None:
        """The object that is no more: it was removed, or another one has its name.

        A pod is another one if its UID is, an attachment if its device is.
        """
        if self.old is None or (self.new is not None and _same(self.old, self.new)):
            return None
        return self.old

    @classmethod
    def between(cls, old: Object | None, new: Object | None) -> Change:
        """The change from ``old`` to ``new``, at least one of which must be an object."""
        known = new if new is not None else old
        if known is None:
            raise ValueError("a change needs an object before or after it")
        return cls(known.kind, known.key, old, new)


def _same(old: Object, new: Object) -> bool:
    if isinstance(old, Port) and isinstance(new, Port):
        return old.ifindex == new.ifindex
    if isinstance(old, Pod) and isinstance(new, Pod):
        return old.uid == new.uid
    return True
