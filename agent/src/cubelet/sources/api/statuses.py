"""What this node's cubes say of objects of their own: ``status.nodes.NODE`` of each.

All nodes write to one object, each to a key of its own by a merge patch (RFC 7396), which leaves
all else as it is: so they neither wait for each other nor undo each other.
"""

from __future__ import annotations

import asyncio
import random
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import structlog

from cubelet.sources.api.connection import Connection
from cubelet.sources.api.errors import NOT_FOUND, ApiError, Refused
from cubelet.sources.api.session import Sent
from cubelet_hooks.cube import Condition
from cubelet_hooks.resources import Resource

log = structlog.get_logger()
_MERGE = "application/merge-patch+json"
_PAUSE = 0.5
"""Seconds between two writes of one agent, on average."""
_RETRY = 5.0
_REVIEW = 300.0
"""Seconds until what the server has is read again: others may have changed it."""
_PAGE = "500"
_LONGEST = 1000
"""Characters of a message."""

About = tuple[str, str]
"""Kind and key of an object."""
Said = dict[str, Any]
"""What stands under the node's name: ``observedGeneration`` and ``conditions``."""


class _Metadata(msgspec.Struct, frozen=True):
    name: str = ""
    namespace: str = ""


class _Status(msgspec.Struct, frozen=True):
    nodes: Any = None


class _Item(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()
    status: _Status = _Status()


class _ListMeta(msgspec.Struct, frozen=True, rename={"more": "continue"}):
    more: str = ""


class _List(msgspec.Struct, frozen=True):
    items: tuple[_Item, ...] = ()
    metadata: _ListMeta = _ListMeta()


class StatusWriter:
    """Brings what the server has to what is wanted, one object at a time, and tries until it is.

    What an earlier run wrote is read first: it is not written again, and removed if nobody says it
    any more.
    """

    def __init__(self, connection: Connection, node: str, pause: float = _PAUSE) -> None:
        self._connection = connection
        self._node = node
        self._pause = pause
        self._resources: dict[str, Resource] = {}
        self._wanted: dict[About, Said] | None = None
        self._known: dict[str, dict[About, Said]] = {}
        self._wake = asyncio.Event()
        self._failing = False

    def want(self, resources: Iterable[Resource], conditions: Collection[Condition]) -> None:
        """Have these conditions stand with their objects, and none besides.

        Kinds that are not among the resources any more lose what was written to them.
        """
        self._resources |= {each.kind: each for each in resources if each.status}
        wanted = said(conditions)
        if wanted != self._wanted:
            self._wanted = wanted
            self._wake.set()

    async def run(self) -> None:
        """Write what is wanted until cancelled."""
        while True:
            self._wake.clear()
            pause = _REVIEW
            try:
                if self._wanted is not None:
                    await self._bring_up()
                self._failing = False
            except (ApiError, msgspec.DecodeError, msgspec.ValidationError) as error:
                if not self._failing:
                    log.warning("cannot write objects' status", error=str(error))
                self._failing, pause = True, _RETRY
            try:
                async with asyncio.timeout(pause * (0.5 + random.random())):
                    await self._wake.wait()
            except TimeoutError:
                self._known.clear()

    async def _bring_up(self) -> None:
        for kind, resource in tuple(self._resources.items()):
            if kind not in self._known:
                self._known[kind] = await self._read(resource)
            known = self._known[kind]
            while (about := self._next(kind, known)) is not None:
                await self._write(resource, about, known)
                # A random pause, so that agents that have the same to say do not say it at once.
                await asyncio.sleep(self._pause * 2 * random.random())

    def _next(self, kind: str, known: Mapping[About, Said]) -> About | None:
        """An object whose status is not as it is wanted by now."""
        wanted = {about: each for about, each in (self._wanted or {}).items() if about[0] == kind}
        for about in sorted(wanted.keys() | known.keys()):
            if wanted.get(about) != _timeless(known.get(about)):
                return about
        return None

    async def _write(self, resource: Resource, about: About, known: dict[About, Said]) -> None:
        wanted = (self._wanted or {}).get(about)
        told = _dated(wanted, known.get(about)) if wanted else None
        namespace, _, name = about[1].rpartition("/")
        path = f"{_path(resource, namespace)}/{name}/status"
        body = {"status": {"nodes": {self._node: told}}}
        try:
            await self._connection.send(path, Sent("PATCH", body, _MERGE))
        except Refused as error:
            if error.code != NOT_FOUND:
                raise
            # The object is gone, which the next pass will know. It is looked for again in a while.
        if told is None:
            known.pop(about, None)
        else:
            known[about] = told

    async def _read(self, resource: Resource) -> dict[About, Said]:
        """What stands under this node's name, by object."""
        found: dict[About, Said] = {}
        query = {"limit": _PAGE}
        while True:
            async with self._connection.get(_path(resource), query, total=30.0) as answer:
                page = msgspec.json.decode(await answer.body(), type=_List)
            for item in page.items:
                nodes = item.status.nodes
                told = nodes.get(self._node) if isinstance(nodes, dict) else None
                if told is not None:
                    key = "/".join(filter(None, (item.metadata.namespace, item.metadata.name)))
                    found[resource.kind, key] = told if isinstance(told, dict) else {}
            if not page.metadata.more:
                return found
            query["continue"] = page.metadata.more


def _path(resource: Resource, namespace: str = "") -> str:
    within = f"/namespaces/{namespace}" if namespace else ""
    return f"/apis/{resource.api_version}{within}/{resource.plural}"


def said(conditions: Iterable[Condition]) -> dict[About, Said]:
    """What is to stand under the node's name, by object; of one type of condition the first."""
    found: dict[About, dict[str, Condition]] = defaultdict(dict)
    for each in sorted(conditions, key=str):
        found[each.kind, each.key].setdefault(each.type, each)
    return {
        about: {
            "observedGeneration": max(each.generation for each in by_type.values()),
            "conditions": [_condition(each) for each in by_type.values()],
        }
        for about, by_type in found.items()
    }


def _condition(each: Condition) -> Said:
    return {
        "type": each.type,
        "status": "True" if each.status else "False",
        "reason": each.reason,
        "message": each.message[:_LONGEST],
        "observedGeneration": each.generation,
    }


def _timeless(told: Said | None) -> Said | None:
    """What the server has, without times, to be compared with what is wanted."""
    conditions = told.get("conditions") if told else None
    if told is None or not isinstance(conditions, list):
        return told
    kept = [
        {name: value for name, value in each.items() if name != "lastTransitionTime"}
        for each in conditions
        if isinstance(each, dict)
    ]
    return {**told, "conditions": kept}


def _dated(wanted: Said, told: Said | None) -> Said:
    """What is wanted, with the times since when its conditions have been what they are."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    before = told.get("conditions") if told else None
    since = {
        (each.get("type"), each.get("status")): each.get("lastTransitionTime")
        for each in (before if isinstance(before, list) else ())
        if isinstance(each, dict)  # others may have written anything there
    }
    dated = [
        {**each, "lastTransitionTime": since.get((each["type"], each["status"])) or now}
        for each in wanted["conditions"]
    ]
    return {**wanted, "conditions": dated}
