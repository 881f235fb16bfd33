"""The agent's socket, server and client together over a real one."""

from __future__ import annotations

import asyncio
import json
import socket
import stat
from collections.abc import AsyncIterator, Callable, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from types import MappingProxyType
from typing import Any

import msgspec
import pytest

from cubelet.ipc import client
from cubelet.ipc.client import AgentBusyError, AgentError, AgentUnreachableError
from cubelet.ipc.server import MAX_REQUEST, AgentServer, Handler


class Row(msgspec.Struct, frozen=True):
    name: str
    address: Any


async def ping(params: Mapping[str, Any]) -> Any:
    return params.get("answer", "pong")


async def refuse(params: Mapping[str, Any]) -> Any:
    raise AgentError(11, "not now", "later")


async def crash(params: Mapping[str, Any]) -> Any:
    raise ZeroDivisionError("by zero")


async def unserializable(params: Mapping[str, Any]) -> Any:
    return object()


async def rows(params: Mapping[str, Any]) -> Any:
    return [Row("a", ip_address("10.0.0.1")), Row("b", ip_network("fd00::/64"))]


async def count(params: Mapping[str, Any]) -> AsyncIterator[int]:
    for number in range(params["to"]):
        yield number
    if params.get("then_fail"):
        raise AgentError(12, "no more")


HANDLERS: dict[str, Handler] = {
    "ping": ping,
    "refuse": refuse,
    "crash": crash,
    "unserializable": unserializable,
    "rows": rows,
    "count": count,
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "agent.sock"


def serving(
    path: Path, use: Callable[[], Any], handlers: Mapping[str, Handler] | None = None
) -> Any:
    """The result of `use()`, run in a thread while a server listens on `path`."""

    async def main() -> Any:
        server = AgentServer(path, handlers or HANDLERS)
        await server.start()
        try:
            return await asyncio.to_thread(use)
        finally:
            await server.stop()

    return asyncio.run(main())


def raw(path: Path, request: bytes) -> Any:
    """The reply to bytes as they are; None if there is none."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(request)
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile("rb") as reply:
            return json.loads(reply.read() or b"null")


def test_a_call_gives_the_handlers_result(path: Path) -> None:
    assert serving(path, lambda: client.call(str(path), "ping", {"answer": [1, "ä"]})) == [1, "ä"]


async def spec(params: Mapping[str, Any]) -> object:
    return MappingProxyType({"hours": (MappingProxyType({"from": 8}), 12)})


def test_a_cubes_objects_travel_as_json(path: Path) -> None:
    async def main() -> object:
        server = AgentServer(path, {"spec": spec})
        await server.start()
        try:
            return await asyncio.to_thread(client.call, str(path), "spec")
        finally:
            await server.stop()

    assert asyncio.run(main()) == {"hours": [{"from": 8}, 12]}


def test_structs_and_addresses_travel_as_json(path: Path) -> None:
    assert serving(path, lambda: client.call(str(path), "rows")) == [
        {"name": "a", "address": "10.0.0.1"},
        {"name": "b", "address": "fd00::/64"},
    ]


def test_a_stream_gives_results_and_then_its_error(path: Path) -> None:
    def use() -> list[int]:
        assert list(client.stream(str(path), "count", {"to": 3})) == [0, 1, 2]
        seen: list[int] = []
        with pytest.raises(AgentError, match="no more"):
            seen.extend(client.stream(str(path), "count", {"to": 0, "then_fail": True}))
        return seen

    assert serving(path, use) == []


def test_a_stream_ends_at_the_agent_when_its_reader_leaves(path: Path) -> None:
    ended = asyncio.Event()

    async def endless(params: Mapping[str, Any]) -> AsyncIterator[str]:
        try:
            yield "first"
            await asyncio.sleep(3600)
        finally:
            ended.set()

    async def main() -> str:
        server = AgentServer(path, {"endless": endless})
        await server.start()
        first = await asyncio.to_thread(lambda: next(client.stream(str(path), "endless")))
        await asyncio.wait_for(ended.wait(), 5)
        await server.stop()
        return str(first)

    assert asyncio.run(main()) == "first"


@pytest.mark.parametrize(
    ("method", "code", "message"),
    [
        ("refuse", 11, "not now"),
        ("crash", client.INTERNAL_ERROR, "internal error in crash"),
        ("unserializable", client.INTERNAL_ERROR, "internal error in unserializable"),
        ("nothing", client.UNKNOWN_METHOD, "unknown method 'nothing'"),
    ],
)
def test_errors_arrive_with_code_and_message(
    path: Path, method: str, code: int, message: str
) -> None:
    def use() -> AgentError:
        with pytest.raises(AgentError) as caught:
            client.call(str(path), method)
        assert client.call(str(path), "ping") == "pong"
        return caught.value

    error = serving(path, use)
    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize(
    "request_line",
    [
        b"not json\n",
        b"[]\n",
        b'{"params": {}}\n',
        b'{"method": "ping", "params": 7}\n',
        b"",
        b"\xff\xfe\n",
        b"x" * (MAX_REQUEST + 1) + b"\n",
    ],
    ids=["no json", "no object", "no method", "no params", "nothing", "no text", "too long"],
)
def test_a_bad_request_is_answered_and_harms_no_other(path: Path, request_line: bytes) -> None:
    def use() -> Any:
        reply = raw(path, request_line)
        assert client.call(str(path), "ping") == "pong"
        return reply

    assert serving(path, use)["error"]["code"] == client.INVALID_REQUEST


def test_requests_are_served_at_once(path: Path) -> None:
    async def main() -> list[Any]:
        met = asyncio.Barrier(2)

        async def meet(params: Mapping[str, Any]) -> Any:
            async with asyncio.timeout(5):
                await met.wait()
            return "met"

        server = AgentServer(path, {"meet": meet})
        await server.start()
        both = [asyncio.to_thread(client.call, str(path), "meet") for _ in range(2)]
        results: list[Any] = await asyncio.gather(*both)
        await server.stop()
        return results

    assert asyncio.run(main()) == ["met", "met"]


def test_only_root_may_connect(path: Path) -> None:
    mode = serving(path, lambda: path.stat().st_mode)
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


def test_the_socket_goes_with_the_server(path: Path) -> None:
    serving(path, lambda: None)
    assert list(path.parent.iterdir()) == []


def test_a_dead_agents_socket_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert serving(path, lambda: client.call(str(path), "ping")) == "pong"


def test_a_living_agents_socket_is_not(path: Path) -> None:
    def use() -> Any:
        with pytest.raises(FileExistsError, match="another agent answers"):
            serving(path, lambda: None)
        return client.call(str(path), "ping")

    assert serving(path, use) == "pong"


def test_a_file_in_the_way_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="not a socket"):
        serving(path, lambda: None)
    assert path.read_text() == "precious"


def test_no_agent_is_an_error_with_a_remedy(path: Path) -> None:
    with pytest.raises(AgentUnreachableError) as caught:
        client.call(str(path), "ping")
    assert str(path) in caught.value.message
    assert "cubelet agent" in caught.value.details


def test_an_agent_that_does_not_answer_is_not_awaited_for_ever(path: Path) -> None:
    async def sleep(params: Mapping[str, Any]) -> None:
        await asyncio.sleep(5)

    def use() -> str:
        with pytest.raises(AgentBusyError) as caught:
            client.call(str(path), "sleep", timeout=0.05)
        return f"{caught.value.message}; {caught.value.details}"

    said = serving(path, use, {"sleep": sleep})
    assert f"the cubelet agent on {path} is there and has not answered within 0.05 s" in said
    assert "start it" not in said


def test_an_agent_whose_queue_is_full_is_busy_and_not_absent(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(path))
        listener.listen(0)
        other.connect(str(path))
        with pytest.raises(AgentBusyError):
            client.call(str(path), "ping", timeout=0.05)


def test_stopping_ends_the_calls_under_way(path: Path) -> None:
    async def main() -> None:
        started = asyncio.Event()

        async def sleep(params: Mapping[str, Any]) -> None:
            started.set()
            await asyncio.sleep(3600)

        server = AgentServer(path, {"sleep": sleep})
        await server.start()
        calling = asyncio.create_task(asyncio.to_thread(client.call, str(path), "sleep"))
        await started.wait()
        await server.stop()
        with pytest.raises(AgentUnreachableError, match="no cubelet agent"):
            await calling

    asyncio.run(main())
