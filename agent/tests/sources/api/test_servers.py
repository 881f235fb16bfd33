"""Several API servers: the next one is asked when one is away, and one that moved is found."""

from __future__ import annotations

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cubelet.config.node import SettingsError, parse
from cubelet.lab.apiserver import ApiServer
from cubelet.sources.api.feed import ApiFeed
from cubelet.sources.api.servers import Servers, endpoints_of, host_of
from cubelet.sources.decode import decode_object
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.objects import EndpointSlice

from ...helpers.aio import in_loop
from .following import endpoints, following, node, pod, until
from .test_tls import authority, secured, trusting

GONE = "http://127.0.0.1:1"
"""A server that refuses connections."""
A, B, C = (f"https://192.0.2.{each}:6443" for each in (1, 2, 3))


def test_they_are_tried_in_their_order_and_again() -> None:
    servers = Servers([f"{A}/", B], [(ip_address("192.0.2.3"), 6443)])
    seen = []
    for _ in range(4):
        seen.append(servers.current)
        servers.failed(servers.current)
    assert seen == [A, B, C, A]


def test_one_server_that_fails_many_requests_leads_on_once() -> None:
    servers = Servers([A, B])
    for _ in range(3):
        servers.failed(A)
    assert servers.current == B


def test_one_that_is_no_longer_known_is_not_asked() -> None:
    servers = Servers([A], [(ip_address("192.0.2.2"), 6443)])
    servers.failed(A)
    assert servers.current == B
    servers.endpoints = ((ip_address("192.0.2.3"), 6443),)
    assert servers.urls == (A, C)
    assert servers.current == A


def test_the_credentials_server_counts_where_none_is_set() -> None:
    servers = Servers((), [(ip_address("2001:db8::1"), 6443)])
    assert not servers.current
    servers.by_credentials(f"{A}/")
    assert servers.urls == (A, "https://[2001:db8::1]:6443")
    configured = Servers([B])
    configured.by_credentials(A)
    assert configured.urls == (B,)


def test_what_the_cluster_says_counts_only_where_servers_prove_who_they_are() -> None:
    assert Servers(["http://192.0.2.1"], [(ip_address("192.0.2.2"), 80)]).urls == (
        "http://192.0.2.1",
    )


def test_endpoints_are_those_that_are_ready() -> None:
    manifest = endpoints("kubernetes", "192.0.2.9", "192.0.2.3")
    manifest["ports"] = [{"name": "https", "port": 6443}, {"name": "other", "port": 1}]
    manifest["endpoints"].append({"addresses": ["192.0.2.1"], "conditions": {"ready": False}})
    found = decode_object(manifest)
    assert isinstance(found, EndpointSlice)
    assert [(str(a), port) for a, port in endpoints_of(found)] == [
        ("192.0.2.3", 6443),
        ("192.0.2.9", 6443),
    ]


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("https://api.example:6443", "api.example"),
        ("https://192.0.2.1", ""),
        ("https://[2001:db8::1]:1", ""),
        ("https://[", ""),
        ("", ""),
    ],
)
def test_names_in_urls(url: str, name: str) -> None:
    assert host_of(url) == name


@pytest.mark.parametrize("url", ["192.0.2.1:6443", "https://", "https://a/b", "ftp://a"])
def test_what_is_no_url_of_a_server_is_told(url: str) -> None:
    with pytest.raises(SettingsError, match=r"kubernetes.api_servers\[0\]"):
        parse({"kubernetes": {"api_servers": [url]}})


@in_loop
async def test_the_first_that_is_there_is_followed(tmp_path: Path) -> None:
    server = ApiServer()
    server.put(pod("a"))
    async with (
        server.serving() as url,
        following(server, tmp_path, url=GONE, api_servers=(GONE, f"{url}/")) as follower,
    ):
        await follower.agrees()
        assert not follower.reports


@in_loop
async def test_a_server_with_errors_of_its_own_gives_way(tmp_path: Path) -> None:
    broken, server = ApiServer(), ApiServer()
    broken.faults.answer(500, times=1000)
    server.put(pod("a"))
    async with (
        broken.serving() as bad,
        server.serving() as url,
        following(server, tmp_path, url=bad, api_servers=(bad, url)) as follower,
    ):
        await follower.agrees()


@pytest.fixture(scope="module")
def trusted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return authority(tmp_path_factory.mktemp("servers") / "one")


def test_a_server_that_is_lost_under_watches(tmp_path: Path, trusted: Path) -> None:
    async def run() -> None:
        server = ApiServer()
        server.put(pod("a"))
        async with (
            server.serving() as plain,
            contextlib.AsyncExitStack() as stack,
            secured(plain, trusted) as second,
        ):
            first = await stack.enter_async_context(secured(plain, trusted))
            path = trusting(tmp_path, first, trusted)
            given: dict[str, Any] = {"kubeconfig": path, "api_servers": (first, second)}
            async with following(server, tmp_path, url=first, **given) as follower:
                await follower.agrees()
                assert follower.source.connection.server == first
                await stack.aclose()
                server.put(pod("b", "10.1.0.3"))
                await follower.agrees()
                assert follower.source.connection.server == second
                assert not follower.problems

    asyncio.run(run())
    gc.collect()


@contextlib.asynccontextmanager
async def fed(folder: Path, kubeconfig: Path) -> AsyncIterator[ApiFeed]:
    """A feed that is being run; its memory is in the folder."""
    given = {"node_name": "node1", "kubernetes": {"kubeconfig": str(kubeconfig)}}
    memory, state = Memory(folder / "memory.json"), State()
    feed = ApiFeed(parse(given), memory, state, lambda _: None, lambda: None)
    running = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def endpoint(url: str) -> dict[str, Any]:
    """The EndpointSlice in which a server says where it is."""
    manifest = endpoints("kubernetes", "127.0.0.1")
    manifest["ports"] = [{"name": "https", "port": int(url.rpartition(":")[2])}]
    return manifest


def test_a_server_that_moved_is_found_also_after_a_restart(tmp_path: Path, trusted: Path) -> None:
    """The agent is told of the new place while the old one is there; the settings never change."""

    async def run() -> None:
        server = ApiServer()
        server.put(node("node1"))
        async with server.serving() as plain, secured(plain, trusted) as new:
            async with secured(plain, trusted) as old:
                path = trusting(tmp_path, old, trusted)
                server.put(endpoint(new))
                async with fed(tmp_path, path) as feed:
                    await until(lambda: feed.synced)
            async with fed(tmp_path, path) as feed:
                await until(lambda: feed.synced)
                assert not feed.away

    asyncio.run(run())
    gc.collect()


@in_loop
async def test_a_name_that_nobody_resolves_leads_where_it_did(tmp_path: Path) -> None:
    server = ApiServer()
    server.put(pod("a"))
    servers = Servers(names={"api.invalid": ("127.0.0.1",)})
    async with server.serving() as url:
        named = url.replace("127.0.0.1", "api.invalid")
        async with following(server, tmp_path, url=named, servers=servers) as follower:
            await follower.agrees()
