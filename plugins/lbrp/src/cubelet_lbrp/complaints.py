"""What a Service asks for and does not get, said for those whose Service it is."""

from __future__ import annotations

from collections.abc import Iterator

from cubelet_hooks.addresses import Standing, holding, reserved, unusable
from cubelet_hooks.cube import Complaint, Unit
from cubelet_hooks.objects import Address, EndpointSlice, Pod, Service
from cubelet_hooks.records import Family
from cubelet_hooks.view import View
from cubelet_lbrp.frontends import slices
from cubelet_lbrp.hostports import WORKLOAD
from cubelet_lbrp.records import PROTOCOLS, FrontendKey

_MOST = 5
"""Of a kind that are named: whoever makes objects may make any number of mistakes."""


def of_service(service: Service, view: View, family: Family) -> Iterator[Complaint]:
    """What is wrong with the addresses that a Service names, and with its slices' endpoints."""
    holders = {
        address: holding(address, view)
        for address in service.exposed_ips
        if address.version == family
    }
    refused = [
        f"{_field(address, service)}: {address} is {held.holder}"
        for address, held in holders.items()
        if held.standing is Standing.REFUSED
    ]
    if refused:
        text = f"not served: {_list(refused)}; remedy: name addresses that nobody has"
        yield Complaint(Service.kind, service.key, "AddressRefused", text)
    shared = [each for each, held in holders.items() if held.standing is Standing.SHARED]
    needed = [
        f"{_field(address, service)}: port {port.port}/{port.protocol} of {address} is for {use}"
        for address in shared
        for port in service.ports
        if (use := reserved(address, port.protocol, port.port, view))
    ]
    if needed:
        text = f"not served: {_list(needed)}; remedy: ask for other ports or addresses"
        yield Complaint(Service.kind, service.key, "PortRefused", text)
    for each in slices(service, view):
        yield from _of_slice(each, family)


def _field(address: Address, service: Service) -> str:
    balanced = address in service.load_balancer_ips
    return "status.loadBalancer" if balanced else "spec.externalIPs"


def _list(texts: list[str]) -> str:
    more = f" and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return ", ".join(texts[:_MOST]) + more


def _of_slice(found: EndpointSlice, family: Family) -> Iterator[Complaint]:
    refused = [
        f"{address} is {kind}"
        for endpoint in found.endpoints
        for address in endpoint.addresses
        if address.version == family and (kind := unusable(address))
    ]
    if refused:
        text = (
            f"endpoints: {_list(refused)}: not among the Service's backends; "
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
    kind = Pod.kind if other[0] == WORKLOAD else Service.kind
    return Complaint(kind, other[-1], "PortTaken", text)


def _called(unit: Unit) -> str:
    return f"{'pod' if unit[0] == WORKLOAD else 'Service'} {unit[-1]}"
