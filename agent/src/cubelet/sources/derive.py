"""EndpointSlices for Services that select pods, where no controller makes them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import TypeVar

from cubelet.state.index import Index
from cubelet_hooks.objects import (
    Change,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Pod,
    Service,
    ServicePort,
)

Label = tuple[str, str, str]
"""Namespace, label key, label value."""

V = TypeVar("V")


class EndpointDeriver:
    """Stands between a source and the queue, and adds the slices that the source lacks.

    A Service with a selector and without an EndpointSlice of its own gets ``SERVICE-derived``
    (for IPv6 ``SERVICE-derived-ipv6``). If a named target port has different numbers in different
    pods, there is a slice for each, with the numbers appended. A slice of the source must not have
    such a name and belong to another Service.

    The cost of a change grows with the endpoints of the Services that it concerns.
    """

    def __init__(self) -> None:
        self._pods: dict[str, Pod] = {}
        self._services: dict[str, Service] = {}
        self._own: dict[str, EndpointSlice] = {}
        self._derived: dict[str, dict[str, EndpointSlice]] = {}
        self._pods_by_label = Index[Label, Pod](_labels)
        self._services_by_label = Index[Label, Service](_first_label)
        self._own_by_service = Index[str, EndpointSlice](lambda each: (each.service_key,))

    def apply(self, change: Change) -> list[Change]:
        """The change itself, then those of the derived slices that follow from it."""
        return [change, *(each for key in self._learn(change) for each in self._derive(key))]

    def _learn(self, change: Change) -> Iterable[str]:
        """Take the change in; returns the keys of the Services whose endpoints it may alter."""
        key, new = change.key, change.new
        if change.kind == Pod.kind:
            pods = (self._pods.get(key), new if isinstance(new, Pod) else None)
            self._pods_by_label.replace(*pods)
            _store(self._pods, key, pods[1])
            return sorted({found for pod in pods if pod for found in self._selecting(pod)})
        if change.kind == Service.kind:
            services = (self._services.get(key), new if isinstance(new, Service) else None)
            self._services_by_label.replace(*services)
            _store(self._services, key, services[1])
            return (key,)
        if change.kind == EndpointSlice.kind:
            slices = (self._own.get(key), new if isinstance(new, EndpointSlice) else None)
            self._own_by_service.replace(*slices)
            _store(self._own, key, slices[1])
            return sorted({each.service_key for each in slices if each and each.service})
        return ()

    def _selecting(self, pod: Pod) -> Iterator[str]:
        for label in _labels(pod):
            for service in self._services_by_label.get(label):
                if _selects(service, pod):
                    yield service.key

    def _derive(self, service_key: str) -> Iterator[Change]:
        """Changes to the Service's derived slices: new ones first, so that endpoints never lack."""
        before = self._derived.get(service_key, {})
        after = self._wanted(service_key)
        _store(self._derived, service_key, after or None)
        for key, new in after.items():
            if before.get(key) != new:
                yield Change.between(before.get(key), new)
        for key, old in before.items():
            if key not in after and key not in self._own:
                yield Change.between(old, None)

    def _wanted(self, service_key: str) -> dict[str, EndpointSlice]:
        service = self._services.get(service_key)
        if service is None or not service.selector or service.type == "ExternalName":
            return {}
        if any(self._own_by_service.get(service_key)):
            return {}
        (label,) = _first_label(service)
        pods = [pod for pod in self._pods_by_label.ordered(label) if _selects(service, pod)]
        return {each.key: each for each in derived_slices(service, pods)}


def derived_slices(service: Service, pods: Iterable[Pod]) -> Iterator[EndpointSlice]:
    """The slices that ``pods``, all selected by ``service``, make up.

    As with the endpoint slice controller: finished pods and pods without an address have no
    endpoint, and a pod that lacks a named target port does not serve that port.
    """
    families = {int(address.version) for address in service.cluster_ips} or {4, 6}
    members = [(pod, _resolve(service.ports, pod)) for pod in pods if not pod.finished]
    for family in sorted(families):
        groups: dict[tuple[EndpointPort, ...], list[Endpoint]] = {}
        for pod, ports in members:
            endpoint = _endpoint(service, pod, family)
            if endpoint.addresses and (ports or not service.ports):
                groups.setdefault(ports, []).append(endpoint)
        for ports, endpoints in groups.items():
            yield EndpointSlice(
                namespace=service.namespace,
                name=_slice_name(service, family, ports if len(groups) > 1 else ()),
                service=service.name,
                address_type="IPv4" if family == 4 else "IPv6",
                endpoints=tuple(endpoints),
                ports=ports,
            )


def _endpoint(service: Service, pod: Pod, family: int) -> Endpoint:
    return Endpoint(
        addresses=tuple(address for address in pod.ips if address.version == family),
        ready=service.publish_not_ready or (pod.ready and not pod.terminating),
        serving=pod.ready,
        terminating=pod.terminating,
        node_name=pod.node_name,
        target=pod.key,
    )


def _resolve(ports: Iterable[ServicePort], pod: Pod) -> tuple[EndpointPort, ...]:
    """The Service's ports with the numbers they have in this pod."""
    found = ((port, _target(port, pod)) for port in ports)
    return tuple(EndpointPort(port.name, port.protocol, number) for port, number in found if number)


def _target(port: ServicePort, pod: Pod) -> int | None:
    if isinstance(port.target_port, int):
        return port.target_port
    wanted = (port.target_port, port.protocol)
    return next((each.port for each in pod.ports if (each.name, each.protocol) == wanted), None)


def _slice_name(service: Service, family: int, ports: Iterable[EndpointPort]) -> str:
    suffix = "-ipv6" if family == 6 else ""
    return f"{service.name}-derived{suffix}" + "".join(f"-{each.port}" for each in ports)


def _selects(service: Service, pod: Pod) -> bool:
    return service.namespace == pod.namespace and all(
        pod.labels.get(key) == value for key, value in (service.selector or {}).items()
    )


def _labels(pod: Pod) -> Iterator[Label]:
    return ((pod.namespace, key, value) for key, value in pod.labels.items())


def _first_label(service: Service) -> list[Label]:
    """One label that every selected pod has: enough to find the few candidates."""
    return [(service.namespace, *pair) for pair in sorted((service.selector or {}).items())[:1]]


def _store(table: dict[str, V], key: str, value: V | None) -> None:
    if value is None:
        table.pop(key, None)
    else:
        table[key] = value
