"""A source that follows a real HTTP server, with delays of milliseconds, and what it tells."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from cubelet.config.node import KubernetesSettings
from cubelet.lab.apiserver import ApiServer
from cubelet.lab.apiserver.resources import RESOURCES
from cubelet.sources.api import ApiSource, Malformed
from cubelet.sources.api.pace import Pace
from cubelet.sources.api.resources import Resource, resources
from cubelet.sources.api.servers import Servers
from cubelet.sources.decode import decode_object
from cubelet.sources.problem import Problem
from cubelet.state.cluster import State
from cubelet_hooks.objects import Change, Object

NODE = "node1"
QUICK = Pace(first=0.004, longest=0.064, steady=0.2)
"""Delays that fit into a test; jitter and growth are as they are in earnest."""
PATIENCE = 10.0
"""Seconds that a busy machine may take for what takes milliseconds."""
WATCHED = {each.kind: each for each in resources("kube-system/cubelet")}
PLURALS = {each.kind: each.key for each in RESOURCES}

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: it
contexts: [{{name: it, context: {{cluster: it, user: it}}}}]
clusters: [{{name: it, cluster: {{server: "{server}"}}}}]
users: [{{name: it, user: {{{user}}}}}]
"""


def kubeconfig(folder: Path, server: str, user: str) -> Path:
    path = folder / "kubeconfig"
    path.write_text(KUBECONFIG.format(server=server, user=user))
    return path


class Follower:
    """Applies what a source emits to a state, and keeps what it reports."""

    def __init__(
        self,
        server: ApiServer,
        settings: KubernetesSettings,
        pace: Pace,
        servers: Servers | None = None,
    ) -> None:
        self.server = server
        self.state = State()
        self.changes: list[Change] = []
        self.problems: list[Problem] = []
        self.reports: list[list[Problem]] = []
        self.malformed: list[Malformed] = []
        self.source = ApiSource(
            settings,
            NODE,
            self._emit,
            self._report,
            self.malformed.append,
            pace=pace,
            servers=servers,
        )

    def _emit(self, change: Change) -> None:
        assert self.state.apply(change) is not None, f"nothing new: {change}"
        self.changes.append(change)

    def _report(self, problems: list[Problem]) -> None:
        assert problems != self.problems
        self.problems = problems
        self.reports.append(problems)

    def held(self) -> dict[tuple[str, str], Object]:
        return {(each.kind, each.key): each for each in self.state}

    def requests(self, kind: str, *, watches: bool | None = None) -> int:
        """How many requests for a kind's objects came, all or (no) watches."""
        path = WATCHED[kind].path
        return sum(
            each.path == path and watches in (None, "watch=true" in each.query)
            for each in self.server.log
        )

    async def agrees(self) -> None:
        """Wait until the state is what the server's objects demand."""
        await until(lambda: self.held() == wanted(self.server), self._difference)

    def _difference(self) -> str:
        have, want = self.held(), wanted(self.server)
        lines = [
            f"{key}: has {have.get(key)}, should have {want.get(key)}"
            for key in have.keys() | want.keys()
            if have.get(key) != want.get(key)
        ]
        return "\n".join([*lines, *map(str, self.problems)])


def wanted(server: ApiServer) -> dict[tuple[str, str], Object]:
    """What a node has to know of all that the server holds."""
    return {
        (found.kind, found.key): found
        for each in RESOURCES
        if each.kind in WATCHED
        for stored in server.store.all(each)
        if (found := _needed(server.get(each.key, stored.name, stored.namespace))) is not None
    }


def _needed(manifest: Any) -> Object | None:
    found = decode_object(manifest)
    if found.kind == "ConfigMap" and found.key != "kube-system/cubelet":
        return None
    resource: Resource = WATCHED[found.kind]
    return resource.trim(found, NODE) if resource.trim else found


async def until(true: Callable[[], object], why: Callable[[], object] = lambda: "") -> None:
    """Wait for something to come true."""
    deadline = asyncio.get_running_loop().time() + PATIENCE
    while not true():
        assert asyncio.get_running_loop().time() < deadline, f"never came true: {why()}"
        await asyncio.sleep(0.002)


@contextlib.asynccontextmanager
async def following(
    server: ApiServer,
    folder: Path,
    /,
    *,
    pace: Pace = QUICK,
    url: str = "",
    user: str = "token: secret",
    servers: Servers | None = None,
    **settings: Any,
) -> AsyncIterator[Follower]:
    """Serve the server, unless it is at ``url`` already, and follow it as ``user``."""
    async with contextlib.AsyncExitStack() as stack:
        url = url or await stack.enter_async_context(server.serving())
        given = {"kubeconfig": kubeconfig(folder, url, user), "idle_seconds": 5.0, **settings}
        follower = Follower(server, KubernetesSettings(**given), pace, servers)
        running = asyncio.create_task(follower.source.run())
        try:
            yield follower
        finally:
            assert not running.done() or running.result() is None
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)


def node(name: str, **annotations: str) -> dict[str, Any]:
    return {
        "kind": "Node",
        "metadata": {"name": name, "annotations": annotations},
        "spec": {"podCIDR": "10.1.0.0/24"},
        "status": {"addresses": [{"type": "InternalIP", "address": "172.18.0.2"}]},
    }


def pod(name: str, address: str = "10.1.0.2", **fields: Any) -> dict[str, Any]:
    """A running pod; ``fields`` replace those of its spec (``nodeName``) and status (``phase``)."""
    spec = {"nodeName": NODE, "containers": [{"name": "c", "ports": [{"containerPort": 80}]}]}
    status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]}
    return {
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, "annotations": {"a": "b"}},
        "spec": {**spec, **{k: v for k, v in fields.items() if k not in status}},
        "status": {**status, **{k: v for k, v in fields.items() if k in status}},
    }


def service(name: str, port: object = 80) -> dict[str, Any]:
    return {
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"clusterIP": "10.96.0.10", "ports": [{"port": port}]},
    }


def endpoints(name: str, *addresses: str) -> dict[str, Any]:
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": {"name": name, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [each]} for each in addresses],
        "ports": [{"port": 8080}],
    }
