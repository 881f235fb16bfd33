"""Marks this node's network as available: sets a condition, and removes a taint."""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import UTC, datetime

import msgspec
import structlog

from cubelet.sources.api.connection import Connection
from cubelet.sources.api.errors import ApiError
from cubelet.sources.api.session import Sent

log = structlog.get_logger()
TAINT = "cubelet.io/agent-not-ready"
"""A taint for new nodes, so that no pod is scheduled before the network is available."""
CONDITION = "NetworkUnavailable"
_STRATEGIC = "application/strategic-merge-patch+json"
_JSON_PATCH = "application/json-patch+json"
_RETRY = 5.0
_REVIEW = 300.0
"""Seconds until the Node is checked again: others may set the condition or the taint again."""


class _Taint(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    key: str
    effect: str
    value: str = ""
    time_added: str = ""


class _Condition(msgspec.Struct, frozen=True):
    type: str = ""
    status: str = ""


class _Spec(msgspec.Struct, frozen=True):
    taints: tuple[_Taint, ...] = ()


class _Status(msgspec.Struct, frozen=True):
    conditions: tuple[_Condition, ...] = ()


class _Node(msgspec.Struct, frozen=True):
    spec: _Spec = _Spec()
    status: _Status = _Status()


class NodeKeeper:
    """Once pods are served, clears ``NetworkUnavailable`` and removes our taint; again whenever
    they come back, as when a node is registered again under the same name."""

    def __init__(self, connection: Connection, name: str) -> None:
        self._connection = connection
        self._path = f"/api/v1/nodes/{name}"
        self._serving = asyncio.Event()
        self._look = asyncio.Event()
        self._failing = False

    def serve(self) -> None:
        """Start: pods are served from now on."""
        self._serving.set()

    def look(self) -> None:
        """Check the Node again, since it has changed."""
        self._look.set()

    async def run(self) -> None:
        """Keep condition and taint as they should be, until cancelled."""
        await self._serving.wait()
        while True:
            self._look.clear()
            try:
                await self._keep()
                self._failing, pause = False, _REVIEW
            except (ApiError, msgspec.DecodeError) as error:
                if not self._failing:
                    log.warning("cannot tell the API server of this node", error=str(error))
                self._failing, pause = True, _RETRY
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause * (0.5 + random.random())):
                    await self._look.wait()

    async def _keep(self) -> None:
        async with self._connection.get(self._path, {}, total=10.0) as answer:
            node = msgspec.json.decode(await answer.body(), type=_Node)
        if not any(c.type == CONDITION and c.status == "False" for c in node.status.conditions):
            await self._connection.send(f"{self._path}/status", _condition())
            log.info("node has a network", condition=CONDITION)
        if any(taint.key == TAINT for taint in node.spec.taints):
            await self._connection.send(self._path, _untaint(node.spec.taints))
            log.info("taint removed", taint=TAINT)


def _condition() -> Sent:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    condition = {
        "type": CONDITION,
        "status": "False",
        "reason": "CubeletIsUp",
        "message": "cubelet serves pods on this node",
        "lastHeartbeatTime": now,
        "lastTransitionTime": now,
    }
    return Sent("PATCH", {"status": {"conditions": [condition]}}, _STRATEGIC)


def _untaint(taints: tuple[_Taint, ...]) -> Sent:
    """A patch that fails if the taints have changed meanwhile (RFC 6902, "test")."""
    before = msgspec.to_builtins(taints)
    after = [taint for taint in before if taint["key"] != TAINT]
    steps = [
        {"op": "test", "path": "/spec/taints", "value": before},
        {"op": "replace", "path": "/spec/taints", "value": after},
    ]
    return Sent("PATCH", steps, _JSON_PATCH)
