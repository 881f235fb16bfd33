"""What a Service asks for and does not get, said for those whose Service it is."""

from __future__ import annotations

from collections.abc import Iterator

from cubelet_hooks.addresses import Standing, holding, reserved, unusable
from cubelet_hooks.cube import Complaint, Unit
from cubelet_hooks.objects import Address, EndpointSlice, Pod, Service
from cubelet_hooks.records import Family
from cubelet_hooks.view import View
from cubelet_lbrp.hostports import WORKLOAD
from cubelet_lbrp.records import PROTOCOLS, FrontendKey

_MOST = 5
"""Endpoints of a slice that are named."""


def of_service(service: Service, view: View, family: Family) -> Iterator[Complaint]:
    """What is wrong with the addresses that a Service names, and with its slices' endpoints."""
    for address in dict.fromkeys(service.exposed_ips):
        if address.version == family:
            yield from _of_address(address, service, view)
    for each in view.slices_of(service.key):
        yield from _of_slice(each, family)


def _of_address(address: Address, service: Service, view: View) -> Iterator[Complaint]:
    field = "spec.externalIPs"
    if address in service.load_balancer_ips:
        field = "status.loadBalancer"
    held = holding(address, view)
    if held.standing is Standing.REFUSED:
        text = (
            f"{field}: {address} is not served: it is {held.holder}; "
            "remedy: name an address that nobody has"
        )
        yield Complaint(Service.kind, service.key, "AddressRefused", text)
    if held.standing is not Standing.SHARED:
        return
    for port in service.ports:
        if use := reserved(address, port.protocol, port.port, view):
            text = (
                f"{field}: port {port.port}/{port.protocol} of {address} is not served: "
                f"it is for {use}; remedy: ask for another port or address"
            )
            yield Complaint(Service.kind, service.key, "PortRefused", text)


def _of_slice(found: EndpointSlice, family: Family) -> Iterator[Complaint]:
    refused = [
        f"{address} is {kind}"
        for endpoint in found.endpoints
        for address in endpoint.addresses
        if address.version == family and (kind := unusable(address))
    ]
    if refused:
        more = f" and {len(refused) - _MOST} more" if len(refused) > _MOST else ""
        text = (
            f"endpoints: {', '.join(refused[:_MOST])}{more}: not among the Service's backends; "
            "remedy: name the addresses that pods or hosts are reached at"
        )
        yield Complaint(EndpointSlice.kind, found.key, "EndpointRefused", text)


def of_contest(key: FrontendKey, holder: Unit, other: Unit) -> Complaint:
    """Says what ``other`` does not get, because ``holder`` has it, and what to do about it."""
    name = next(name for name, number in PROTOCOLS.items() if number == key.protocol)
    text = (
        f"port {key.port}/{name} of {key.address} is held by {_called(holder)}; "
        "remedy: ask for another port or address, or remove that one"
    )
    return Complaint(_kind(other), other[-1], "PortTaken", text)


def _kind(unit: Unit) -> str:
    return Pod.kind if unit[0] == WORKLOAD else Service.kind


def _called(unit: Unit) -> str:
    return f"{'pod' if unit[0] == WORKLOAD else 'Service'} {unit[-1]}"
