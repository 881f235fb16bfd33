"""Where the API server is, for those who set routes: its addresses, before it is asked."""

from __future__ import annotations

import asyncio
import os
import socket
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import yaml

from cubelet.sources.api.servers import Reached

if TYPE_CHECKING:
    from cubelet.config.node import KubernetesSettings

_PORTS = {"https": 443, "http": 80}
_PATIENCE = 5.0
"""Seconds for a name to be resolved."""


def server_url(settings: KubernetesSettings) -> str:
    """The URL that the credentials name, found without the client's half second; '' if unknown."""
    if settings.kubeconfig is None:
        host, port = (os.environ.get(f"KUBERNETES_SERVICE_{each}", "") for each in ("HOST", "PORT"))
        return f"https://{f'[{host}]' if ':' in host else host}:{port or 443}" if host else ""
    try:
        return _current_server(yaml.safe_load(settings.kubeconfig.read_text()))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, LookupError, TypeError):
        return ""  # whoever loads it to connect says what is wrong with it


def _current_server(config: Any) -> str:
    contexts = {each["name"]: each["context"] for each in config["contexts"]}
    clusters = {each["name"]: each["cluster"] for each in config["clusters"]}
    return str(clusters[contexts[config["current-context"]]["cluster"]]["server"])


async def find(url: str) -> tuple[Reached, ...]:
    """The addresses of a URL's host, ordered; none if it cannot be resolved soon."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or _PORTS.get(parts.scheme, 443)
    except ValueError:
        return ()
    if not host:
        return ()
    try:
        return ((ip_address(host), port),)
    except ValueError:
        pass
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_PATIENCE):
            found = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):  # TimeoutError is an OSError
        return ()
    addresses = {ip_address(str(sockaddr[0]).partition("%")[0]) for *_, sockaddr in found}
    return tuple((each, port) for each in sorted(addresses, key=lambda a: (a.version, int(a))))
