"""Reading of Services and EndpointSlices."""

from __future__ import annotations

from typing import Literal

from cubelet.sources.cluster import PROTOCOLS
from cubelet.sources.fields import MAX_PORT, Field
from cubelet_hooks.objects import (
    Address,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Service,
    ServicePort,
    ServiceType,
    TrafficPolicy,
)

SERVICE_LABEL = "kubernetes.io/service-name"
_NOT_FOR_PROXIES = frozenset(
    ("service.kubernetes.io/headless", "service.kubernetes.io/service-proxy-name")
)
"""Labels of slices that kube-proxy does not watch, whatever their values (KEP-2447)."""

_TYPES: tuple[ServiceType, ...] = ("ClusterIP", "NodePort", "LoadBalancer", "ExternalName")
_AFFINITIES: tuple[Literal["None", "ClientIP"], ...] = ("None", "ClientIP")
_POLICIES: tuple[TrafficPolicy, ...] = ("Cluster", "Local")
_ADDRESS_TYPES: tuple[Literal["IPv4", "IPv6", "FQDN"], ...] = ("IPv4", "IPv6", "FQDN")
_IP_MODES: tuple[Literal["VIP", "Proxy"], ...] = ("VIP", "Proxy")
_AFFINITY_TIMEOUT = 10800
_LONGEST_AFFINITY = 86400


def read_service(root: Field, namespace: str, name: str) -> Service:
    """Read a Service; fields that do not apply to its type (such as a node port) are left out."""
    metadata, spec = root["metadata"], root["spec"]
    type_ = spec["type"].choice(_TYPES, "ClusterIP")
    balanced = type_ == "LoadBalancer"
    client = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
    return Service(
        namespace=namespace,
        name=name,
        labels=metadata["labels"].strings(),
        annotations=metadata["annotations"].strings(),
        type=type_,
        cluster_ips=_cluster_ips(spec) if type_ != "ExternalName" else (),
        external_ips=spec["externalIPs"].each(Field.address),
        load_balancer_ips=_load_balancer_ips(root["status"]) if balanced else (),
        ports=_service_ports(spec, type_),
        selector=spec["selector"].strings() or None,
        session_affinity=spec["sessionAffinity"].choice(_AFFINITIES, "None"),
        affinity_timeout=client.number(1, _LONGEST_AFFINITY, default=_AFFINITY_TIMEOUT),
        internal_traffic_policy=spec["internalTrafficPolicy"].choice(_POLICIES, "Cluster"),
        external_traffic_policy=spec["externalTrafficPolicy"].choice(_POLICIES, "Cluster"),
        publish_not_ready=spec["publishNotReadyAddresses"].flag(),
        health_check_node_port=(
            spec["healthCheckNodePort"].number(0, MAX_PORT, default=0) if balanced else 0
        ),
        source_ranges=(spec["loadBalancerSourceRanges"].each(Field.network) if balanced else ()),
        created=metadata["creationTimestamp"].time(),
    )


def _cluster_ips(spec: Field) -> tuple[Address, ...]:
    """The cluster addresses; none for a headless Service, whose ``clusterIP`` is ``None``."""
    one, several = spec["clusterIP"], spec["clusterIPs"]
    found = tuple(each.address() for each in several.items() if each.value != "None")
    if one.value == "None" or not one.text():
        return found
    first = one.address()
    if found and found[0] != first:
        raise one.error(f"must be the first of clusterIPs, {found[0]}, is {first}")
    return found or (first,)


def _load_balancer_ips(status: Field) -> tuple[Address, ...]:
    """Addresses to serve here; those of ``ipMode: Proxy`` must reach the proxy (KEP-1860)."""
    return tuple(
        each["ip"].address()
        for each in status["loadBalancer"]["ingress"].items()
        if each["ip"].text() and each["ipMode"].choice(_IP_MODES, "VIP") == "VIP"
    )


def _service_ports(spec: Field, type_: ServiceType) -> tuple[ServicePort, ...]:
    exposed = type_ in ("NodePort", "LoadBalancer")
    ports = spec["ports"].each(lambda each: _service_port(each, exposed))
    if not ports and type_ != "ExternalName" and spec["clusterIP"].value != "None":
        raise spec["ports"].error("is required: at least one port")
    names: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    for field, port in zip(spec["ports"].items(), ports, strict=True):
        if len(ports) > 1 and not port.name:
            raise field["name"].error("is required where there are several ports")
        if port.name in names:
            raise field["name"].error(f"{port.name} is the name of two ports")
        if (port.protocol, port.port) in numbers:
            raise field["port"].error(f"{port.protocol} port {port.port} is there twice")
        names.add(port.name)
        numbers.add((port.protocol, port.port))
    return ports


def _service_port(field: Field, exposed: bool) -> ServicePort:
    port = field["port"].port()
    node_port = field["nodePort"].number(0, MAX_PORT, default=0)
    target = field["targetPort"]
    return ServicePort(
        name=field["name"].text(),
        protocol=field["protocol"].choice(PROTOCOLS, "TCP"),
        port=port,
        target_port=port if target.value in (None, 0, "") else target.port_or_name(),
        node_port=node_port if exposed else 0,
    )


def read_slice(root: Field, namespace: str, name: str) -> EndpointSlice:
    """Read an EndpointSlice; absent conditions get the API's defaults."""
    address_type = root["addressType"].choice(_ADDRESS_TYPES)
    endpoints = root["endpoints"].each(lambda each: _endpoint(each, namespace, address_type))
    ports = root["ports"].each(_endpoint_port)
    labels = root["metadata"]["labels"].strings()
    return EndpointSlice(
        namespace=namespace,
        name=name,
        service=labels.get(SERVICE_LABEL, ""),
        address_type=address_type,
        endpoints=endpoints if address_type != "FQDN" else (),
        ports=tuple(port for port in ports if port is not None),
        for_proxies=not labels.keys() & _NOT_FOR_PROXIES,
    )


def _endpoint(field: Field, namespace: str, address_type: str) -> Endpoint:
    conditions, target = field["conditions"], field["targetRef"]
    ready = conditions["ready"].flag(default=True)
    addresses = field["addresses"]
    if not addresses.value:
        raise addresses.error("is required: at least one address")
    return Endpoint(
        addresses=(
            addresses.each(lambda each: _address_of(each, address_type))
            if address_type != "FQDN"
            else ()
        ),
        ready=ready,
        serving=conditions["serving"].flag(default=ready),
        terminating=conditions["terminating"].flag(),
        node_name=field["nodeName"].text(),
        target=(
            f"{target['namespace'].text() or namespace}/{target['name'].text(None)}"
            if target["kind"].value == "Pod"
            else ""
        ),
        zone=field["zone"].text(),
        hint_zones=field["hints"]["forZones"].each(_hinted),
        hint_nodes=field["hints"]["forNodes"].each(_hinted),
    )


def _hinted(field: Field) -> str:
    return field["name"].text(None)


def _address_of(field: Field, address_type: str) -> Address:
    address = field.address()
    if f"IPv{address.version}" != address_type:
        raise field.error(f"must be an {address_type} address, is {address}")
    return address


def _endpoint_port(field: Field) -> EndpointPort | None:
    name = field["name"].text()
    protocol = field["protocol"].choice(PROTOCOLS, "TCP")
    return EndpointPort(name, protocol, field["port"].port()) if field["port"].given else None
