"""Fast reading of the most numerous kinds: pods and EndpointSlices.

Their JSON is decoded straight into typed structs, without unused fields. An object that does not
fit raises a ``ValueError`` or a msgspec error: then the slow readers read it, which know the
exceptions and can name the field at fault. Both read an object that fits alike.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address, IPv6Address, ip_address
from sys import intern
from typing import Annotated, Generic, Literal, TypeVar

import msgspec

from cubelet.sources.fields import MAX_PORT, PORT_NAME, SUBDOMAIN
from cubelet.sources.services import SERVICE_LABEL
from cubelet_hooks.objects import (
    Address,
    ContainerPort,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Pod,
    Protocol,
)

Raw = bytes | msgspec.Raw
T = TypeVar("T")
_Name = Annotated[str, msgspec.Meta(pattern=rf"\A{SUBDOMAIN.pattern}\Z", max_length=253)]
_Namespace = Annotated[str, msgspec.Meta(pattern=rf"\A{SUBDOMAIN.pattern}\Z", max_length=63)]
_PortName = Annotated[str, msgspec.Meta(pattern=rf"\A{PORT_NAME.pattern}\Z", max_length=15)]
_PortNumber = Annotated[int, msgspec.Meta(ge=1, le=MAX_PORT)]
_NOTHING = (b"", b"null")
_POOLED = 4096


class _Wire(msgspec.Struct, rename="camel", gc=False):
    """Part of a document, alive while it is read."""


class _Metadata(_Wire):
    name: _Name
    namespace: _Namespace = "default"
    uid: str | None = None
    labels: msgspec.Raw = msgspec.Raw(b"")
    annotations: msgspec.Raw = msgspec.Raw(b"")
    deletion_timestamp: msgspec.Raw = msgspec.Raw(b"")


class _Conditions(_Wire):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _Target(_Wire):
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None


class _Hint(_Wire):
    name: Annotated[str, msgspec.Meta(min_length=1)]


class _Hints(_Wire):
    for_zones: list[_Hint] | None = None
    for_nodes: list[_Hint] | None = None


class _Endpoint(_Wire):
    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    conditions: _Conditions | None = None
    node_name: str | None = None
    target_ref: _Target | None = None
    zone: str | None = None
    hints: _Hints | None = None


class _EndpointPort(_Wire):
    name: str | None = None
    protocol: Protocol | None = None
    port: _PortNumber | None = None


class _Slice(_Wire):
    metadata: _Metadata
    address_type: Literal["IPv4", "IPv6"]
    endpoints: list[_Endpoint] | None = None
    ports: list[_EndpointPort] | None = None


class _ContainerPort(_Wire):
    container_port: _PortNumber
    protocol: Protocol | None = None
    name: _PortName | None = None
    host_port: Annotated[int, msgspec.Meta(ge=0, le=MAX_PORT)] | None = None
    host_ip: str | None = msgspec.field(default=None, name="hostIP")


class _Container(_Wire):
    ports: list[_ContainerPort] | None = None
    restart_policy: str | None = None


class _Condition(_Wire):
    type: str | None = None
    status: str | None = None


class _PodIp(_Wire):
    ip: str


class _PodSpec(_Wire):
    node_name: str | None = None
    host_network: bool | None = None
    containers: list[_Container] | None = None
    init_containers: list[_Container] | None = None


class _PodStatus(_Wire):
    phase: str | None = None
    conditions: list[_Condition] | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: list[_PodIp] | None = msgspec.field(default=None, name="podIPs")


class _Pod(_Wire):
    metadata: _Metadata
    spec: _PodSpec | None = None
    status: _PodStatus | None = None


_SLICES = msgspec.json.Decoder(_Slice)
_PODS = msgspec.json.Decoder(_Pod)
_STRINGS = msgspec.json.Decoder(dict[str, str])
_NO_SPEC, _NO_STATUS, _NO_CONDITIONS = _PodSpec(), _PodStatus(), _Conditions()


class Pool(Generic[T]):
    """Shares equal values: pods of one workload have the same labels and ports.

    Lists are ordered by namespace and name, so pods that are alike are read in a row, and the pool
    is simply emptied when it is full.
    """

    def __init__(self) -> None:
        self._values: dict[object, T] = {}

    def get(self, key: object) -> T | None:
        """The value stored under the key."""
        return self._values.get(key)

    def add(self, key: object, value: T) -> T:
        """Store the value, and return it."""
        if len(self._values) >= _POOLED:
            self._values.clear()
        self._values[key] = value
        return value


def read_slice(raw: Raw) -> EndpointSlice:
    """Read an EndpointSlice."""
    wire = _SLICES.decode(raw)
    namespace = intern(wire.metadata.namespace)
    address: type[Address] = IPv4Address if wire.address_type == "IPv4" else IPv6Address
    labels = _strings(wire.metadata.labels)
    return EndpointSlice(
        namespace=namespace,
        name=wire.metadata.name,
        service=labels.get(SERVICE_LABEL, ""),
        address_type=wire.address_type,
        endpoints=tuple([_endpoint(each, namespace, address) for each in wire.endpoints or ()]),
        ports=tuple(
            [
                EndpointPort(intern(each.name or ""), each.protocol or "TCP", each.port)
                for each in wire.ports or ()
                if each.port is not None
            ]
        ),
    )


def _endpoint(wire: _Endpoint, namespace: str, address: type[Address]) -> Endpoint:
    conditions, target = wire.conditions or _NO_CONDITIONS, wire.target_ref
    ready = conditions.ready is not False
    return Endpoint(
        addresses=tuple([_address(text, address) for text in wire.addresses]),
        ready=ready,
        serving=ready if conditions.serving is None else conditions.serving,
        terminating=conditions.terminating is True,
        node_name=intern(wire.node_name or ""),
        target=_pod_key(target, namespace) if target and target.kind == "Pod" else "",
        zone=intern(wire.zone or ""),
        hint_zones=_hinted(wire.hints.for_zones) if wire.hints else (),
        hint_nodes=_hinted(wire.hints.for_nodes) if wire.hints else (),
    )


def _hinted(hints: list[_Hint] | None) -> tuple[str, ...]:
    return tuple([intern(each.name) for each in hints or ()])


def _pod_key(target: _Target, namespace: str) -> str:
    if not target.name:
        raise ValueError("a target without a name")
    return f"{target.namespace or namespace}/{target.name}"


def _address(text: str, address: type[Address]) -> Address:
    if "%" in text:
        raise ValueError("an address with a zone")
    return address(text)


class PodReader:
    """Reads pods: those of the node ``own`` in full, others with the fields that policies use."""

    def __init__(self, own: str) -> None:
        self._own = own
        self._labels = Pool[dict[str, str]]()
        self._ports = Pool[tuple[ContainerPort, ...]]()

    def read(self, raw: Raw) -> Pod:
        """Read a pod."""
        wire = _PODS.decode(raw)
        metadata, spec, status = wire.metadata, wire.spec or _NO_SPEC, wire.status or _NO_STATUS
        own = spec.node_name == self._own
        phase = intern(status.phase or "Pending")
        return Pod(
            namespace=intern(metadata.namespace),
            name=metadata.name,
            uid=(metadata.uid or "") if own else "",
            labels=self._pooled_labels(bytes(metadata.labels)),
            annotations=_strings(metadata.annotations) if own else {},
            node_name=intern(spec.node_name or ""),
            host_network=spec.host_network is True,
            ips=_pod_ips(status),
            phase=phase,
            ready=_ready(status, phase),
            terminating=bytes(metadata.deletion_timestamp) not in _NOTHING,
            ports=self._pooled_ports(spec),
        )

    def _pooled_labels(self, raw: bytes) -> dict[str, str]:
        found = self._labels.get(raw)
        return self._labels.add(raw, _strings(raw)) if found is None else found

    def _pooled_ports(self, spec: _PodSpec) -> tuple[ContainerPort, ...]:
        ports = tuple([_container_port(each) for each in _lasting_ports(spec)])
        found = self._ports.get(ports)
        return self._ports.add(ports, ports) if found is None else found


def _lasting_ports(spec: _PodSpec) -> Iterator[_ContainerPort]:
    """Ports of the containers, then of the init containers that never end."""
    for container in spec.containers or ():
        yield from container.ports or ()
    for container in spec.init_containers or ():
        if container.restart_policy == "Always":
            yield from container.ports or ()


def _container_port(wire: _ContainerPort) -> ContainerPort:
    return ContainerPort(
        port=wire.container_port,
        protocol=wire.protocol or "TCP",
        name=wire.name or "",
        host_port=wire.host_port or 0,
        host_ip=_any_address(wire.host_ip) if wire.host_ip else None,
    )


def _pod_ips(status: _PodStatus) -> tuple[Address, ...]:
    if status.pod_ips:
        return tuple([_any_address(each.ip) for each in status.pod_ips])
    return (_any_address(status.pod_ip),) if status.pod_ip else ()


def _any_address(text: str) -> Address:
    if "%" in text:
        raise ValueError("an address with a zone")
    return ip_address(text)


def _ready(status: _PodStatus, phase: str) -> bool:
    """The last Ready condition; a pod without any conditions is ready when it is running."""
    if not status.conditions:
        return phase == "Running"
    found = {each.type: each.status for each in status.conditions}
    return found.get("Ready") == "True"


def _strings(raw: Raw) -> dict[str, str]:
    return {} if bytes(raw) in _NOTHING else _STRINGS.decode(raw)
