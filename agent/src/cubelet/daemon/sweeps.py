"""Removes idle flows, and fragments that have waited too long, now and then."""

from __future__ import annotations

import asyncio
import time

import structlog

from cubelet.control.reconciler import Reconciler
from cubelet.datapath.drops import Monitor
from cubelet.datapath.thread import DatapathThread

log = structlog.get_logger()
_PAUSE = 50
"""Times a sweep's duration to pause after it: sweeping takes 2 % of a CPU at most."""


class Sweeps:
    """Sweeps every ``seconds`` on the datapath thread, less often if sweeps take long."""

    def __init__(
        self, seconds: float, thread: DatapathThread, reconciler: Reconciler, monitor: Monitor
    ) -> None:
        self._seconds = seconds
        self._thread = thread
        self._reconciler = reconciler
        self._monitor = monitor

    async def run(self) -> None:
        """Sweep until cancelled."""
        took = 0.0
        while True:
            await asyncio.sleep(max(self._seconds, took * _PAUSE))
            took = await self._thread.run(self._sweep)

    def _sweep(self) -> float:
        """Sweep once; returns the seconds it took, without the wait for the thread."""
        began = time.monotonic()
        try:
            in_force = self._reconciler.switchover.in_force
            if in_force is not None:
                self._monitor.silence()
                in_force.sweeper.sweep()
                in_force.fragments.sweep()
        except Exception as error:  # a bug here must not end the agent
            log.error("a sweep failed", error=str(error))
            self._reconciler.problems["sweep"] = str(error)
        else:
            self._reconciler.problems.pop("sweep", None)
        return time.monotonic() - began
