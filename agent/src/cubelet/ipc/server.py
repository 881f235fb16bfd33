"""The agent's Unix socket: lines of JSON, one request a connection (see `cubelet.ipc.client`)."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import pathlib
import socket
import stat
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import msgspec
import structlog

from cubelet.ipc.client import INTERNAL_ERROR, INVALID_REQUEST, UNKNOWN_METHOD, AgentError

log = structlog.get_logger(__name__)

# Bytes. A CNI GC names every attachment of a node: 250 of them are about 30 kB.
MAX_REQUEST = 1 << 20
# Seconds. A client that sends nothing holds a task and a descriptor; our clients send at once.
REQUEST_TIMEOUT = 10.0

Params = Mapping[str, Any]
Handler = Callable[[Params], "Awaitable[Any] | AsyncIterator[Any]"]
"""Answers one method: a coroutine gives one result, an async generator a stream of them.

Results are whatever msgspec encodes (structs too), addresses, networks and paths. An AgentError
becomes the error reply; any other exception is logged and answered as an internal error.
"""


class _Request(msgspec.Struct, frozen=True):
    method: str
    params: dict[str, Any] = {}


def _encode_hook(value: object) -> object:
    text = (
        ipaddress.IPv4Address,
        ipaddress.IPv6Address,
        ipaddress.IPv4Network,
        ipaddress.IPv6Network,
        pathlib.PurePath,
    )
    if isinstance(value, text):
        return str(value)
    if isinstance(value, Mapping):  # such as the spec of a cube's own object
        return dict(value)
    raise NotImplementedError(f"{type(value).__name__} cannot be sent as JSON")


_encoder = msgspec.json.Encoder(enc_hook=_encode_hook)
_decoder = msgspec.json.Decoder(_Request)


class AgentServer:
    """Serves `handlers` by method name on a Unix socket at `path`, for root only (0600)."""

    def __init__(self, path: pathlib.Path, handlers: Mapping[str, Handler]) -> None:
        self._path = path
        self._handlers = handlers
        self._server: asyncio.Server | None = None
        self._inode = 0
        self._connections: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen. Raises OSError when another agent answers there, or the path is no socket."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        _refuse_if_taken(self._path)
        listener = _listen(self._path)
        self._inode = self._path.stat().st_ino
        self._server = await asyncio.start_unix_server(
            self._connected, sock=listener, limit=MAX_REQUEST
        )

    def refuse(self) -> None:
        """Accept no more connections; calls under way go on."""
        if self._server is not None:
            self._server.close()

    async def stop(self) -> None:
        """Stop listening, end the calls under way, and remove the socket if it is still ours."""
        if self._server is None:
            return
        self.refuse()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        with contextlib.suppress(FileNotFoundError):
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        self._server = None

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.CancelledError):
            pass  # the client left, or the agent is stopping: neither is an error
        finally:
            self._connections.discard(task)
            writer.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method = ""
        try:
            request = await _read_request(reader)
            method = request.method
            await self._answer(request, reader, writer)
        except AgentError as error:
            await _send(writer, {"error": error.to_json()})
        except ConnectionError:
            raise
        except Exception as error:
            log.exception("request failed", method=method)
            reply = AgentError(INTERNAL_ERROR, f"internal error in {method}", repr(error))
            await _send(writer, {"error": reply.to_json()})

    async def _answer(
        self, request: _Request, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        handler = self._handlers.get(request.method)
        if handler is None:
            known = ", ".join(sorted(self._handlers))
            raise AgentError(
                UNKNOWN_METHOD, f"unknown method {request.method!r}", f"known: {known}"
            )
        answer = handler(request.params)
        if isinstance(answer, AsyncIterator):
            await _until_gone(reader, _send_all(writer, answer))
        else:
            await _send(writer, {"result": await answer})


async def _read_request(reader: asyncio.StreamReader) -> _Request:
    try:
        async with asyncio.timeout(REQUEST_TIMEOUT):
            line = await reader.readline()
    except TimeoutError:
        raise AgentError(INVALID_REQUEST, f"no request within {REQUEST_TIMEOUT:.0f} s") from None
    except ValueError:
        raise AgentError(INVALID_REQUEST, f"request longer than {MAX_REQUEST} bytes") from None
    try:
        return _decoder.decode(line)
    except msgspec.DecodeError as error:
        raise AgentError(INVALID_REQUEST, "request is not valid", str(error)) from None


async def _send(writer: asyncio.StreamWriter, reply: Mapping[str, Any]) -> None:
    writer.write(_encoder.encode(reply) + b"\n")
    await writer.drain()


async def _send_all(writer: asyncio.StreamWriter, results: AsyncIterator[Any]) -> None:
    try:
        async for result in results:
            await _send(writer, {"result": result})
    finally:
        if isinstance(results, AsyncGenerator):
            await results.aclose()


async def _until_gone(reader: asyncio.StreamReader, work: Awaitable[None]) -> None:
    """Run `work`, and end it when the client hangs up, which an idle stream would not notice."""
    working = asyncio.ensure_future(work)
    hung_up = asyncio.ensure_future(reader.read(1))
    try:
        await asyncio.wait((working, hung_up), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            await working
    finally:
        working.cancel()
        hung_up.cancel()
        await asyncio.gather(working, hung_up, return_exceptions=True)


def _refuse_if_taken(path: pathlib.Path) -> None:
    try:
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path} exists and is not a socket: move it away")
    except FileNotFoundError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1)
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            return  # left by an agent that was killed
        raise FileExistsError(f"another agent answers on {path}: stop it, or use another socket")


def _listen(path: pathlib.Path) -> socket.socket:
    """A listening socket that appears at `path` with its mode set, in place of a stale one."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        listener.bind(str(temporary))
        temporary.chmod(0o600)
        listener.listen(128)
        temporary.rename(path)
    except BaseException:
        listener.close()
        temporary.unlink(missing_ok=True)
        raise
    return listener
