"""Limits the connections of an HTTP server: silent clients and crowds of them keep nobody out."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

MOST = 100
"""Connections of a server; the oldest gives way to the next."""
SECONDS = 30.0
"""How long a connection may last, whatever is asked or answered on it."""


class Crowd:
    """The open connections of one server, in the order in which they came."""

    def __init__(self, most: int = MOST, seconds: float = SECONDS) -> None:
        self.most = most
        self.seconds = seconds
        self._members: dict[_Member, None] = {}

    def guarded(self, make: Callable[[], asyncio.Protocol]) -> Callable[[], asyncio.Protocol]:
        """A protocol factory for ``loop.create_server`` whose connections are members."""
        return lambda: _Member(make(), self)

    def joined(self, member: _Member) -> None:
        """Take in a connection, in place of the oldest if there are enough."""
        self._members[member] = None
        if len(self._members) > self.most:
            next(iter(self._members)).end()

    def left(self, member: _Member) -> None:
        """Forget a connection."""
        self._members.pop(member, None)


class _Member(asyncio.Protocol):
    """One connection: passes everything on to its protocol, and ends in time."""

    def __init__(self, inner: asyncio.Protocol, crowd: Crowd) -> None:
        self._inner = inner
        self._crowd = crowd
        self._transport: asyncio.Transport | None = None
        self._timer: asyncio.TimerHandle | None = None

    def end(self) -> None:
        """Close the connection at once; what was not sent yet is lost."""
        self._crowd.left(self)
        if self._transport is not None:
            self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._timer = asyncio.get_running_loop().call_later(self._crowd.seconds, self.end)
        self._inner.connection_made(transport)
        self._crowd.joined(self)

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._crowd.left(self)
        self._inner.connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        self._inner.data_received(data)

    def eof_received(self) -> bool | None:
        return self._inner.eof_received()

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()
