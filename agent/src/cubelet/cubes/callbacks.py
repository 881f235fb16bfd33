"""Calls an instance's Python when it is time, and when objects go; counts what it raises."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass

import structlog

from cubelet.cubes.context import CubeContext
from cubelet_hooks.objects import Object

log = structlog.get_logger()
_PART = 20
"""A tick is followed by so many times its own duration: all of a cube's take 5 % of the thread."""
_LONG = 0.05
"""Seconds after which others get their turn, and a tick is told of as a long one."""

_WAITING = 65_536
"""Objects that are gone which may wait for one instance."""


@dataclass
class Tally:
    """What an instance's Python was called for since the agent's start."""

    events: int = 0
    packets: int = 0
    ticks: int = 0
    gone: int = 0
    ended: int = 0
    failures: int = 0


class Failures:
    """The exceptions of one callback: all are counted, the first one is logged."""

    def __init__(self, instance: str, name: str, tally: Tally) -> None:
        self._instance = instance
        self._name = name
        self._tally = tally
        self._told = False

    def note(self, error: Exception) -> None:
        """Count one."""
        self.add(1, repr(error), error)

    def add(self, number: int, error: str, cause: Exception | None = None) -> None:
        """Count several, of which this was the first."""
        self._tally.failures += number
        if not self._told:
            instance, where = self._instance, self._name
            log.error("a cube failed", instance=instance, where=where, error=error, exc_info=cause)
        self._told = True


class Ticker:
    """Calls ``Cube.on_tick`` when it is due: at most once, however long the agent was busy.

    ``before`` is the ticker of the same instance in the composition before, whose time goes on.
    """

    def __init__(self, context: CubeContext, tally: Tally, before: Ticker | None) -> None:
        self._context = context
        self._seconds = context.cube.tick_seconds
        self._tally = tally
        self._failures = Failures(context.cube.instance, "on_tick", tally)
        self._told = False
        self._began: float = before._began if before else time.monotonic()
        self._took: float = before._took if before else 0.0
        self.retired = False

    @property
    def instance(self) -> str:
        """Whose it is."""
        return self._context.cube.instance

    @property
    def pause(self) -> float:
        """Seconds until it is due."""
        due = self._began + max(self._seconds, _PART * self._took)
        return max(0.0, due - time.monotonic())

    def tick(self) -> None:
        """Call it; runs on the datapath thread."""
        if self.retired:
            return
        self._began = time.monotonic()
        self._tally.ticks += 1
        try:
            self._context.cube.on_tick(self._context)
        except Exception as error:  # a cube's bug is not the agent's
            self._failures.note(error)
        self._took = time.monotonic() - self._began
        if self._took > _LONG and not self._told:
            self._told = True
            seconds = round(self._took, 3)
            log.warning("a cube's tick takes long", instance=self.instance, seconds=seconds)


class Departures:
    """Calls ``Cube.on_gone`` for objects that are no more, in their order, part by part.

    Those that waited for the instance in the composition ``before`` are told by this one.
    """

    def __init__(self, context: CubeContext, tally: Tally, before: Departures | None) -> None:
        self._context = context
        self._tally = tally
        self._failures = Failures(context.cube.instance, "on_gone", tally)
        self._waiting: deque[Object] = before._waiting if before else deque()
        self.retired = False

    @property
    def instance(self) -> str:
        """Whose they are."""
        return self._context.cube.instance

    @property
    def waiting(self) -> bool:
        """Whether some are to be told."""
        return bool(self._waiting) and not self.retired

    def add(self, gone: Object) -> None:
        """Let it be told, if its kind is wanted."""
        if gone.kind not in self._context.cube.gone:
            return
        if len(self._waiting) < _WAITING:
            self._waiting.append(gone)
        else:
            self._failures.note(OverflowError(f"{_WAITING} wait to be told: {gone.key} is not"))

    def batch(self) -> float:
        """Tell of some; returns the seconds that it took. Runs on the datapath thread."""
        began = time.monotonic()
        while self.waiting and time.monotonic() - began < _LONG:
            gone = self._waiting.popleft()
            self._tally.gone += 1
            try:
                self._context.cube.on_gone(gone, self._context)
            except Exception as error:  # a cube's bug is not the agent's
                self._failures.note(error)
        return time.monotonic() - began
