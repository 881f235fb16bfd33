"""What the agents write to the status of cubes' own objects, to a real API server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from cubelet.lab.apiserver import ApiServer
from cubelet.sources.api import statuses
from cubelet.sources.api.statuses import StatusWriter
from cubelet.sources.feed import Outcome
from cubelet_hooks.cube import Condition
from cubelet_hooks.resources import Resource

from ...helpers.aio import in_loop, until
from .test_feed import NODE, TAINTED, Running

FENCE = Resource("Fence", "example.com/v1", "fences", status=True)
VERSION = {"name": "v1", "served": True, "storage": True, "subresources": {"status": {}}}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "fences.example.com"},
    "spec": {
        "group": "example.com",
        "scope": "Namespaced",
        "names": {"kind": "Fence", "plural": "fences"},
        "versions": [VERSION],
    },
}
HELD = Condition("Fence", "default/f", "Held", True, "Closed", "two networks", 1)


def fence(name: str = "f") -> dict[str, Any]:
    spec = {"networks": ["10.0.0.0/8"]}
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": "example.com/v1", "kind": "Fence", "metadata": metadata, "spec": spec}


def made(*names: str) -> ApiServer:
    server = ApiServer()
    for each in (TAINTED, DEFINITION, *map(fence, names or ("f",))):
        server.put(each)
    return server


def nodes(server: ApiServer, name: str = "f") -> dict[str, Any]:
    found = server.get("fences", name, "default").get("status", {}).get("nodes", {})
    return {node: told for node, told in found.items() if told}


def patches(server: ApiServer) -> list[str]:
    return [each.path for each in server.log if each.method == "PATCH" and "fences" in each.path]


@contextlib.asynccontextmanager
async def writing(url: str, folder: Path, node: str = NODE) -> AsyncIterator[StatusWriter]:
    """A writer of a node, until the block is left."""
    connection = Running(ApiServer(), url, folder).feed._source.connection
    writer = StatusWriter(connection, node, pause=0.0)
    task = asyncio.create_task(writer.run())
    try:
        yield writer
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await connection.close()


def say(writer: StatusWriter, *told: Condition, kinds: Iterable[Resource] = (FENCE,)) -> None:
    writer.want(kinds, told)


@in_loop
async def test_nodes_write_beside_each_other(tmp_path):
    server = made()
    other = replace(HELD, status=False, reason="NoRoom", message="")
    async with (
        server.serving() as url,
        writing(url, tmp_path / "1") as one,
        writing(url, tmp_path / "2", "node2") as two,
    ):
        say(one, HELD)
        say(two, other, replace(other, type="Seen", status=True))
        await until(lambda: nodes(server).keys() == {NODE, "node2"})
        told = nodes(server)
        (condition,) = told[NODE]["conditions"]
        since = condition.pop("lastTransitionTime")
        assert since.endswith("Z")
        assert condition == {
            "type": "Held",
            "status": "True",
            "reason": "Closed",
            "message": "two networks",
            "observedGeneration": 1,
        }
        assert told[NODE]["observedGeneration"] == 1
        assert [each["status"] for each in told["node2"]["conditions"]] == ["False", "True"]
        assert server.get("fences", "f", "default")["metadata"]["generation"] == 1
        say(one)
        await until(lambda: nodes(server).keys() == {"node2"})
    assert len(patches(server)) == 3


@pytest.mark.parametrize("odd", [{"conditions": "odd"}, {"conditions": [1]}, "odd", [1]])
@in_loop
async def test_what_others_have_written_in_its_place_is_replaced(tmp_path, odd):
    server = made()
    server.put({**fence(), "status": {"nodes": {NODE: odd, "node2": odd}}})
    async with server.serving() as url, writing(url, tmp_path) as writer:
        say(writer, HELD)
        await until(lambda: patches(server))
        told = nodes(server)
    assert told[NODE]["conditions"][0]["reason"] == "Closed"
    assert told["node2"] == odd


@in_loop
async def test_what_is_said_again_is_not_written_again_and_a_condition_keeps_its_time(tmp_path):
    server = made()
    long_ago = "2020-02-02T20:20:20Z"
    was = {"type": "Held", "status": "True", "lastTransitionTime": long_ago}
    server.put({**fence(), "status": {"nodes": {NODE: {"conditions": [was]}}}})

    def told() -> tuple[str, str, bool]:
        (condition,) = nodes(server)[NODE]["conditions"]
        kept = condition["lastTransitionTime"] == long_ago
        return condition["status"], condition.get("message", ""), kept

    async with server.serving() as url, writing(url, tmp_path) as writer:
        say(writer, HELD)
        await until(lambda: told() == ("True", "two networks", True))
        say(writer, HELD)
        say(writer, replace(HELD, message="three networks", generation=2))
        await until(lambda: told() == ("True", "three networks", True))
        say(writer, replace(HELD, status=False))
        await until(lambda: told() == ("False", "two networks", False))
    assert len(patches(server)) == 3


@in_loop
async def test_an_agent_that_starts_anew_goes_on_where_it_was(tmp_path):
    server = made("f", "g")
    gone = replace(HELD, key="default/g")
    async with server.serving() as url:
        async with writing(url, tmp_path / "1") as writer:
            say(writer, HELD, gone)
            await until(lambda: nodes(server) and nodes(server, "g"))
        async with writing(url, tmp_path / "2") as writer:
            say(writer, HELD)
            await until(lambda: not nodes(server, "g"))
            await asyncio.sleep(0.1)
    assert nodes(server).keys() == {NODE}
    assert len(patches(server)) == 3, "what stood there was not written again"


@in_loop
async def test_nothing_is_lost_while_the_server_refuses(tmp_path, monkeypatch):
    monkeypatch.setattr(statuses, "_RETRY", 0.05)
    server = made("f", "g")
    async with server.serving() as url, writing(url, tmp_path) as writer:
        server.faults.answer(500, verb="patch", times=3)
        say(writer, HELD, replace(HELD, key="default/g"))
        await until(lambda: nodes(server) and nodes(server, "g"))


@in_loop
async def test_an_object_that_is_gone_is_no_error_and_is_written_when_it_is_back(
    tmp_path, monkeypatch
):
    server = made("f")
    back = replace(HELD, key="default/back")
    async with server.serving() as url, writing(url, tmp_path) as writer:
        say(writer, back, HELD)
        await until(lambda: nodes(server))
        server.put(fence("back"))
        say(writer, HELD)
        say(writer, back, HELD)
        monkeypatch.setattr(statuses, "_REVIEW", 0.05)
        say(writer, back, replace(HELD, message="wakes it"))
        await until(lambda: nodes(server, "back"))


@in_loop
async def test_kinds_that_take_no_status_are_left_alone(tmp_path):
    server = made()
    plain = Resource("Fence", "example.com/v1", "fences")
    async with server.serving() as url, writing(url, tmp_path) as writer:
        say(writer, HELD, kinds=[plain])
        await asyncio.sleep(0.2)
    assert not [each for each in server.log if "fences" in each.path]


@pytest.mark.parametrize("ready", [False, True])
@in_loop
async def test_a_feed_writes_once_pods_are_served(tmp_path, monkeypatch, ready):
    monkeypatch.setattr(StatusWriter.__init__, "__defaults__", (0.0,))
    server = made()
    async with server.serving() as url, Running(server, url, tmp_path).following() as running:
        await running.feed.begun()
        await running.feed.watch([FENCE])
        assert running.state.custom("Fence")["default/f"].generation == 1
        running.feed.passed(Outcome(ready=ready, conditions=(HELD,)))
        if ready:
            await until(lambda: nodes(server))
        else:
            await asyncio.sleep(0.2)
    assert bool(nodes(server)) == ready
