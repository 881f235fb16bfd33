"""How the server is reached: kubeconfig, service account, tokens that rotate, another address."""

from __future__ import annotations

import asyncio
import gc
import socket
from pathlib import Path
from typing import Any

import certifi
import pytest
from kubernetes.aio.config import incluster_config

from cubelet.lab.apiserver import ApiServer
from cubelet.sources.api import session

from .following import Follower, following, pod, until


@pytest.fixture
def account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The files of a service account; the environment names a server that is not there."""
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "1")
    token, authority = tmp_path / "token", tmp_path / "ca.crt"
    token.write_text("old")
    authority.write_text(Path(certifi.where()).read_text())
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    return token


async def rotates(server: ApiServer, token: Path, follower: Follower) -> None:
    """The server accepts another token from now on, and all watches begin anew."""
    await follower.agrees()
    await until(lambda: follower.requests("Pod", watches=True) > 0)
    token.write_text("new")
    server.tokens = {"new"}
    server.put(pod("b", "10.1.0.3"))
    for each in ("pods", "services", "nodes"):
        server.end_watches(each)
    server.put(pod("c", "10.1.0.4"))
    await follower.agrees()
    assert not follower.reports
    assert follower.requests("Pod", watches=False) == 1
    assert follower.requests("Pod", watches=True) <= 4


def test_the_token_of_a_service_account_rotates(account: Path, tmp_path: Path) -> None:
    async def run() -> None:
        server = ApiServer(tokens={"old"})
        server.put(pod("a"))
        async with (
            server.serving() as url,
            following(server, tmp_path, url=url, kubeconfig=None, api_servers=(url,)) as follower,
        ):
            await rotates(server, account, follower)

    asyncio.run(run())
    gc.collect()


def test_a_token_file_of_a_kubeconfig_rotates(tmp_path: Path) -> None:
    async def run() -> None:
        token, server = tmp_path / "token", ApiServer(tokens={"old"})
        token.write_text("old")
        server.put(pod("a"))
        async with following(server, tmp_path, user=f"tokenFile: {token}") as follower:
            await rotates(server, token, follower)

    asyncio.run(run())
    gc.collect()


def test_a_plugin_gives_another_token(tmp_path: Path) -> None:
    async def run() -> None:
        token, plugin, server = tmp_path / "token", tmp_path / "plugin", ApiServer(tokens={"old"})
        token.write_text("old")
        plugin.write_text(
            "#!/bin/sh\n"
            'echo "{\\"apiVersion\\": \\"client.authentication.k8s.io/v1\\", '
            '\\"kind\\": \\"ExecCredential\\", '
            f'\\"status\\": {{\\"token\\": \\"$(cat {token})\\"}}}}"\n'
        )
        plugin.chmod(0o755)
        server.put(pod("a"))
        user = f"exec: {{apiVersion: client.authentication.k8s.io/v1, command: {plugin}}}"
        async with following(server, tmp_path, user=user) as follower:
            await rotates(server, token, follower)

    asyncio.run(run())
    gc.collect()


def test_a_plugin_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cubelet.sources.api.session._LOADING", 0.1)

    async def run() -> None:
        user = "exec: {apiVersion: client.authentication.k8s.io/v1, command: sleep, args: ['0.3']}"
        async with following(ApiServer(), tmp_path, user=user) as follower:
            await until(lambda: follower.problems)
            assert "gave no credentials within 0.1 s" in follower.problems[0].message
        await asyncio.sleep(0.5)  # the plugins end by themselves

    asyncio.run(run())


def test_the_server_of_the_environment(account: Path, tmp_path: Path) -> None:
    """Without another address the agent asks where the cluster's environment says."""

    async def run() -> None:
        async with following(ApiServer(), tmp_path, kubeconfig=None) as follower:
            await until(lambda: follower.problems)
            (problem,) = follower.problems
            assert problem.message.startswith("https://127.0.0.1:1 is away since ")

    asyncio.run(run())


def test_another_address_than_the_kubeconfigs(tmp_path: Path) -> None:
    async def run() -> None:
        server = ApiServer(tokens={"secret"})
        server.put(pod("a"))
        async with (
            server.serving() as url,
            following(server, tmp_path, url="https://127.0.0.1:1", api_servers=(url,)) as follower,
        ):
            await follower.agrees()

    asyncio.run(run())


def test_connections_ask_after_their_peer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that vanishes without a word is noticed by the kernel."""
    made: list[socket.socket] = []
    make = session._make_socket

    def noted(address: tuple[Any, ...]) -> socket.socket:
        made.append(make(address))
        return made[-1]

    monkeypatch.setattr(session, "_make_socket", noted)

    async def run() -> None:
        server = ApiServer()
        async with following(server, tmp_path) as follower:
            await follower.agrees()
            for each in made:
                assert each.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
                assert each.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        assert made

    asyncio.run(run())


def test_no_kubeconfig(tmp_path: Path) -> None:
    """It may come later: a node's files are put in place in no particular order."""

    async def run() -> None:
        server, path = ApiServer(), tmp_path / "later"
        server.put(pod("a"))
        async with following(server, tmp_path, kubeconfig=path) as follower:
            await until(lambda: follower.problems)
            (problem,) = follower.problems
            assert f"kubeconfig {path} cannot be used: " in problem.message
            path.write_text((tmp_path / "kubeconfig").read_text())
            await follower.agrees()
            await until(lambda: not follower.problems)

    asyncio.run(run())


@pytest.mark.parametrize("text", ["", "[]", "a: {", "{current-context: a, contexts: []}"])
def test_a_kubeconfig_that_makes_no_sense(tmp_path: Path, text: str) -> None:
    async def run() -> None:
        path = tmp_path / "bad"
        path.write_text(text)
        async with following(ApiServer(), tmp_path, kubeconfig=path) as follower:
            await until(lambda: follower.problems)
            assert f"kubeconfig {path} cannot be used: " in follower.problems[0].message

    asyncio.run(run())


def test_outside_a_cluster_and_without_a_kubeconfig(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)

    async def run() -> None:
        async with following(ApiServer(), tmp_path, kubeconfig=None) as follower:
            await until(lambda: follower.problems)
            assert "outside a cluster set kubernetes.kubeconfig" in follower.problems[0].message

    asyncio.run(run())
