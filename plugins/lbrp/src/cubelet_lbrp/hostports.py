"""Pods' host ports: frontends at this node's addresses, each with one backend.

A host port comes after whatever a Service asks for: were it not so, whoever may run a pod could
take over a NodePort (CVE-2019-9946). Of pods the one that was attached first has it, by the order
of their units; when it goes, the next one does.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from cubelet_hooks.cube import Entry, Unit
from cubelet_hooks.objects import Address, HostPort, LocalNode, Port, Protocol
from cubelet_hooks.records import Family
from cubelet_hooks.view import View
from cubelet_lbrp.endpoints import BackendSet, Candidate, Condition
from cubelet_lbrp.frontends import LOOPBACK, Place, backend_entries, frontend_entry
from cubelet_lbrp.records import Precedence, Scope, Shared

WORKLOAD = "workload"
"""Begins the units of pods."""
_SCOPES = {False: (Scope.INSIDE, Scope.OUTSIDE), True: (Scope.NODE,)}
"""Who may ask: at 127.0.0.1 the node alone."""
Claim = tuple[Address, Protocol, int]
"""An address of the node and a port of a protocol, which one pod at most can have."""


def unit_of(port: Port) -> Unit:
    """The unit of a pod's host ports; units of earlier attachments sort first."""
    return (WORKLOAD, f"{port.ifindex:010}", port.key)


def units_of(ports: Iterable[object]) -> list[Unit]:
    """The units of those among the objects that are ports with host ports."""
    return [unit_of(each) for each in ports if isinstance(each, Port) and each.host_ports]


def port_of(unit: Unit, view: View) -> Port | None:
    """The port of a unit; None once it is detached, or attached again."""
    port = view.ports.get(unit[-1])
    return port if port is not None and unit_of(port) == unit else None


def entries(port: Port, local: LocalNode, family: Family) -> Iterator[Entry]:
    """The frontends and backends of a pod's host ports; nothing without an address of the family.

    They are asked for from outside and from within alike; at 127.0.0.1 by the node alone.
    """
    address = next((each for each in port.addresses if each.version == family), None)
    if address is None:
        return
    for (asked, protocol, number), wanted in claims(port, own_addresses(local)).items():
        if asked.version == family:
            candidate = Candidate(address, wanted.container_port, Condition.READY, local.name)
            backends = BackendSet(chosen=(candidate,))
            for scope in _SCOPES[asked.is_loopback]:
                rank = (Precedence.HOST_PORT, 0)
                place = Place(asked, number, scope, False, rank, Shared.CLIENTS)
                yield frontend_entry(place, protocol, backends)
            yield from backend_entries(backends)


def own_addresses(local: LocalNode | None) -> tuple[Address, ...]:
    """The addresses by which the node's ports can be asked for."""
    return (*local.addresses, LOOPBACK) if local else ()


def claims(port: Port, own: Iterable[Address]) -> dict[Claim, HostPort]:
    """The claims of a pod's host ports on the node's ``own`` addresses; the first of equal ones.

    A host IP that is not the node's is ignored: with it a pod could take over others' traffic.
    """
    found: dict[Claim, HostPort] = {}
    for address in own:
        for each in port.host_ports:
            if _covers(each.host_ip, address):
                found.setdefault((address, each.protocol, each.port), each)
    return found


def _covers(host_ip: Address | None, address: Address) -> bool:
    if host_ip is None or host_ip == address:
        return True
    return host_ip.is_unspecified and host_ip.version == address.version
