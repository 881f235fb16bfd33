"""The interface that counts events of the agent; without ``/metrics`` it counts nothing."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from cubelet.cni.relay import Reply

_CNI_COMMANDS = frozenset(("ADD", "DEL", "CHECK", "GC", "STATUS"))


class Meters(Protocol):
    """Receives events of the agent."""

    def passed(self, seconds: float) -> None:
        """A pass has ended after so many seconds."""

    def recomposed(self) -> None:
        """Another composition has taken over."""

    def answered(self, command: str, code: int, seconds: float) -> None:
        """A CNI call has been answered: with this error code, 0 for a success."""


class NoMeters:
    """Counts nothing, for an agent without ``/metrics``."""

    def passed(self, seconds: float) -> None:
        """Ignored."""

    def recomposed(self) -> None:
        """Ignored."""

    def answered(self, command: str, code: int, seconds: float) -> None:
        """Ignored."""


def metered(
    handle: Callable[[Mapping[str, Any]], Awaitable[Reply]], meters: Meters
) -> Callable[[Mapping[str, Any]], Awaitable[Reply]]:
    """The handler of CNI calls, whose answers are counted by ``meters``."""

    async def handler(params: Mapping[str, Any]) -> Reply:
        began = time.monotonic()
        reply = await handle(params)
        command = params["env"].get("CNI_COMMAND", "")
        code = int((reply.output or {}).get("code", 0)) if reply.status else 0
        known = command if command in _CNI_COMMANDS else "unknown"
        meters.answered(known, code, time.monotonic() - began)
        return reply

    return handler
