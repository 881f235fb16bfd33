"""Cubes that are needed no more stay for a while: what is needed on and off is not recomposed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from cubelet.composer.composition import NEEDED

Needed = Mapping[str, tuple[str, ...]]
"""The port classes on which each instance has something to do, and the uplink's egress."""


class Lingering:
    """Remembers for some seconds where an instance was needed.

    A policy that selects only a job's pods would else bring the firewall in and take it out with
    each run, and have all flows judged again each time.
    """

    def __init__(self, seconds: float, now: Callable[[], float] = time.monotonic) -> None:
        self._seconds = seconds
        self._now = now
        self._ends: dict[tuple[str, str], float] = {}
        self._needed: Needed = {}

    def joined(self, needed: Needed) -> Needed:
        """What is needed now, and what was until a moment ago by instances still there.

        To be called whenever what is needed may have changed or :attr:`left` is over.
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
        """Seconds until the next one goes; None if none lingers."""
        if not self._ends:
            return None
        return max(0.0, min(self._ends.values()) - self._now())
