"""The agent's rights in the cluster are what it asks for: found by running what asks."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncGenerator, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml

from cubelet.config.node import KubernetesSettings
from cubelet.sources.api import ApiSource
from cubelet.sources.api import node as node_keeper
from cubelet.sources.api.connection import Connection
from cubelet.sources.api.errors import Unreachable
from cubelet.sources.api.events import EventWriter, Reference
from cubelet.sources.api.node import NodeKeeper
from cubelet.sources.api.resources import resources
from cubelet.sources.api.servers import Servers
from cubelet.sources.api.session import Sent

MANIFEST = Path(__file__).parent.parent / "deploy/cubelet.yaml"

Rule = tuple[str, str, str, str]
"""API group, resource, resource name ('' for any), verb."""


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str
    listed: str = ""
    """Of which name, if it lists objects of one name."""


def _named(selector: str) -> str:
    return selector.removeprefix("metadata.name=")


class Recorder(Connection):
    """A server that has whatever it is asked for, and a node with our taint; notes requests."""

    def __init__(self) -> None:
        super().__init__(KubernetesSettings(), Servers())
        self.asked: list[Asked] = []

    @contextlib.asynccontextmanager
    async def get(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        idle: float | None = None,
        total: float | None = None,
    ) -> AsyncGenerator[Any]:
        self.asked.append(Asked("GET", path, _named(query.get("fieldSelector", ""))))
        yield self

    async def body(self) -> bytes:
        taint = f'{{"key": "{node_keeper.TAINT}", "effect": "NoSchedule"}}'
        return f'{{"spec": {{"taints": [{taint}]}}, "metadata": {{"uid": "1"}}}}'.encode()

    async def send(self, path: str, sent: Sent, seconds: float = 10.0) -> bytes:
        self.asked.append(Asked(sent.method, path))
        return b"{}"


async def _requests() -> list[Asked]:
    """What an agent asks besides watching, by running what asks."""
    recorder = Recorder()
    keeper = NodeKeeper(recorder, "node1")
    keeper.serve()
    events = EventWriter(recorder, "node1", pause=0)
    events.warn(Reference("v1", "ConfigMap", "kube-system", "cubelet"), "r", "m")
    events.warn(Reference("v1", "Service", "shop", "web", "uid"), "r", "m")
    tasks = [asyncio.ensure_future(work.run()) for work in (keeper, events)]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return recorder.asked


async def _pod_request(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What CNI's ADD asks for a pod that is not known."""
    asked = []

    def get(_: object, path: str, *arguments: object, **options: object) -> None:
        asked.append(Asked("GET", path))
        raise Unreachable("nobody is there")

    monkeypatch.setattr(Connection, "get", get)
    source = ApiSource(
        KubernetesSettings(), "node1", lambda _: None, lambda _: None, lambda _: None
    )
    with contextlib.suppress(Unreachable):
        await source.find_pod("shop/web")
    return asked


_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch"}
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/v1)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?"
)


def permission(asked: Asked) -> Rule:
    """What RBAC must allow for a request."""
    found = _PATH.fullmatch(asked.path)
    assert found, asked
    resource = "/".join(filter(None, found.group("resource", "subresource")))
    name = (found["name"] or asked.listed) if resource == "configmaps" else ""
    verb = "list" if asked.listed else _VERBS[asked.method]
    return found["group"] or "", resource, name or "", verb


def watched() -> Iterator[Rule]:
    """What RBAC must allow for the watches."""
    for each in resources(KubernetesSettings().config_map):
        group = each.api_version.rpartition("/")[0]
        name = _named(each.field_selector)
        yield from ((group, each.plural, name, verb) for verb in ("list", "watch"))


def allowed() -> set[Rule]:
    """What the roles allow."""
    return {
        (group, resource, name, verb)
        for document in yaml.safe_load_all(MANIFEST.read_text())
        if document["kind"] in ("ClusterRole", "Role")
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def test_the_agent_may_do_what_it_does_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asyncio.run(_requests()) + asyncio.run(_pod_request(monkeypatch))
    needed = {*watched(), *map(permission, requests)}
    assert ("", "nodes/status", "", "patch") in needed
    assert ("", "events", "", "create") in needed
    assert allowed() == needed
