"""The running cube's answers to ``cubelet ddos``: temporary blocks, which the datapath ends.

Blocks are in a map of the datapath, which outlives the agent. Their times are of CLOCK_MONOTONIC,
which C and Python both read.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any, Final

from cubelet_ddos import show
from cubelet_ddos.lists import allowed_by, blocked_by
from cubelet_ddos.records import Block, Cause, Source
from cubelet_ddos.settings import Settings
from cubelet_hooks.command import AgentError
from cubelet_hooks.context import Context
from cubelet_hooks.records import Family

BAD_ADDRESS, BAD_TIME, ALLOWED, NOT_BLOCKED = 1, 2, 3, 4
"""Codes of AgentErrors."""
LONGEST: Final = 366 * 86_400
"""Longest block in seconds; a Blocklist blocks for longer."""

Params = Mapping[str, Any]


def now() -> int:
    """Nanoseconds of the clock that blocks end by."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


@dataclass(frozen=True)
class Control:
    """One instance while it answers. Methods raise AgentError for an operator's mistake."""

    settings: Settings
    family: Family
    context: Context

    def block(self, params: Params) -> dict[str, object]:
        """Drop an address for a number of seconds from now on; replaces an earlier block."""
        source, seconds = self._source(params), params.get("seconds")
        if not isinstance(seconds, int) or not 1 <= seconds <= LONGEST:
            raise AgentError(
                BAD_TIME, f"--seconds {seconds}: from 1 to {LONGEST}", "or make a Blocklist"
            )
        for network, why in allowed_by(self.settings, self.context.view):
            if source.address in network:
                text = f"{source.address} is {why}, so nothing blocks it"
                raise AgentError(ALLOWED, text, f"{network} is allowed")
        until = now() + seconds * 1_000_000_000
        self.context.table("blocked")[source] = Block(until, 0, Cause.OPERATOR)
        self.context.log.info("blocked", source=str(source.address), seconds=seconds)
        return {"source": str(source.address), "seconds": seconds}

    def unblock(self, params: Params) -> dict[str, object]:
        """Let an address in again, with a fresh rate limit."""
        source, blocked = self._source(params), self.context.table("blocked")
        held = blocked.get(source)
        if held is None or held.until <= now():
            listed = blocked_by(self.settings, self.context.view)
            names = sorted({name for network, name, _ in listed if source.address in network})
            remedy = f"it is in: {', '.join(names)}" if names else "see: cubelet ddos list"
            raise AgentError(NOT_BLOCKED, f"{source.address} is not blocked for a time", remedy)
        self.context.table("buckets").pop(source, None)
        # The datapath may have removed it just now, at the end of its time.
        blocked.pop(source, None)
        self.context.log.info("unblocked", source=str(source.address))
        return {"source": str(source.address)}

    def list(self, _params: Params) -> list[dict[str, object]]:
        """The temporary blocks."""
        return show.temporary(self.context.table("blocked"), now())

    def _source(self, params: Params) -> Source:
        text = str(params.get("address", ""))
        try:
            address = ip_address(text)
        except ValueError:
            raise AgentError(
                BAD_ADDRESS, f"{text!r} is no address", "for prefixes make a Blocklist"
            ) from None
        if address.version != self.family:
            text = f"{address} is of IPv{address.version}"
            raise AgentError(BAD_ADDRESS, text, f"this node's datapath is of IPv{self.family}")
        return Source(address)


METHODS: Final[Mapping[str, Callable[[Control, Params], object]]] = {
    "block": Control.block,
    "unblock": Control.unblock,
    "list": Control.list,
}
