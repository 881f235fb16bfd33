"""Resolves the API servers' names; importing it imports aiohttp, so it is imported late."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Mapping
from ipaddress import ip_address

from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.resolver import DefaultResolver

_PATIENCE = 5.0
"""Seconds for a name to be resolved."""


class Resolver(AbstractResolver):
    """Asks the system, and goes by ``names``, what was known last, where that has no answer.

    A node whose DNS servers are pods of the cluster has none before the API server is reached.
    """

    def __init__(self, names: Mapping[str, tuple[str, ...]]) -> None:
        self._names = names
        self._system = DefaultResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """See aiohttp. Raises OSError."""
        try:
            async with asyncio.timeout(_PATIENCE):
                return await self._system.resolve(host, port, family)
        except OSError:  # TimeoutError is one
            found = [_result(host, each, port) for each in self._names.get(host, ())]
            wanted = [each for each in found if family in (socket.AF_UNSPEC, each["family"])]
            if not wanted:
                raise
            return wanted

    async def close(self) -> None:
        """Close the system's resolver."""
        await self._system.close()


def _result(host: str, address: str, port: int) -> ResolveResult:
    inet = socket.AF_INET if ip_address(address).version == 4 else socket.AF_INET6
    return ResolveResult(
        hostname=host,
        host=address,
        port=port,
        family=inet,
        proto=socket.IPPROTO_TCP,
        flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV,
    )
