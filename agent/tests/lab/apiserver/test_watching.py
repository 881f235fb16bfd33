"""The lab's API server: watches, and what can go wrong with them."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Iterator

import pytest

from cubelet.lab.apiserver import ApiServer

from ...helpers.apiclient import Client, node, pod

NODES = "/api/v1/nodes"


@pytest.fixture
def server() -> ApiServer:
    return ApiServer(history=50, bookmarks=0.2)


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    with server.running() as url:
        yield Client(url)


def now(server: ApiServer) -> dict[str, str]:
    return {"resourceVersion": str(server.version)}


def test_a_watch_goes_on_where_a_list_ended(server: ApiServer, client: Client) -> None:
    server.put(node("a"))
    listed = client.get(NODES).version
    server.put(node("b"))
    server.put(node("b", color="red"))
    server.delete("nodes", "a")
    with client.watch(NODES, resourceVersion=listed) as watch:
        assert watch.names(3) == ["ADDED b", "MODIFIED b", "DELETED a"]
        server.put(node("c"))
        type_, seen = watch.event()
        assert (type_, seen["kind"], seen["apiVersion"]) == ("ADDED", "Node", "v1")
        assert seen["metadata"]["resourceVersion"] == str(server.version)
        server.delete("nodes", "c")
        type_, last = watch.event()
        assert (type_, last["metadata"]["resourceVersion"]) == ("DELETED", str(server.version))


@pytest.mark.parametrize("version", ["", "0"])
def test_a_watch_from_no_version_begins_with_all(
    server: ApiServer, client: Client, version: str
) -> None:
    server.put(node("a"))
    server.put(node("b"))
    with client.watch(NODES, resourceVersion=version) as watch:
        assert watch.names(2) == ["ADDED a", "ADDED b"]
        server.put(node("c"))
        assert watch.names(1) == ["ADDED c"]


def test_a_watch_can_ask_for_the_initial_events(server: ApiServer, client: Client) -> None:
    server.put(node("a"))
    asked = {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
    with client.watch(NODES, allowWatchBookmarks="true", **asked) as watch:
        assert watch.names(1) == ["ADDED a"]
        type_, seen = watch.event()
        assert type_ == "BOOKMARK"
        assert seen["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}


def test_a_selection_is_entered_and_left(server: ApiServer, client: Client) -> None:
    with client.watch("/api/v1/pods", labelSelector="color=red", **now(server)) as watch:
        server.put(pod("a", color="blue"))
        server.put(pod("a", color="red"))
        server.put(pod("a", color="red", size="big"))
        server.put(pod("a", color="blue"))
        server.delete("pods", "a", "default")
        server.put(pod("b", color="red"))
        assert watch.names(4) == ["ADDED a", "MODIFIED a", "DELETED a", "ADDED b"]


def test_a_watch_of_a_namespace_or_of_one_object(server: ApiServer, client: Client) -> None:
    start = now(server)
    server.put(pod("a"))
    server.put(pod("b", "shop"))
    server.put(pod("c", "shop"))
    with client.watch("/api/v1/namespaces/shop/pods", **start) as watch:
        assert watch.names(2) == ["ADDED b", "ADDED c"]
    with client.watch("/api/v1/namespaces/shop/pods/c", **start) as watch:
        assert watch.names(1) == ["ADDED c"]


def test_bookmarks_come_to_those_who_ask(server: ApiServer, client: Client) -> None:
    with client.watch(NODES, allowWatchBookmarks="true", **now(server)) as watch:
        server.put(pod("elsewhere"))
        type_, seen = watch.event()
        assert type_ == "BOOKMARK"
        assert seen["kind"] == "Node"
        assert seen["metadata"]["resourceVersion"] == str(server.version)
    with client.watch(NODES, **now(server)) as watch:
        assert watch.quiet(0.5)


def test_a_watch_ends_cleanly_when_its_time_is_over(server: ApiServer, client: Client) -> None:
    began = time.monotonic()
    with client.watch(NODES, timeoutSeconds="1", **now(server)) as watch:
        assert watch.line() == b""
    assert 0.9 < time.monotonic() - began < 3


def test_what_is_older_than_history_is_told_in_the_stream(
    server: ApiServer, client: Client
) -> None:
    start = now(server)
    for i in range(60):
        server.put(node(f"n{i}"))
    with client.watch(NODES, **start) as watch:
        assert watch.status == 200
        type_, seen = watch.event()
        assert (type_, seen["code"], seen["reason"]) == ("ERROR", 410, "Expired")
        assert watch.line() == b""
    recent = {"resourceVersion": str(server.version - 50)}
    with client.watch(NODES, **recent) as watch:
        assert len(watch.names(50)) == 50


def test_history_expires_on_demand(server: ApiServer, client: Client) -> None:
    start = now(server)
    with client.watch(NODES, **start) as running:
        server.expire_history("nodes")
        with client.watch(NODES, **start) as watch:
            assert watch.event()[0] == "ERROR"
        with client.watch("/api/v1/pods", **start) as watch:
            server.put(pod("a"))
            assert watch.names(1) == ["ADDED a"]
        server.put(node("a"))
        assert running.names(1) == ["ADDED a"]
    with client.watch(NODES, **now(server)) as watch:
        server.put(node("b"))
        assert watch.names(1) == ["ADDED b"]


def test_bulk_loads_are_no_history(server: ApiServer, client: Client) -> None:
    start = now(server)
    server.load("nodes", [node("a")])
    with client.watch(NODES, **start) as watch:
        assert watch.event()[0] == "ERROR"


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ({"resourceVersion": "x"}, 400),
        ({"timeoutSeconds": "x"}, 400),
        ({"sendInitialEvents": "true"}, 422),
        ({"resourceVersion": "1", "resourceVersionMatch": "Exact"}, 422),
    ],
)
def test_a_watch_that_makes_no_sense_is_refused(
    client: Client, query: dict[str, str], status: int
) -> None:
    with client.watch(NODES, **query) as watch:
        assert watch.status == status


def test_running_watches_can_be_ended(server: ApiServer, client: Client) -> None:
    with client.watch(NODES, **now(server)) as watch:
        server.end_watches("nodes")
        assert watch.line() == b""


def test_objects_outlive_the_server(server: ApiServer) -> None:
    with server.running() as url, Client(url).watch(NODES, **now(server)) as watch:
        start = now(server)
    server.put(node("a"))
    with server.running() as url, Client(url).watch(NODES, **start) as watch:
        assert watch.names(1) == ["ADDED a"]


def test_answers_can_be_errors(server: ApiServer, client: Client) -> None:
    server.faults.answer(429, resource="nodes", times=2, retry_after=3)
    server.faults.answer(500, verb="watch")
    first = client.get(NODES)
    assert (first.status, first.headers["Retry-After"]) == (429, "3")
    assert first.body["details"]["retryAfterSeconds"] == 3
    assert client.get("/api/v1/pods").status == 200
    assert client.get(NODES).status == 429
    assert client.get(NODES).status == 200
    with client.watch("/api/v1/pods") as watch:
        assert watch.status == 500
    server.faults.answer(503, times=100)
    server.faults.clear()
    assert client.get(NODES).status == 200


def test_answers_can_be_late(server: ApiServer, client: Client) -> None:
    server.faults.slow(0.5, resource="nodes", verb="list")
    began = time.monotonic()
    assert client.get("/api/v1/pods").status == 200
    assert time.monotonic() - began < 0.4
    assert client.get(NODES).status == 200
    assert time.monotonic() - began > 0.5


def test_a_list_can_be_cut(server: ApiServer, client: Client) -> None:
    for i in range(10):
        server.put(node(f"n{i}"))
    server.faults.cut(resource="nodes", after=300)
    with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
        client.get(NODES)
    assert len(client.get(NODES).names) == 10


def test_a_watch_can_be_cut(server: ApiServer, client: Client) -> None:
    server.faults.cut(resource="nodes", verb="watch", after=1)
    with client.watch(NODES, **now(server)) as watch:
        server.put(node("a"))
        with pytest.raises((http.client.IncompleteRead, ConnectionResetError)):
            assert watch.response.read()


def test_a_line_can_be_truncated(server: ApiServer, client: Client) -> None:
    with client.watch(NODES, **now(server)) as watch:
        server.faults.truncate(resource="nodes")
        server.put(node("a"))
        with pytest.raises(json.JSONDecodeError):
            json.loads(watch.line())
        assert watch.line() == b""


def test_a_watch_can_be_silent(server: ApiServer, client: Client) -> None:
    server.faults.silence(resource="nodes")
    with client.watch(NODES, allowWatchBookmarks="true", **now(server)) as watch:
        server.put(node("a"))
        assert watch.quiet(0.6)


def test_a_watch_can_have_bookmarks_only(server: ApiServer, client: Client) -> None:
    server.faults.bookmarks_only(resource="nodes")
    with client.watch(NODES, allowWatchBookmarks="true", **now(server)) as watch:
        server.put(node("a"))
        type_, seen = watch.event()
        assert type_ == "BOOKMARK"
        assert seen["metadata"]["resourceVersion"] == str(server.version)


def test_events_can_come_twice_and_in_the_wrong_order(server: ApiServer, client: Client) -> None:
    with client.watch(NODES, **now(server)) as watch:
        server.faults.duplicate(resource="nodes")
        server.put(node("a"))
        assert watch.names(2) == ["ADDED a", "ADDED a"]
        server.faults.reorder(resource="nodes")
        for name in "bcd":
            server.put(node(name))
        assert watch.names(3) == ["ADDED c", "ADDED b", "ADDED d"]


def test_events_can_be_lost_with_a_410_after_them(server: ApiServer, client: Client) -> None:
    with client.watch(NODES, allowWatchBookmarks="true", **now(server)) as watch:
        server.faults.drop(resource="nodes")
        server.put(node("a"))
        server.put(node("b"))
        type_, seen = watch.event()
        assert (type_, seen["code"]) == ("ERROR", 410)
        assert watch.line() == b""
    assert client.get(NODES).names == ["a", "b"]


def test_objects_can_lack_fields(server: ApiServer, client: Client) -> None:
    server.put({**node("a"), "status": {"addresses": [], "conditions": []}})
    server.put(node("b"))
    server.faults.remove_fields("nodes", "a", "spec", "status.addresses", "no.such.field")
    assert "spec" not in client.get(f"{NODES}/a").body
    listed = client.get(NODES).body["items"]
    assert listed[0]["status"] == {"conditions": []}
    assert "spec" in listed[1]
    server.faults.clear()
    assert "spec" in client.get(f"{NODES}/a").body
