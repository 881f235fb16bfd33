"""Keeps cubes that are no longer needed for a while, to avoid recomposing back and forth."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cubelet.composer.composition import NEEDED

Needed = Mapping[str, tuple[str, ...]]
"""The port classes on which each instance has something to do, and the uplink's egress."""


class Lingering:
    """Remembers for some ``seconds`` on which port classes an instance was needed.

    Otherwise a policy that selects only a job's pods would add and remove the firewall with each
    run, and have all flows judged again each time.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._ends: dict[tuple[str, str], float] = {}
        self._needed: Needed = {}

    def joined(self, needed: Needed) -> Needed:
        """The classes needed now, and those needed within the last ``seconds``, by instance.

        Call it whenever ``needed`` may have changed, and when :attr:`left` is over.
        """
        now = self._now()
        for instance, classes in self._needed.items():
            for each in set(classes) - set(needed.get(instance, ())):
                self._ends.setdefault((instance, each), now + self._seconds)
        self._ends = {
            (instance, each): end
            for (instance, each), end in self._ends.items()
            if end > now and each not in needed.get(instance, (each,))
        }
        self._needed = needed
        return {
            instance: tuple(
                each for each in NEEDED if each in classes or (instance, each) in self._ends
            )
            for instance, classes in needed.items()
        }

    @property
    def left(self) -> float | None:
        """Seconds until the next class stops lingering; None if none lingers."""
        if not self._ends:
            return None
        return max(0.0, min(self._ends.values()) - self._now())
