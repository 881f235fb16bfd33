"""Clients that are silent, slow or many keep nobody from being answered."""

from __future__ import annotations

import asyncio

from aiohttp import web

from cubelet.daemon.crowd import Crowd

from ..helpers.aio import in_loop, until

ASKED = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


async def answer(_: web.BaseRequest) -> web.Response:
    return web.Response(text="here")


async def started(crowd: Crowd) -> tuple[asyncio.Server, int]:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(crowd.guarded(web.Server(answer)), "127.0.0.1", 0)
    return server, server.sockets[0].getsockname()[1]


async def ask(port: int) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(ASKED)
    found = await reader.read()
    writer.close()
    return found


@in_loop
async def test_the_oldest_connection_gives_way_to_the_next() -> None:
    server, port = await started(Crowd(most=3))
    silent = [await asyncio.open_connection("127.0.0.1", port) for _ in range(10)]
    assert (await ask(port)).endswith(b"here")
    ended = [reader.at_eof() or reader.exception() is not None for reader, _ in silent]
    await until(lambda: sum(r.at_eof() or r.exception() is not None for r, _ in silent) == 8)
    assert not ended[-1], "the youngest stay"
    for _, writer in silent:
        writer.close()
    server.close()


@in_loop
async def test_a_connection_ends_in_time_however_slowly_it_asks() -> None:
    server, port = await started(Crowd(seconds=0.2))
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def dribble() -> None:
        for byte in ASKED * 100:
            writer.write(bytes([byte]))
            await asyncio.sleep(0.01)

    slow = asyncio.ensure_future(dribble())
    await until(lambda: reader.at_eof() or reader.exception() is not None)
    slow.cancel()
    assert (await ask(port)).endswith(b"here")
    writer.close()
    server.close()
