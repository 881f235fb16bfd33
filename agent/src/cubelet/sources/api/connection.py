"""Requests to the API server; credentials are read again when it refuses them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Mapping
from typing import TYPE_CHECKING

from cubelet.sources.api.errors import Refused, Unreachable, Untrusted, status_of
from cubelet.sources.api.servers import Servers
from cubelet.sources.api.session import Sent, Session, load, translated

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientTimeout

    from cubelet.config.node import KubernetesSettings

_CONNECT, _CONNECT_TO_ONE_OF_SEVERAL = 10.0, 4.0
"""Seconds for connecting, TLS included."""
_FOUND, _DONE, _SERVER_ERROR = (200,), (200, 201), 500


class Answer:
    """A successful response, its body not yet read."""

    def __init__(self, response: ClientResponse) -> None:
        self._response = response

    async def body(self) -> bytes:
        """The whole body. Raises Unreachable if it breaks off."""
        with translated():
            return await self._response.read()

    async def piece(self) -> bytes:
        """The bytes received so far; none once the server has ended it. Raises Unreachable."""
        with translated():
            return await self._response.content.readany()


class Connection:
    """The API servers, of which one is asked at a time.

    When it refuses the credentials, or its certificate is not trusted, the next request reads all
    credentials again and uses a new session; requests of the old session may end by themselves.
    When it does not answer, or only by errors of its own, the next request goes to the next server.
    """

    def __init__(self, settings: KubernetesSettings, servers: Servers) -> None:
        self._settings = settings
        self._servers = servers
        self._session: Session | None = None
        self._loading = asyncio.Lock()
        self._closed = False

    @property
    def server(self) -> str:
        """The URL that requests go to; empty until it is known."""
        return self._servers.current

    @contextlib.asynccontextmanager
    async def get(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        idle: float | None = None,
        total: float | None = None,
    ) -> AsyncGenerator[Answer]:
        """Get ``path``; fails when no bytes come for ``idle`` seconds, or after ``total`` seconds.

        Raises Refused for any status but 200, Unreachable, and ConfigurationError.
        """
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=total, sock_connect=self._connect, sock_read=idle)
        async with self._asked(path, query, timeout) as answer:
            yield answer

    async def send(self, path: str, sent: Sent, seconds: float = 10.0) -> bytes:
        """Create or patch; returns the body. Raises Refused, Unreachable, ConfigurationError."""
        from aiohttp import ClientTimeout

        timeout = ClientTimeout(total=seconds, sock_connect=self._connect)
        async with self._asked(path, {}, timeout, sent) as answer:
            return await answer.body()

    @contextlib.asynccontextmanager
    async def _asked(
        self, path: str, query: Mapping[str, str], timeout: ClientTimeout, sent: Sent | None = None
    ) -> AsyncGenerator[Answer]:
        session = await self._usable()
        server, answered = self._servers.current, False
        try:
            async with session.ask(server, path, query, timeout, sent) as response:
                answered = True
                if response.status in (_DONE if sent else _FOUND):
                    yield Answer(response)
                    return
                refusal = await _refusal(response)
        except Unreachable as error:
            if not answered:  # what breaks off later may be continued where it was
                self._servers.failed(server)
            if isinstance(error, Untrusted):
                await self._renew(session)
            raise
        if refusal.code >= _SERVER_ERROR and not refusal.gone:
            self._servers.failed(server)
        if refusal.code == 401:
            await self._renew(session)
        raise refusal

    async def close(self) -> None:
        """Close all connections."""
        self._closed = True
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    @property
    def _connect(self) -> float:
        return _CONNECT_TO_ONE_OF_SEVERAL if len(self._servers.urls) > 1 else _CONNECT

    async def _usable(self) -> Session:
        async with self._loading:
            if self._closed:
                raise Unreachable("the connection has been closed")
            if self._session is None:
                self._session = await load(self._settings, self._servers.names)
                self._servers.by_credentials(self._session.server)
            return self._session

    async def _renew(self, refused: Session) -> None:
        """Retire the refused session, if it is current: the next request makes a new one."""
        if self._session is refused:
            self._session = None
            await refused.retire()


async def _refusal(response: ClientResponse) -> Refused:
    try:
        with translated():
            body = await response.read()
    except Unreachable:
        body = b""
    asked = response.headers.get("Retry-After", "")
    return Refused(response.status, status_of(body), float(asked) if asked.isdecimal() else 0.0)
