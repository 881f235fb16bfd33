"""Kubernetes Events about objects that the agents cannot use."""

from __future__ import annotations

import asyncio
import hashlib
import random
from collections import deque
from datetime import UTC, datetime
from typing import Any, NamedTuple

import msgspec
import structlog

from cubelet.sources.api.connection import Connection
from cubelet.sources.api.errors import ApiError, Refused
from cubelet.sources.api.session import Sent

log = structlog.get_logger()
_BACKLOG = 100
_PAUSE = 1.0
"""Seconds between two Events of one agent, on average."""
_LONGEST = 1000
"""Characters of a message; the API allows 1,024."""
_EXISTS = 409


class Reference(NamedTuple):
    """The object an Event is about; ``namespace`` is empty for one without.

    ``uid`` empty: it is asked for. ``plural`` is the kind's name in the API's paths.
    """

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""
    plural: str = ""


class _Metadata(msgspec.Struct, frozen=True):
    uid: str = ""


class _Object(msgspec.Struct, frozen=True):
    metadata: _Metadata = _Metadata()


class _List(msgspec.Struct, frozen=True):
    items: tuple[_Object, ...] = ()


class EventWriter:
    """Writes each Event once, even if many agents report the same.

    An Event's name is a hash of its contents without the reporting node, so only the first agent
    can create it. Events that do not fit into the backlog are dropped.
    """

    def __init__(self, connection: Connection, node: str, pause: float = _PAUSE) -> None:
        self._connection = connection
        self._node = node
        self._pause = pause
        self._waiting: deque[tuple[Reference, str, str]] = deque(maxlen=_BACKLOG)
        self._wake = asyncio.Event()

    def warn(self, about: Reference, reason: str, message: str) -> None:
        """Enqueue a Warning."""
        self._waiting.append((about, reason, message))
        self._wake.set()

    async def run(self) -> None:
        """Write what is enqueued until cancelled."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._waiting:
                about, reason, message = self._waiting.popleft()
                try:
                    await self._write(about, reason, message)
                except (ApiError, msgspec.DecodeError) as error:
                    log.warning("cannot write an Event", reason=reason, error=str(error))
                # A random pause, so that agents with the same Event do not send it at once.
                await asyncio.sleep(self._pause * 2 * random.random())

    async def _write(self, about: Reference, reason: str, message: str) -> None:
        if not about.uid:
            about = about._replace(uid=await self._uid(about))
        event = make_event(about, reason, message, self._node, datetime.now(UTC))
        path = f"/api/v1/namespaces/{event['metadata']['namespace']}/events"
        try:
            await self._connection.send(path, Sent("POST", event))
        except Refused as error:
            if error.code != _EXISTS:
                raise

    async def _uid(self, about: Reference) -> str:
        """``kubectl describe`` finds an object's Events by its uid; empty if there is none.

        Asked for by a list of one: what is watched may be listed, and need not be got.
        """
        group = "/api/v1" if about.api_version == "v1" else f"/apis/{about.api_version}"
        within = f"/namespaces/{about.namespace}" if about.namespace else ""
        path = f"{group}{within}/{about.plural or f'{about.kind.lower()}s'}"
        query = {"fieldSelector": f"metadata.name={about.name}"}
        async with self._connection.get(path, query, total=10.0) as answer:
            found = msgspec.json.decode(await answer.body(), type=_List).items
        return found[0].metadata.uid if found else ""


def make_event(
    about: Reference, reason: str, message: str, node: str, now: datetime
) -> dict[str, Any]:
    """A core/v1 Event of type Warning."""
    text = message if len(message) <= _LONGEST else f"{message[: _LONGEST - 3]}..."
    said = "\0".join((*about[:5], reason, text))
    digest = hashlib.sha256(said.encode()).hexdigest()[:16]
    time = now.strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{about.name[:200]}.{digest}",
            "namespace": about.namespace or "default",
        },
        "involvedObject": {
            "apiVersion": about.api_version,
            "kind": about.kind,
            "name": about.name,
            **({"namespace": about.namespace} if about.namespace else {}),
            **({"uid": about.uid} if about.uid else {}),
        },
        "type": "Warning",
        "reason": reason,
        "message": text,
        "count": 1,
        "firstTimestamp": time,
        "lastTimestamp": time,
        "source": {"component": "cubelet", "host": node},
        "reportingComponent": "cubelet.io/agent",
        "reportingInstance": node,
    }
