"""Reading of Nodes, Namespaces, Pods and ConfigMaps."""

from __future__ import annotations

from itertools import chain

from cubelet.sources.fields import MAX_PORT, Field
from cubelet_hooks.objects import (
    Address,
    ConfigMap,
    ContainerPort,
    Namespace,
    Network,
    Node,
    Pod,
    Protocol,
)

PROTOCOLS: tuple[Protocol, ...] = ("TCP", "UDP", "SCTP")
NAME_LABEL = "kubernetes.io/metadata.name"
_NODE_ADDRESS_TYPES = ("InternalIP", "ExternalIP")


def read_node(root: Field, _namespace: str, name: str) -> Node:
    """Read a Node; host names among its addresses are left out."""
    metadata, status = root["metadata"], root["status"]
    found = status["addresses"].each(_node_address)
    return Node(
        name=name,
        labels=metadata["labels"].strings(),
        annotations=metadata["annotations"].strings(),
        addresses=tuple(
            address
            for wanted in _NODE_ADDRESS_TYPES
            for type_, address in found
            if address is not None and type_ == wanted
        ),
        pod_cidrs=_pod_cidrs(root["spec"]),
        kubelet_port=_kubelet_port(status),
    )


def _kubelet_port(status: Field) -> int:
    port = status["daemonEndpoints"]["kubeletEndpoint"]["Port"]
    return port.number(0, MAX_PORT, default=0)


def _node_address(field: Field) -> tuple[str, Address | None]:
    type_ = field["type"].text(None)
    return type_, field["address"].address() if type_ in _NODE_ADDRESS_TYPES else None


def _pod_cidrs(spec: Field) -> tuple[Network, ...]:
    several = spec["podCIDRs"].each(Field.network)
    if spec["podCIDR"].text():
        first = spec["podCIDR"].network()
        if several and several[0] != first:
            raise spec["podCIDR"].error(f"must be the first of podCIDRs, {several[0]}")
        return several or (first,)
    return several


def read_namespace(root: Field, _namespace: str, name: str) -> Namespace:
    """Read a Namespace; it gets the name label that the API server would set."""
    metadata = root["metadata"]
    return Namespace(
        name=name,
        labels={NAME_LABEL: name, **metadata["labels"].strings()},
        annotations=metadata["annotations"].strings(),
    )


def read_config_map(root: Field, namespace: str, name: str) -> ConfigMap:
    """Read a ConfigMap."""
    return ConfigMap(namespace=namespace, name=name, data=root["data"].strings())


def read_pod(root: Field, namespace: str, name: str) -> Pod:
    """Read a Pod; one that has no conditions at all is ready when it is running."""
    metadata, spec, status = root["metadata"], root["spec"], root["status"]
    phase = status["phase"].text() or "Pending"
    conditions = dict(
        status["conditions"].each(lambda each: (each["type"].text(), each["status"].text()))
    )
    return Pod(
        namespace=namespace,
        name=name,
        uid=metadata["uid"].text(),
        labels=metadata["labels"].strings(),
        annotations=metadata["annotations"].strings(),
        node_name=spec["nodeName"].text(),
        host_network=spec["hostNetwork"].flag(),
        ips=_pod_ips(status),
        phase=phase,
        ready=conditions.get("Ready") == "True" if conditions else phase == "Running",
        terminating=metadata["deletionTimestamp"].given,
        ports=_ports(spec),
    )


def _pod_ips(status: Field) -> tuple[Address, ...]:
    several = status["podIPs"].each(lambda each: each["ip"].address())
    if not several and status["podIP"].text():
        return (status["podIP"].address(),)
    return several


def _ports(spec: Field) -> tuple[ContainerPort, ...]:
    """Ports of the containers, then of the sidecars: init containers that never end (KEP-753)."""
    containers = spec["containers"].each(_container_ports)
    sidecars = spec["initContainers"].each(
        lambda each: _container_ports(each) if each["restartPolicy"].value == "Always" else ()
    )
    return tuple(chain.from_iterable(containers + sidecars))


def _container_ports(container: Field) -> tuple[ContainerPort, ...]:
    return container["ports"].each(_container_port)


def _container_port(field: Field) -> ContainerPort:
    return ContainerPort(
        port=field["containerPort"].port(),
        protocol=field["protocol"].choice(PROTOCOLS, "TCP"),
        name=field["name"].port_name() if field["name"].text() else "",
        host_port=field["hostPort"].number(0, MAX_PORT, default=0),
        host_ip=field["hostIP"].address() if field["hostIP"].text() else None,
    )
