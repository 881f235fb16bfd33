"""Probes over real HTTP: 200, or 503 with the reason."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request
from contextlib import AsyncExitStack

import pytest

from cubelet.config.node import SettingsError
from cubelet.daemon.http import Site, probes, serve, split_address


def ask(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as found:
            return found.status, found.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_probes_tell_the_truth_as_it_is_now() -> None:
    port, reasons = free_port(), {"live": "", "ready": "nothing is composed yet"}

    async def run() -> list[tuple[int, str]]:
        async with AsyncExitStack() as stack:
            address = f"127.0.0.1:{port}"
            handlers = probes(lambda: reasons["live"], lambda: reasons["ready"])
            await serve(stack, [Site("health", address, handlers)])
            before = [await asyncio.to_thread(ask, port, path) for path in ("/livez", "/readyz")]
            reasons.update(live="stuck", ready="")
            after = [
                await asyncio.to_thread(ask, port, path) for path in ("/livez", "/readyz", "/")
            ]
        return before + after

    answers = asyncio.run(run())
    assert answers[:4] == [
        (200, "ok\n"),
        (503, "nothing is composed yet\n"),
        (503, "stuck\n"),
        (200, "ok\n"),
    ]
    assert answers[4][0] == 404
    with socket.socket() as again:  # nothing listens any more
        assert again.connect_ex(("127.0.0.1", port)) != 0


def test_sites_of_one_address_share_a_server_and_others_do_not() -> None:
    port, other = free_port(), free_port()
    first = Site("health", f"127.0.0.1:{port}", {"/a": probes(str, str)["/livez"]})
    second = Site("metrics", f"127.0.0.1:{port}", {"/b": probes(str, str)["/livez"]})
    third = Site("metrics", f"127.0.0.1:{other}", {"/c": probes(str, str)["/livez"]})

    async def run() -> list[int]:
        async with AsyncExitStack() as stack:
            await serve(stack, [first, second, third])
            asked = ((port, "/a"), (port, "/b"), (other, "/c"), (other, "/a"))
            return [(await asyncio.to_thread(ask, *each))[0] for each in asked]

    assert asyncio.run(run()) == [200, 200, 200, 404]


def test_an_address_is_host_and_port() -> None:
    assert split_address("health", "127.0.0.1:9879") == ("127.0.0.1", 9879)
    assert split_address("health", "[::1]:80") == ("::1", 80)
    for text in ("9879", ":9879", "a:", "a:b", "a:0", "a:70000"):
        with pytest.raises(SettingsError, match=r"health: .* is not ADDRESS:PORT"):
            split_address("health", text)
