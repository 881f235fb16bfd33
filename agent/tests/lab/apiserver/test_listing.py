"""The lab's API server: lists, their versions, pages and selectors."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from cubelet.lab.apiserver import ApiServer

from ...helpers.apiclient import Client, node, pod


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    with server.running() as url:
        yield Client(url)


def nodes(server: ApiServer, names: str) -> None:
    for name in names:
        server.put(node(name))


def test_a_list_is_ordered_and_at_the_present_version(server: ApiServer, client: Client) -> None:
    for namespace, name in (("b", "x"), ("a", "y"), ("b", "a"), ("a-b", "z")):
        server.put(pod(name, namespace))
    everything = client.get("/api/v1/pods")
    assert everything.body["kind"] == "PodList"
    assert everything.names == ["y", "z", "a", "x"]
    assert everything.version == str(server.version)
    assert client.get("/api/v1/namespaces/b/pods").names == ["a", "x"]


@pytest.mark.parametrize("version", ["", "0", "1", "now"])
def test_a_list_at_or_after_a_version(server: ApiServer, client: Client, version: str) -> None:
    nodes(server, "ab")
    asked = str(server.version) if version == "now" else version
    assert client.get("/api/v1/nodes", resourceVersion=asked).names == ["a", "b"]


def test_a_list_from_the_future_is_a_timeout(server: ApiServer, client: Client) -> None:
    answer = client.get("/api/v1/nodes", resourceVersion=str(server.version + 1))
    assert answer.status == 504
    assert answer.headers["Retry-After"] == "1"
    assert answer.body["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"


def test_pages_show_one_moment(server: ApiServer, client: Client) -> None:
    nodes(server, "bdf")
    first = client.get("/api/v1/nodes", limit="2")
    assert first.names == ["b", "d"]
    assert first.body["metadata"]["remainingItemCount"] == 1
    nodes(server, "ace")
    server.delete("nodes", "f")
    second = client.get("/api/v1/nodes", **{"limit": "2", "continue": first.token})
    assert second.names == ["f"]
    assert second.version == first.version
    assert second.token == ""


def test_exactly_a_full_page_is_the_last(server: ApiServer, client: Client) -> None:
    nodes(server, "ab")
    assert client.get("/api/v1/nodes", limit="2").token == ""


def test_an_expired_token_comes_with_another(server: ApiServer, client: Client) -> None:
    nodes(server, "abcd")
    first = client.get("/api/v1/nodes", limit="2")
    server.expire_continue_tokens()
    expired = client.get("/api/v1/nodes", **{"limit": "2", "continue": first.token})
    assert (expired.status, expired.body["reason"]) == (410, "Expired")
    nodes(server, "e")
    server.delete("nodes", "c")
    rest = client.get("/api/v1/nodes", **{"limit": "9", "continue": expired.token})
    assert rest.names == ["d", "e"]  # what is there now, behind the last key that was given
    assert rest.version == str(server.version)


def test_lists_begun_long_ago_expire_by_themselves(server: ApiServer, client: Client) -> None:
    nodes(server, "abc")
    first = client.get("/api/v1/nodes", limit="1")
    for i in range(20):
        server.put(node(f"n{i}"))
        client.get("/api/v1/nodes", limit="1")
    again = {"limit": "1", "continue": first.token}
    assert client.get("/api/v1/nodes", **again).status == 410


def test_a_list_at_exactly_a_version(server: ApiServer, client: Client) -> None:
    nodes(server, "abc")
    then = client.get("/api/v1/nodes", limit="1").version
    nodes(server, "d")
    exact = {"resourceVersion": then, "resourceVersionMatch": "Exact"}
    assert client.get("/api/v1/nodes", **exact).names == ["a", "b", "c"]
    server.expire_continue_tokens()
    assert client.get("/api/v1/nodes", **exact).status == 410


def test_a_list_from_the_watch_cache_has_no_pages(server: ApiServer, client: Client) -> None:
    nodes(server, "abc")
    answer = client.get("/api/v1/nodes", limit="1", resourceVersion="0")
    assert answer.names == ["a", "b", "c"]


@pytest.mark.parametrize(
    "query",
    [
        {"limit": "x"},
        {"limit": "-1"},
        {"resourceVersion": "x"},
        {"continue": "%"},
        {"continue": "e30="},
        {"resourceVersionMatch": "Exact"},
        {"resourceVersion": "1", "resourceVersionMatch": "Sometimes"},
        {"fieldSelector": "status.phase=Running"},
        {"fieldSelector": "spec.nodeName=n1"},  # of nodes
        {"labelSelector": "a in b"},
        {"labelSelector": "a=b=c"},
    ],
)
def test_what_makes_no_sense_is_refused(client: Client, query: dict[str, str]) -> None:
    answer = client.get("/api/v1/nodes", **query)
    assert (answer.status, answer.body["reason"]) == (400, "BadRequest")


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("app=web", ["a", "b"]),
        ("app==web,tier=front", ["a"]),
        ("app!=web", ["c", "d"]),
        ("app", ["a", "b", "c"]),
        ("!app", ["d"]),
        ("app in (web,db)", ["a", "b", "c"]),
        ("app in (web), tier notin (front)", ["b"]),
        ("tier notin (front)", ["b", "c", "d"]),
    ],
)
def test_labels_select(server: ApiServer, client: Client, selector: str, names: list[str]) -> None:
    server.put(pod("a", app="web", tier="front"))
    server.put(pod("b", app="web"))
    server.put(pod("c", app="db"))
    server.put(pod("d"))
    assert client.get("/api/v1/pods", labelSelector=selector).names == names


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("metadata.name=a", ["a"]),
        ("metadata.namespace=shop", ["b"]),
        ("spec.nodeName=n1", ["a", "b"]),
        ("spec.nodeName!=n1", ["c"]),
        ("spec.nodeName=", ["c"]),
        ("spec.nodeName=n1,metadata.namespace=default", ["a"]),
    ],
)
def test_fields_select(server: ApiServer, client: Client, selector: str, names: list[str]) -> None:
    server.put(pod("a", on="n1"))
    server.put(pod("b", "shop", on="n1"))
    server.put(pod("c"))
    assert client.get("/api/v1/pods", fieldSelector=selector).names == names


def test_pages_of_a_selection_are_full(server: ApiServer, client: Client) -> None:
    for i in range(6):
        server.put(pod(f"p{i}", parity="even" if i % 2 == 0 else "odd"))
    first = client.get("/api/v1/pods", labelSelector="parity=odd", limit="2")
    assert first.names == ["p1", "p3"]
    assert "remainingItemCount" not in first.body["metadata"]
    query = {"labelSelector": "parity=odd", "continue": first.token}
    assert client.get("/api/v1/pods", **query).names == ["p5"]


def test_many_objects_are_loaded_and_served_quickly(server: ApiServer, client: Client) -> None:
    began = time.monotonic()
    count = 120_000
    loaded = server.load("pods", (pod(f"p{i}", f"ns{i % 100}", on="n") for i in range(count)))
    assert loaded == count
    assert time.monotonic() - began < 10  # a second or two on a machine that does nothing else
    began = time.monotonic()
    page = client.get("/api/v1/pods", limit="500")
    assert page.body["metadata"]["remainingItemCount"] == count - 500
    next_page = {"limit": "500", "continue": page.token}
    assert len(client.get("/api/v1/pods", **next_page).names) == 500
    assert time.monotonic() - began < 5
