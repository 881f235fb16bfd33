"""Sessions of the official client: configuration, authentication, TLS and HTTP.

Importing it takes half a second and some 20 MB, so it is imported late. Its generated models are
not used: answers are decoded from their bytes.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import socket
from collections.abc import AsyncGenerator, Iterator, Mapping
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, NamedTuple

from cubelet.sources.api.errors import ConfigurationError, Unreachable, Untrusted, short

if TYPE_CHECKING:
    from aiohttp import ClientResponse, ClientTimeout

    from cubelet.config.node import KubernetesSettings

_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 30,
    socket.TCP_KEEPINTVL: 10,
    socket.TCP_KEEPCNT: 3,
    socket.TCP_USER_TIMEOUT: 60_000,
}
"""Keepalive in seconds, seconds, probes, milliseconds: a lost peer is noticed after a minute."""


_LOADING = 30.0
"""Seconds that a kubeconfig's plugin may take to give credentials."""


class Sent(NamedTuple):
    """Method and body of a request that is no GET; ``body`` is encoded as JSON."""

    method: str
    body: object
    content_type: str = "application/json"


class Session:
    """A client with one set of credentials, closed when it is retired and its last user is gone."""

    def __init__(self, client: Any, names: Mapping[str, tuple[str, ...]]) -> None:
        from aiohttp import TCPConnector

        from cubelet.sources.api.resolver import Resolver

        self._client = client
        self._users = 0
        self._retired = False
        self._connector = TCPConnector(
            limit=0,  # each watch holds a connection
            ssl=client.rest_client.ssl_context,
            resolver=Resolver(names),
            socket_factory=_make_socket,
        )
        client.configuration.client_session_kwargs = {"connector": self._connector}
        client.user_agent = f"cubelet/{version('cubelet')}"

    @property
    def server(self) -> str:
        """The URL that the credentials name."""
        return str(self._client.configuration.host)

    @contextlib.asynccontextmanager
    async def ask(
        self,
        server: str,
        path: str,
        query: Mapping[str, str],
        timeout: ClientTimeout,
        sent: Sent | None = None,
    ) -> AsyncGenerator[ClientResponse]:
        """A server's response to a request, whatever its status. Without ``sent`` it is a GET.

        Raises Unreachable.
        """
        self._users += 1
        try:
            with translated():
                response = await self._request(server, path, query, timeout, sent)
            try:
                yield response
            finally:
                response.close()  # drops the connection if the body was not read to its end
        finally:
            self._users -= 1
            if self._retired:
                await self.retire()

    async def retire(self) -> None:
        """Close the session after its last request."""
        self._retired = True
        if not self._users:
            await self.close()

    async def close(self) -> None:
        """Close the session and its connections, used or not."""
        await self._client.close()
        await self._connector.close()

    async def _request(
        self,
        server: str,
        path: str,
        query: Mapping[str, str],
        timeout: ClientTimeout,
        sent: Sent | None,
    ) -> ClientResponse:
        headers = {"Accept": "application/json"}
        if sent is not None:
            headers["Content-Type"] = sent.content_type
        try:
            method, url, headers, *_ = await self._client.param_serialize(
                sent.method if sent else "GET",
                path,
                query_params=list(query.items()),
                header_params=headers,
                auth_settings=["BearerToken"],
                _host=server,
            )
        except Exception as error:  # reading a token again can raise any error of the loader
            raise ConfigurationError(f"credentials cannot be read: {short(error)}") from error
        answer = await self._client.call_api(
            method,
            url,
            header_params=headers,
            body=sent.body if sent else None,
            _request_timeout=timeout,
        )
        response: ClientResponse = answer.response
        return response


async def load(settings: KubernetesSettings, names: Mapping[str, tuple[str, ...]]) -> Session:
    """A session with the credentials of the kubeconfig or the service account.

    ``names`` are addresses of servers' names, see :class:`Resolver`. Raises ConfigurationError.
    """
    await asyncio.to_thread(importlib.import_module, "kubernetes.aio.config")
    from kubernetes.aio.client import ApiClient, Configuration
    from kubernetes.aio.config import load_incluster_config, load_kube_config

    configuration = Configuration()
    kubeconfig = settings.kubeconfig
    try:
        async with asyncio.timeout(_LOADING):
            if kubeconfig is not None:
                os.stat(kubeconfig)  # the loader only logs a warning about a missing file
                await load_kube_config(
                    config_file=str(kubeconfig),
                    client_configuration=configuration,
                    persist_config=False,
                )
            else:
                load_incluster_config(client_configuration=configuration)
        client = ApiClient(configuration)
    except Exception as error:  # the loader raises errors of YAML, files, TLS and its own
        late = f"its plugin gave no credentials within {_LOADING:g} s"
        why = late if isinstance(error, TimeoutError) else short(error)
        place = f"kubeconfig {kubeconfig}" if kubeconfig else "the pod's service account"
        remedy = "" if kubeconfig else "; outside a cluster set kubernetes.kubeconfig"
        raise ConfigurationError(f"{place} cannot be used: {why}{remedy}") from error
    return Session(client, names)


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Turn exceptions of aiohttp and the system into Unreachable or Untrusted."""
    from aiohttp import ClientError, ClientSSLError

    try:
        yield
    except ClientSSLError as error:
        raise Untrusted(short(error)) from error
    except TimeoutError as error:
        raise Unreachable("does not answer in time") from error
    except (ClientError, OSError, ValueError) as error:  # ValueError: a token or URL with a break
        raise Unreachable(short(error)) from error


def _make_socket(address: tuple[Any, ...]) -> socket.socket:
    """A TCP socket with keepalive probes (see tcp(7))."""
    family, kind, protocol, *_ = address
    made = socket.socket(family, kind, protocol)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE.items():
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    made.setblocking(False)
    return made
