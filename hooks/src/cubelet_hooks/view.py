"""The read-only view of the cluster that a cube plans from."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Protocol

from cubelet_hooks.objects import (
    Address,
    Custom,
    EndpointSlice,
    LocalNode,
    Namespace,
    Network,
    NetworkPolicy,
    Node,
    Pod,
    Port,
    Service,
)


class View(Protocol):
    """The agent's state, read-only. Mappings go from an object's key to the object.

    The cost of a lookup grows with what it returns, not with the size of the cluster.
    """

    @property
    def local(self) -> LocalNode | None:
        """This node's own devices and addresses; None until they are set up."""

    @property
    def nodes(self) -> Mapping[str, Node]:
        """All nodes, this one included."""

    @property
    def namespaces(self) -> Mapping[str, Namespace]:
        """All Namespace objects; there may be pods whose namespace has none."""

    @property
    def pods(self) -> Mapping[str, Pod]:
        """The pods of all nodes."""

    @property
    def services(self) -> Mapping[str, Service]:
        """All Services, headless and ExternalName ones too."""

    @property
    def policies(self) -> Mapping[str, NetworkPolicy]:
        """All NetworkPolicies."""

    @property
    def slices(self) -> Mapping[str, EndpointSlice]:
        """All EndpointSlices, also those without a Service."""

    @property
    def ports(self) -> Mapping[str, Port]:
        """The pods attached on this node, by the pod's key."""

    def nodes_at(self, address: Address) -> tuple[Node, ...]:
        """The nodes that have this address, ordered by name."""

    def nodes_around(self, address: Address) -> tuple[Node, ...]:
        """The nodes in whose podCIDRs the address is, the narrowest first."""

    def services_at(self, address: Address) -> tuple[Service, ...]:
        """The Services that name this address, whatever as, ordered by key."""

    def exposed_services(self) -> Iterable[Service]:
        """The Services that name addresses beyond their ClusterIPs, in no particular order."""

    def services_exposed_in(self, network: Network) -> Iterable[Service]:
        """Those of them with such an address in the network, each once or more."""

    def custom(self, kind: str) -> Mapping[str, Custom]:
        """All objects of a kind that a composed cube watches; none of any other."""

    def slices_of(self, service_key: str) -> tuple[EndpointSlice, ...]:
        """The Service's EndpointSlices, ordered by key."""

    def pods_in(self, namespace: str) -> Iterable[Pod]:
        """The namespace's pods, in no particular order."""

    def pods_on(self, node_name: str) -> Iterable[Pod]:
        """The pods that are bound to a node, attached or not, in no particular order."""

    def policies_in(self, namespace: str) -> Iterable[NetworkPolicy]:
        """The namespace's NetworkPolicies, in no particular order."""

    def pods_by_ip(self, address: Address) -> tuple[Pod, ...]:
        """The pods with this address, ordered by key: pods on a node's host network share its own.

        Finished pods are among them, though their address may be another pod's by now.
        """
