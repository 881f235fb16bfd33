"""The agent's HTTP servers: ``/livez`` and ``/readyz`` for probes, and ``/metrics``."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cubelet.config.node import Settings, SettingsError
from cubelet.daemon.crowd import Crowd

if TYPE_CHECKING:
    from aiohttp import web

    from cubelet.metrics.page import Page

Why = Callable[[], str]
"""Gives the reason why a probe fails; '' if it succeeds."""
Handler = Callable[["web.Request"], Awaitable["web.Response"]]


@dataclass(frozen=True)
class Site:
    """Handlers by path, and their ADDRESS:PORT with the name of the setting it comes from."""

    setting: str
    address: str
    handlers: Mapping[str, Handler]


async def serve(stack: AsyncExitStack, sites: Iterable[Site]) -> None:
    """Answer until the stack is left. Sites of one address share one server.

    Clients that are silent or many keep nobody out, see :mod:`.crowd`.
    Raises SettingsError for a malformed address, OSError if it cannot be bound.
    """
    servers: dict[tuple[str, int], dict[str, Handler]] = {}
    for site in sites:
        servers.setdefault(split_address(site.setting, site.address), {}).update(site.handlers)
    for (host, port), handlers in servers.items():
        from aiohttp import web

        app = web.Application()
        app.add_routes([web.get(path, handler) for path, handler in handlers.items()])
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        assert runner.server is not None  # it is set up
        make = Crowd().guarded(runner.server)
        loop = asyncio.get_running_loop()
        server = await loop.create_server(make, host, port, reuse_address=True)
        stack.callback(server.close)


def sites(settings: Settings, unalive: Why, unready: Why, page: Callable[[], Page]) -> list[Site]:
    """The sites that the settings ask for; ``page`` is called only if metrics are served."""
    found = []
    if settings.health is not None:
        found.append(Site("health", settings.health, probes(unalive, unready)))
    if settings.metrics is not None:
        found.append(Site("metrics", settings.metrics, metrics(page())))
    return found


def split_address(setting: str, text: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:9879`` or ``[::1]:9879``. Raises SettingsError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SettingsError(f"{setting}: {text!r} is not ADDRESS:PORT, such as 127.0.0.1:9879")
    return host.strip("[]"), int(port)


def probes(unalive: Why, unready: Why) -> Mapping[str, Handler]:
    """``/livez`` and ``/readyz``: 200 with ``ok``, or 503 with the reason."""
    return {"/livez": _probe(unalive), "/readyz": _probe(unready)}


def _probe(why: Why) -> Handler:
    async def answer(_: web.Request) -> web.Response:
        from aiohttp import web

        reason = why()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    return answer


def metrics(page: Page) -> Mapping[str, Handler]:
    """``/metrics``, in the format that the client asks for."""

    async def answer(request: web.Request) -> web.Response:
        from aiohttp import web

        body, content_type = await page.render(request.headers.get("Accept", ""))
        return web.Response(body=body, headers={"Content-Type": content_type})

    return {"/metrics": answer}
