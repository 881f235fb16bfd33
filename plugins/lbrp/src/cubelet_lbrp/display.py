"""The rows of ``cubelet get services``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from cubelet_hooks.cube import Rank, Read, Row
from cubelet_hooks.objects import Address, Port
from cubelet_hooks.view import View
from cubelet_lbrp.frontends import asked_at, programmed, rank_of
from cubelet_lbrp.hostports import claims, own_addresses
from cubelet_lbrp.records import PROTOCOLS, Backend, BackendKey, Frontend, FrontendKey, Scope

Asked = tuple[Address, int, int]
"""Destination address, port and protocol number of a packet to a Service."""


def service_rows(read: Read, view: View) -> Iterator[Row]:
    """A row for each frontend: ``name`` is the Service's, or ``pod/NAME`` for a pod's host port.
    ``affinity`` is how many seconds a client keeps its backend; None: only for a flow.

    Entries that only mark an address as virtual are left out.
    """
    owners = _owners(view)
    frontends: Mapping[FrontendKey, Frontend] = read("services")
    backends: Mapping[BackendKey, Backend] = read("backends")
    for key, frontend in frontends.items():
        if not key.port:
            continue
        # The owner is unknown while a deleted Service's entries are being removed.
        namespace, _, name = owners.get((key.address, key.port, key.protocol), "").partition("/")
        chosen = (backends.get(BackendKey(frontend.set_id, i)) for i in range(frontend.count))
        yield {
            "namespace": namespace or None,
            "name": name or None,
            "address": key.address,
            "port": key.port,
            "protocol": key.protocol,
            "scope": Scope(key.scope),
            "affinity": frontend.sticky or None,
            "backends": [_place(backend) for backend in chosen if backend is not None],
        }


def _owners(view: View) -> dict[Asked, str]:
    """The keys of Services, and of pods marked as such, by where they are asked for."""
    nodes = own_addresses(view.local)
    owners: dict[Asked, str] = {}
    for pod in sorted(view.ports.values(), key=lambda each: each.ifindex):
        for address, protocol, number in claims(pod, nodes):
            owners.setdefault((address, number, PROTOCOLS[protocol]), _pod_name(pod))
    return owners | {asked: key for asked, (_, key) in _winners(view, nodes).items()}


def _winners(view: View, nodes: tuple[Address, ...]) -> dict[Asked, tuple[Rank, str]]:
    """The Services that have each place, by the order in which the planner gives it away."""
    best: dict[Asked, tuple[Rank, str]] = {}
    for service in filter(programmed, view.services.values()):
        for port in service.ports:
            for asked_as, address, number in asked_at(service, port, nodes):
                asked = (address, number, PROTOCOLS[port.protocol])
                bid = (rank_of(asked_as, service), service.key)
                best[asked] = min(best.get(asked, bid), bid)
    return best


def _pod_name(pod: Port) -> str:
    return f"{pod.namespace}/pod/{pod.name}"


def _place(backend: Backend) -> str:
    host = f"[{backend.address}]" if backend.address.version == 6 else str(backend.address)
    return f"{host}:{backend.port}"
