"""Tells load balancers which nodes have endpoints of a Service: ``healthCheckNodePort``.

A Service whose external traffic policy is Local is served only by nodes with endpoints of its own.
On each node an HTTP server at the Service's health check port says whether it is one of them, as
kube-proxy does and whatever path is asked for: https://kubernetes.io/docs/tutorials/services/source-ip
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import structlog

from cubelet.daemon.crowd import Crowd
from cubelet.daemon.http import Why
from cubelet_hooks.objects import Address, Network, Service
from cubelet_hooks.view import View

if TYPE_CHECKING:
    from aiohttp import web

log = structlog.get_logger()
_PAUSE = 0.2
"""Seconds between two looks at all Services."""
_RETRY = 5.0
"""Seconds until an address that could not be bound is tried again."""
Place = tuple[Address, int]


def wanted(view: View, networks: Sequence[Network]) -> Mapping[Place, str]:
    """The Services with such a port, by the node's addresses within the networks, and the port."""
    if view.local is None:
        return {}
    ours = [each for each in view.local.addresses if any(each in net for net in networks)]
    return {
        (address, service.health_check_node_port): service.key
        for service in tuple(view.services.values())  # passes change them meanwhile
        if _has_port(service)
        for address in ours
        if address.version in {each.version for each in service.cluster_ips}
    }


def _has_port(service: Service) -> bool:
    return bool(service.health_check_node_port) and service.external_traffic_policy == "Local"


def local_endpoints(key: str, view: View) -> int:
    """How many endpoints of the Service are on this node and ready; terminating ones are not."""
    here = view.local.name if view.local else None
    return len(
        {
            endpoint.target or endpoint.addresses
            for each in view.slices_of(key)
            if each.for_proxies
            for endpoint in each.endpoints
            if endpoint.node_name == here and endpoint.ready
        }
    )


class ServiceHealth:
    """Serves the health check ports of all Services at this node's addresses in ``networks``.

    ``unready`` says why the agent serves nobody, if it does not. :meth:`run` follows the Services,
    :meth:`look` has it look at them soon. ``problems`` are those of ports that others hold.
    """

    def __init__(self, view: View, networks: Sequence[Network], unready: Why) -> None:
        self._view = view
        self._networks = networks
        self._unready = unready
        self._due = asyncio.Event()
        self._open: dict[Place, tuple[str, asyncio.Server]] = {}
        self._failed: dict[Place, str] = {}

    @property
    def problems(self) -> Iterable[str]:
        """Which Services have no server, and why."""
        return tuple(self._failed.values())

    def look(self) -> None:
        """Look at the Services: they may have changed."""
        self._due.set()

    async def run(self) -> None:
        """Open and close servers until cancelled."""
        try:
            while True:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._due.wait(), _RETRY if self._failed else None)
                self._due.clear()
                await self.follow()
                await asyncio.sleep(_PAUSE)
        finally:
            for place in tuple(self._open):
                self._close(place)

    async def follow(self) -> None:
        """Have the servers that the Services ask for now, and no others."""
        asked = wanted(self._view, self._networks)
        for place, (key, _) in tuple(self._open.items()):
            if asked.get(place) != key:
                self._close(place)
        failed: dict[Place, str] = {}
        for place in asked.keys() - self._open.keys():
            try:
                await self._serve(place, asked[place])
            except OSError as error:
                failed[place] = (
                    f"Service {asked[place]}: its health check port {place[1]} at {place[0]} "
                    f"cannot be served: {error.strerror}; remedy: end what holds the port"
                )
        for each in failed.values():
            if each not in self._failed.values():
                log.warning("no health check", problem=each)
        self._failed = failed

    async def _serve(self, place: Place, key: str) -> None:
        from aiohttp import web

        make = Crowd().guarded(web.Server(partial(self._answer, key)))
        loop = asyncio.get_running_loop()
        server = await loop.create_server(make, str(place[0]), place[1], reuse_address=True)
        self._open[place] = key, server

    def _close(self, place: Place) -> None:
        self._open.pop(place)[1].close()

    async def _answer(self, key: str, request: web.BaseRequest) -> web.Response:
        from aiohttp import web

        del request  # whatever is asked for
        namespace, _, name = key.partition("/")
        count, healthy = local_endpoints(key, self._view), not self._unready()
        body = {
            "service": {"namespace": namespace, "name": name},
            "localEndpoints": count,
            "serviceProxyHealthy": healthy,
        }
        return web.Response(
            status=200 if count and healthy else 503,
            content_type="application/json",
            body=json.dumps(body).encode(),
            headers={
                "X-Content-Type-Options": "nosniff",
                "X-Load-Balancing-Endpoint-Weight": str(count),
            },
        )
