"""Liveness and readiness over HTTP, for the kubelet's probes: ``/livez`` and ``/readyz``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING

from cubelet.settings import SettingsError

if TYPE_CHECKING:
    from aiohttp import web

Why = Callable[[], str]
"""Why something does not hold; '' if it does."""


async def serve_health(
    stack: AsyncExitStack, address: str | None, unalive: Why, unready: Why
) -> None:
    """Answer at ``address`` (ADDRESS:PORT; None: nowhere) until the stack is left.

    200 with ``ok``, or 503 with the reason. Raises SettingsError for what is no such address,
    OSError where it cannot be had.
    """
    if address is None:
        return
    from aiohttp import web

    app = web.Application()
    app.add_routes([web.get("/livez", _answer(unalive)), web.get("/readyz", _answer(unready))])
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    stack.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, *split_address(address), reuse_address=True).start()


def split_address(text: str) -> tuple[str, int]:
    """Host and port of ``127.0.0.1:9879`` or ``[::1]:9879``. Raises SettingsError."""
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise SettingsError(f"health: {text!r} is not ADDRESS:PORT, such as 127.0.0.1:9879")
    return host.strip("[]"), int(port)


def _answer(why: Why) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(_: web.Request) -> web.Response:
        from aiohttp import web

        reason = why()
        return web.Response(text=f"{reason or 'ok'}\n", status=503 if reason else 200)

    return answer
