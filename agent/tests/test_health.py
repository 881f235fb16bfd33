"""Probes over real HTTP: 200, or 503 with the reason."""

from __future__ import annotations

import asyncio
import socket
import urllib.error
import urllib.request
from contextlib import AsyncExitStack

import pytest

from cubelet.health import serve_health, split_address
from cubelet.settings import SettingsError


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
            await serve_health(stack, address, lambda: reasons["live"], lambda: reasons["ready"])
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


def test_without_an_address_nothing_listens() -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            await serve_health(stack, None, str, str)

    asyncio.run(run())


def test_an_address_is_host_and_port() -> None:
    assert split_address("127.0.0.1:9879") == ("127.0.0.1", 9879)
    assert split_address("[::1]:80") == ("::1", 80)
    for text in ("9879", ":9879", "a:", "a:b", "a:0", "a:70000"):
        with pytest.raises(SettingsError, match="is not ADDRESS:PORT"):
            split_address(text)
