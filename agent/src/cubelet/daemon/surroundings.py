"""Follows what others do to the node's network, and asks for passes: at once, but not too many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from cubelet.net.changes import Affected
from cubelet.net.listener import Listener

log = structlog.get_logger()
_POLL = 0.25
"""Seconds between two looks at the settings that the kernel tells nobody of."""


@dataclass
class Pace:
    """How often something may be done: ``pause`` seconds apart at least, and for 1 / (1 + ``rest``)
    of the time at most. Rests longer than ``longest`` seconds are cut short."""

    pause: float
    rest: float
    longest: float = 10.0
    not_before: float = 0.0

    def began(self, now: float) -> None:
        """It is being done."""
        self.not_before = now + self.pause

    def ended(self, now: float, seconds: float) -> None:
        """It took so long."""
        self.not_before = now + min(max(self.pause, self.rest * seconds), self.longest)


def paces() -> dict[Affected, Pace]:
    """By what is affected. To judge paths again costs the agent nothing, and each flow 1 µs."""
    return {
        Affected.PATHS: Pace(0.25, 0),
        Affected.NODE: Pace(0.1, 2, longest=0.5),
        Affected.TABLES: Pace(1.0, 50),
    }


class Surroundings:
    """Hands over to ``note`` what is affected, as often as the paces allow.

    What comes after a quiet time is handed over at once; what comes too soon, once and later.
    ``astray`` says whether settings are no longer as they were left.
    """

    def __init__(self, note: Callable[[Affected], None], astray: Callable[[], bool]) -> None:
        self._note = note
        self._astray = astray
        self._paces = paces()
        self._pending = self._handed = Affected.NOTHING
        self._timer: asyncio.TimerHandle | None = None

    async def run(self) -> None:
        """Listen until cancelled."""
        loop = asyncio.get_running_loop()
        with Listener() as listener:
            loop.add_reader(listener, lambda: self.affected(listener.read()))
            try:
                while True:
                    await asyncio.sleep(_POLL)
                    if self._astray():
                        self.affected(Affected.NODE | Affected.PATHS)
            finally:
                loop.remove_reader(listener)

    def affected(self, found: Affected) -> None:
        """Have a pass look at this as soon as may be."""
        self._pending |= found
        if self._pending:
            self._hand_over()

    def passed(self, seconds: float) -> None:
        """A pass has ended, which took so long: what it has looked at has a rest."""
        now = asyncio.get_running_loop().time()
        for kind in self._handed:
            self._paces[kind].ended(now, seconds)
        self._handed = Affected.NOTHING

    def _hand_over(self) -> None:
        """Hand over what is due, and come back for the rest."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        due = [kind for kind in self._pending if self._paces[kind].not_before <= now]
        for kind in due:
            self._paces[kind].began(now)
            self._pending &= ~kind
            self._handed |= kind
            self._note(kind)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._pending:
            then = min(self._paces[kind].not_before for kind in self._pending)
            self._timer = loop.call_at(then, self._hand_over)
