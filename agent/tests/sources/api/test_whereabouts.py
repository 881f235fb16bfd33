"""Where the API server is, as the settings have it."""

from __future__ import annotations

import socket
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cubelet.config.node import KubernetesSettings
from cubelet.sources.api.whereabouts import find, server_url

from ...helpers.aio import in_loop

KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: b
contexts: [{name: a, context: {cluster: one}}, {name: b, context: {cluster: two}}]
clusters:
- {name: one, cluster: {server: "https://192.0.2.1:6443"}}
- {name: two, cluster: {server: "https://192.0.2.2:6443"}}
"""


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("10.96.0.1", "443", "https://10.96.0.1:443"),
        ("fd00::1", "6443", "https://[fd00::1]:6443"),
        ("api.example", "", "https://api.example:443"),
        ("", "", ""),
    ],
)
def test_in_a_cluster(monkeypatch: pytest.MonkeyPatch, host: str, port: str, url: str) -> None:
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", host)
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", port)
    assert server_url(KubernetesSettings()) == url


@pytest.mark.parametrize(
    ("text", "url"),
    [
        (KUBECONFIG, "https://192.0.2.2:6443"),
        (KUBECONFIG.replace("current-context: b", "current-context: c"), ""),
        ("[]", ""),
        ("{", ""),
        ("", ""),
    ],
)
def test_by_a_kubeconfig(tmp_path: Path, text: str, url: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(text)
    assert server_url(KubernetesSettings(kubeconfig=path)) == url
    assert server_url(KubernetesSettings(kubeconfig=tmp_path / "none")) == ""


@in_loop
async def test_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    async def answer(self: Any, host: str, port: int, **_: Any) -> list[Any]:
        if host != "api.example":
            raise socket.gaierror
        found = ("2001:db8::7", "192.0.2.9", "192.0.2.7", "192.0.2.9")
        return [(0, 0, 0, "", (each, port)) for each in found]

    monkeypatch.setattr("asyncio.base_events.BaseEventLoop.getaddrinfo", answer)
    addresses = ("192.0.2.7", "192.0.2.9", "2001:db8::7")
    assert await find("https://api.example:6443") == tuple((ip_address(a), 6443) for a in addresses)
    assert await find("https://192.0.2.1") == ((ip_address("192.0.2.1"), 443),)
    assert await find("http://[fd00::1]:8080/x") == ((ip_address("fd00::1"), 8080),)
    for url in ("https://gone.example", "https://:6443", "https://x:port", ""):
        assert await find(url) == ()
