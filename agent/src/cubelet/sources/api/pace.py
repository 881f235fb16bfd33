"""Delays between requests: exponential backoff with jitter, and the server's Retry-After."""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass


async def _wait(wake: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await wake.wait()


@dataclass(frozen=True)
class Pace:
    """Delays in seconds, and the clock and random source that they use.

    The n-th delay in a row is ``first * 2**n``, at most ``longest``, times a random factor from
    0.5 to 1.5, so that agents which lose a server together do not come back together. A watch that
    lived for ``steady`` seconds, or longer than the last delay, resets n. A delay that the server
    asks for is honoured up to ``longest_asked``.
    """

    first: float = 0.5
    longest: float = 30.0
    steady: float = 10.0
    longest_asked: float = 300.0
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    wait: Callable[[asyncio.Event, float], Awaitable[None]] = _wait
    """Waits so many seconds, or until the event is set."""

    def spread(self, seconds: float) -> float:
        """``seconds`` times a random factor from 0.5 to 1.5."""
        return seconds * (0.5 + self.chance())


class Backoff:
    """One kind's delays."""

    def __init__(self, pace: Pace) -> None:
        self._pace = pace
        self._row = 0
        self._last = 0.0
        self._began: float | None = None

    def established(self) -> None:
        """A watch has begun."""
        self._began = self._pace.clock()

    @property
    def lived(self) -> float | None:
        """Seconds that the last watch lived; None if it was never established."""
        return None if self._began is None else self._pace.clock() - self._began

    async def pause(self, wake: asyncio.Event, *, asked: float = 0.0, clean: bool = False) -> None:
        """Wait before the next request, at least as long as the server ``asked`` for.

        A watch that ended ``clean`` after a steady life is continued at once. Setting ``wake`` ends
        the wait, unless the server asked for it.
        """
        pace, lived, self._began = self._pace, self.lived, None
        if lived is not None and lived >= min(self._last, pace.steady):
            self._row = 0
            if clean and lived >= pace.steady:
                return
        self._last = pace.spread(min(pace.first * 2.0**self._row, pace.longest))
        self._row = min(self._row + 1, 30)
        wanted = min(asked, pace.longest_asked) * (1 + 0.1 * pace.chance())
        if wanted > self._last:
            await pace.wait(asyncio.Event(), wanted)
        else:
            await pace.wait(wake, self._last)
