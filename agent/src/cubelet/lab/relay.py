"""Carries TCP connections from namespaces of a lab to a server that only the machine reaches.

    python -m cubelet.lab.relay ADDRESS PORT NAMESPACE...

It listens at the server's own address and port inside each namespace and connects to the same
address and port outside of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import sys
from asyncio import StreamReader, StreamWriter
from typing import Final

from cubelet.lab import netns
from cubelet.net.netns import opened, run_in

_CHUNK: Final = 65536


async def relay(address: str, port: int, namespaces: list[str]) -> None:
    """Serve until cancelled."""

    async def accept(reader: StreamReader, writer: StreamWriter) -> None:
        with contextlib.suppress(OSError):
            onward_reader, onward = await asyncio.open_connection(address, port)
            with contextlib.closing(onward):
                await asyncio.gather(_copy(reader, onward), _copy(onward_reader, writer))
        writer.close()

    async with contextlib.AsyncExitStack() as stack:
        for name in namespaces:
            server = await asyncio.start_server(accept, sock=_listener(name, address, port))
            await stack.enter_async_context(server)
        await asyncio.Event().wait()


def _listener(name: str, address: str, port: int) -> socket.socket:
    """A listening socket in a namespace, which this process does not enter."""
    with opened(str(netns.path(name))) as namespace:
        return run_in(namespace, lambda: socket.create_server((address, port)))


async def _copy(reader: StreamReader, writer: StreamWriter) -> None:
    """Copy one direction to its end, then pass the end on."""
    while chunk := await reader.read(_CHUNK):
        writer.write(chunk)
        await writer.drain()
    writer.write_eof()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(relay(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
