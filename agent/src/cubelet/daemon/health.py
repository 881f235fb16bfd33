"""The agent's health: readiness, liveness and problems."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from cubelet.config.live import Configuration
from cubelet.control.reconciler import Reconciler
from cubelet.cubes.discovery import Discovery
from cubelet.sources.feed import Feed
from cubelet.state.last_known import Memory

_MOST = 100
"""Complaints about objects that are listed; whoever may make objects may cause any number."""
_LONG = 1.0
"""Seconds of a pass from which on it is told."""
_STUCK = 300.0
"""Seconds that a pass may take before the liveness probe fails."""


class Health:
    """Asks the parts of the agent. ``pass_began`` is in monotonic seconds, None between passes.

    ``broken`` tells of files of the agent's state that could not be read, ``compiling`` for how
    many seconds the compiler has been at work, None if it is not.
    """

    def __init__(
        self,
        reconciler: Reconciler,
        feed: Feed,
        configuration: Configuration,
        discovery: Discovery,
        memory: Memory,
        broken: Callable[[], Iterable[str]],
        compiling: Callable[[], float | None],
    ) -> None:
        self._reconciler = reconciler
        self._feed = feed
        self._configuration = configuration
        self._discovery = discovery
        self._memory = memory
        self._broken = broken
        self._compiling = compiling
        self.pass_began: float | None = None
        self.also: list[Callable[[], Iterable[str]]] = []
        """What further parts have problems with."""

    @property
    def ready(self) -> bool:
        """Whether pods can be served: everything composed, attached, and the source read."""
        return not self.unready()

    def unready(self) -> str:
        """Why pods cannot be served; '' if they can."""
        if self._reconciler.serving and self._feed.usable:
            return ""
        return "; ".join([*self.problems(), *self.waiting()]) or "nothing is composed yet"

    def unalive(self) -> str:
        """Why the agent should be restarted; '' if it should not."""
        if self.pass_began is not None and time.monotonic() - self.pass_began > _STUCK:
            return f"a pass has been running for {time.monotonic() - self.pass_began:.0f} s"
        return ""

    def waiting(self) -> list[str]:
        """What the agent waits for before it has taken everything in."""
        found = []
        if not self._feed.synced:
            found.append("the source's objects have not all been read yet")
        seconds = self._compiling()
        if seconds is not None:
            served = (
                "the last one serves meanwhile" if self._reconciler.serving else "it is the first"
            )
            found.append(f"compiling a composition for {seconds:.0f} s; {served}")
        if self.pass_began is not None and time.monotonic() - self.pass_began > _LONG:
            found.append(f"a pass has been running for {time.monotonic() - self.pass_began:.0f} s")
        return found

    def problems(self) -> list[str]:
        """All current problems, each once: what has a configuration refused is in a place, too."""
        why = self._configuration.problem
        refused = [why] if why else []
        quarantined = self._discovery.quarantined().items()
        refused += [f"cube {kind} is quarantined: {reason}" for kind, reason in quarantined]
        found = [each for each in self._reconciler.problems.values() if each not in why]
        found += filter(None, [self._reconciler.switchover.modes.problem])
        found += _some(self._reconciler.rejected, "units")
        found += [self._memory.problem] if self._memory.problem else []
        found += self._broken()
        sweeper = self._reconciler.switchover.sweeper
        if sweeper is not None and sweeper.last is not None and sweeper.last.warning:
            found.append(sweeper.last.warning)
        found += _some(sorted(map(str, self._reconciler.complaints)), "objects")
        found += [each for problems in self.also for each in problems()]
        return [*map(str, self._feed.problems), *refused, *found]


def _some(texts: list[str], what: str) -> list[str]:
    more = len(texts) - _MOST
    return [*texts[:_MOST], f"{more} more {what} are complained about"] if more > 0 else texts
