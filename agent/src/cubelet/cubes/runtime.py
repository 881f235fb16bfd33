"""Delivers the events and packets of the composed cubes' C to their Python.

Each ring that a cube's C writes to is read in batches, in the one thread that touches maps. A
batch is bounded, and after it the reader sleeps for as long as it took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import structlog

from cubelet.bpf.maps import BpfMap
from cubelet.bpf.ringbuf import RingBuffer
from cubelet.composer.composition import Composition
from cubelet.composer.provided import (
    EVENT_RATE,
    EVENT_RING,
    PACKET_RATE,
    PACKET_RING,
)
from cubelet.cubes.context import Counts, CubeContext
from cubelet.cubes.outside import Outside, Ring, call_back
from cubelet.datapath.thread import OnDatapath
from cubelet.net.frames import Frames
from cubelet_hooks.cube import Cube
from cubelet_hooks.view import View

log = structlog.get_logger()
_BATCH = 256
"""Records of a ring that are delivered before others get their turn."""
_BATCH_SECONDS = 0.05
"""The time after which a batch ends early."""


@dataclass
class _Tally:
    events: int = 0
    packets: int = 0
    failures: int = 0


class _Tap:
    """Delivers the records of one ring of an instance to its Python."""

    def __init__(self, context: CubeContext, ring: str, tally: _Tally) -> None:
        self._context = context
        self._tally = tally
        self._of: Ring = "event" if ring == EVENT_RING else "packet"
        self._failed = False
        self._ring = RingBuffer(context.map(ring))
        self.retired = False

    def fileno(self) -> int:
        return self._ring.fileno()

    def discard(self) -> None:
        """Discard all waiting records."""
        for _ in self._ring.records():
            pass

    def batch(self) -> float:
        """Deliver at most a batch of the waiting records; returns the seconds that it took."""
        began = time.monotonic()
        if self.retired:
            return 0.0
        records = islice(self._ring.records(), _BATCH)
        cube = self._context.cube
        if isinstance(cube, Outside):
            self._hand_over(cube, list(records))
            return time.monotonic() - began
        for raw in records:
            self._count(1)
            try:
                call_back(self._of, raw, cube, self._context)
            except Exception as error:  # a cube's bug is not the agent's
                self._complain(1, repr(error), error)
            if time.monotonic() - began > _BATCH_SECONDS:
                break
        return time.monotonic() - began

    def _hand_over(self, cube: Outside, records: list[bytes]) -> None:
        """Have them handled in another process; where that is stopped the rest of them is lost."""
        self._count(len(records))
        try:
            tally = cube.deliver(self._of, records)
        except Exception as error:  # a cube's bug is not the agent's
            self._complain(1, repr(error))
        else:
            if tally.failures:
                self._complain(tally.failures, tally.error)

    def _count(self, records: int) -> None:
        if self._of == "event":
            self._tally.events += records
        else:
            self._tally.packets += records

    def _complain(self, failures: int, error: str, cause: Exception | None = None) -> None:
        self._tally.failures += failures
        if not self._failed:
            cube, where = self._context.cube.instance, f"on_{self._of}"
            log.error("a cube failed", instance=cube, where=where, error=error, exc_info=cause)
        self._failed = True

    def close(self) -> None:
        self._ring.close()


class _Running:
    """The contexts and taps of one composition."""

    def __init__(self) -> None:
        self.contexts: dict[str, CubeContext] = {}
        self.taps: list[_Tap] = []

    def retire(self) -> None:
        for tap in self.taps:
            tap.retired = True

    def close(self) -> None:
        for tap in self.taps:
            tap.close()
        for context in self.contexts.values():
            context.close()


class Runtime:
    """Follows the composition in force: :meth:`take_over` after a pass, then :meth:`listen`.

    ``view`` is the agent's state, ``on_datapath`` runs a function on the datapath thread.
    """

    def __init__(self, view: View, on_datapath: OnDatapath) -> None:
        self._view = view
        self._on_datapath = on_datapath
        self._frames = Frames()
        self._tallies: dict[str, _Tally] = {}
        self._running = _Running()
        self._retired: list[_Running] = []
        self._composition: Composition | None = None
        self._listening: set[_Tap] = set()
        self._tasks: set[asyncio.Task[None]] = set()

    # Where maps may be touched

    def take_over(self, composition: Composition | None, maps: Mapping[str, BpfMap]) -> None:
        """Serve the instances of another composition from now on. Raises OSError.

        Records that wait in their rings are delivered, except packets from before the agent's
        start: their senders have sent them again or given up.
        """
        if composition is self._composition or composition is None:
            return
        fresh = _Running()
        try:
            for cube in composition.cubes:
                context = CubeContext(cube, self._view, maps, self._frames.send)
                if isinstance(cube, Outside):
                    cube.serve(maps)
                fresh.contexts[cube.instance] = context
                fresh.taps += self._taps(context)
        except BaseException:
            fresh.close()
            raise
        self._running.retire()
        self._retired.append(self._running)
        self._running, self._composition = fresh, composition

    def _taps(self, context: CubeContext) -> Iterator[_Tap]:
        cube = context.cube
        tally = self._tallies.setdefault(cube.instance, _Tally())
        if cube.event is not None:
            yield _Tap(context, EVENT_RING, tally)
        if cube.punts:
            tap = _Tap(context, PACKET_RING, tally)
            if self._composition is None:
                tap.discard()
            yield tap

    def context(self, cube: Cube) -> CubeContext:
        """The context of an instance in force. Raises KeyError for any other."""
        return self._running.contexts[cube.instance]

    def counts(self) -> Mapping[str, Counts]:
        """The counts of events and packets, by instance, of all instances that have any."""
        return {
            name: Counts(
                **vars(self._tallies.get(name, _Tally())),
                lost_events=context.lost(EVENT_RATE),
                lost_packets=context.lost(PACKET_RATE),
            )
            for name, context in self._running.contexts.items()
            if context.cube.event is not None or context.cube.punts
        }

    def _close(self, runnings: list[_Running]) -> None:
        for each in runnings:
            each.close()

    # In the agent's loop

    async def listen(self) -> None:
        """Read the rings of the composition in force, and close those of its predecessors."""
        retired, self._retired = self._retired, []
        if not retired:
            return
        self._hush()
        await self._on_datapath(self._close, retired)
        for tap in self._running.taps:
            self._listening.add(tap)
            self._wait_for(tap)

    def _hush(self) -> None:
        loop = asyncio.get_running_loop()
        for tap in self._listening:
            loop.remove_reader(tap)
        self._listening.clear()

    def _wait_for(self, tap: _Tap) -> None:
        asyncio.get_running_loop().add_reader(tap, self._readable, tap)

    def _readable(self, tap: _Tap) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(tap)
        task = loop.create_task(self._serve(tap))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, tap: _Tap) -> None:
        await asyncio.sleep(await self._on_datapath(tap.batch))
        if tap in self._listening:
            self._wait_for(tap)

    async def close(self) -> None:
        """Stop reading and close everything; undelivered records wait for the next run."""
        self._hush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._running.retire()
        await self._on_datapath(self._close, [*self._retired, self._running])
        self._running, self._retired, self._composition = _Running(), [], None
        self._frames.close()
