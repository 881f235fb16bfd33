"""Delivers the events and packets of the composed cubes' C to their Python.

Each ring that a cube's C writes to is read in batches, in the one thread that touches maps. A
batch is bounded, and after it the reader sleeps for as long as it took. Ticks (``Cube.every``) run
there, too, and what is told of objects that have gone (``Cube.gone``).
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice

from cubelet.bpf.maps import BpfMap
from cubelet.bpf.ringbuf import RingBuffer
from cubelet.composer.composition import Composition
from cubelet.composer.ends import LOST, RING, Lost
from cubelet.composer.provided import (
    EVENT_LOST,
    EVENT_RING,
    PACKET_LOST,
    PACKET_RING,
)
from cubelet.cubes.callbacks import Departures, Failures, Tally, Ticker
from cubelet.cubes.context import Counts, CubeContext
from cubelet.cubes.ends import EndsTap
from cubelet.cubes.outside import Outside, Ring, call_back
from cubelet.datapath.thread import OnDatapath
from cubelet.net.frames import Frames
from cubelet_hooks.cube import Cube
from cubelet_hooks.objects import Object
from cubelet_hooks.view import View

_BATCH = 256
"""Records of a ring that are delivered before others get their turn."""
_BATCH_SECONDS = 0.05
"""The time after which a batch ends early."""


class _Tap:
    """Delivers the records of one ring of an instance to its Python."""

    def __init__(self, context: CubeContext, ring: str, tally: Tally) -> None:
        self._context = context
        self._tally = tally
        self._of: Ring = "event" if ring == EVENT_RING else "packet"
        self._failures = Failures(context.cube.instance, f"on_{self._of}", tally)
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
                self._failures.note(error)
            if time.monotonic() - began > _BATCH_SECONDS:
                break
        return time.monotonic() - began

    def _hand_over(self, cube: Outside, records: list[bytes]) -> None:
        """Have them handled in another process; where that is stopped the rest of them is lost."""
        self._count(len(records))
        try:
            tally = cube.deliver(self._of, records)
        except Exception as error:  # a cube's bug is not the agent's
            self._failures.note(error)
        else:
            if tally.failures:
                self._failures.add(tally.failures, tally.error)

    def _count(self, records: int) -> None:
        if self._of == "event":
            self._tally.events += records
        else:
            self._tally.packets += records

    def close(self) -> None:
        self._ring.close()


class _Running:
    """The contexts and what calls the cubes of one composition."""

    def __init__(self) -> None:
        self.contexts: dict[str, CubeContext] = {}
        self.taps: list[_Tap | EndsTap] = []
        self.lost_ended: BpfMap | None = None
        self.tickers: dict[str, Ticker] = {}
        self.departures: dict[str, Departures] = {}

    def retire(self) -> None:
        for each in (*self.taps, *self.tickers.values(), *self.departures.values()):
            each.retired = True

    def count_lost_ended(self) -> int:
        raw = self.lost_ended.lookup(bytes(4)) if self.lost_ended else None
        return Lost.unpack(raw).lost if raw else 0

    def close(self) -> None:
        for tap in self.taps:
            tap.close()
        for context in self.contexts.values():
            context.close()
        if self.lost_ended is not None:
            self.lost_ended.close()


class Runtime:
    """Follows the composition in force: :meth:`take_over` after a pass, then :meth:`listen`.

    ``view`` is the agent's state, ``on_datapath`` runs a function on the datapath thread.
    """

    def __init__(self, view: View, on_datapath: OnDatapath) -> None:
        self._view = view
        self._on_datapath = on_datapath
        self._frames = Frames()
        self._tallies: dict[str, Tally] = {}
        self._running = _Running()
        self._retired: list[_Running] = []
        self._composition: Composition | None = None
        self._listening: set[_Tap | EndsTap] = set()
        self._telling: set[Departures] = set()
        self._beats: list[asyncio.Task[None]] = []
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
                self._add_callers(fresh, context)
            self._add_ends(fresh, composition, maps)
        except BaseException:
            fresh.close()
            raise
        self._running.retire()
        self._retired.append(self._running)
        self._running, self._composition = fresh, composition

    def _taps(self, context: CubeContext) -> Iterator[_Tap]:
        cube = context.cube
        if cube.event is not None:
            yield _Tap(context, EVENT_RING, self._tally(cube))
        if cube.punts:
            tap = _Tap(context, PACKET_RING, self._tally(cube))
            if self._composition is None:
                tap.discard()
            yield tap

    def _add_callers(self, fresh: _Running, context: CubeContext) -> None:
        cube, before = context.cube, self._running
        name = cube.instance
        if cube.tick_seconds:
            fresh.tickers[name] = Ticker(context, self._tally(cube), before.tickers.get(name))
        if cube.gone:
            known = before.departures.get(name)
            fresh.departures[name] = Departures(context, self._tally(cube), known)

    def _add_ends(
        self, fresh: _Running, composition: Composition, maps: Mapping[str, BpfMap]
    ) -> None:
        asking = [each for each in fresh.contexts.values() if each.cube.number(each.cube.ended)]
        if asking:
            tallies = [self._tally(each.cube) for each in asking]
            ring, family = maps[f"cubelet_{RING}"], asking[0].cube.family
            fresh.taps.append(EndsTap(asking, tallies, composition.slots, ring, family))
            fresh.lost_ended = BpfMap(os.dup(maps[f"cubelet_{LOST}"].fd), LOST)

    def tell_gone(self, objects: Iterable[Object]) -> None:
        """Let the cubes in force that asked for it be told that these are no more."""
        for each in objects:
            for departures in self._running.departures.values():
                departures.add(each)

    def _tally(self, cube: Cube) -> Tally:
        return self._tallies.setdefault(cube.instance, Tally())

    def context(self, cube: Cube) -> CubeContext:
        """The context of an instance in force. Raises KeyError for any other."""
        return self._running.contexts[cube.instance]

    def counts(self) -> Mapping[str, Counts]:
        """The counts of callbacks, by instance, of all instances that have any."""
        return {
            name: Counts(
                **vars(self._tallies[name]),
                lost_events=context.lost(EVENT_LOST),
                lost_packets=context.lost(PACKET_LOST),
                lost_ended=self._running.count_lost_ended() if context.cube.ended else 0,
            )
            for name, context in self._running.contexts.items()
            if name in self._tallies
        }

    def _close(self, runnings: list[_Running]) -> None:
        for each in runnings:
            each.close()

    # In the agent's loop

    async def listen(self) -> None:
        """Serve the composition in force, and close the rings and maps of its predecessors."""
        self._tell()
        retired, self._retired = self._retired, []
        if not retired:
            return
        self._hush()
        await self._on_datapath(self._close, retired)
        for tap in self._running.taps:
            self._listening.add(tap)
            self._wait_for(tap)
        beats = map(self._beat, self._running.tickers.values())
        self._beats = list(map(asyncio.get_running_loop().create_task, beats))

    def _tell(self) -> None:
        for each in self._running.departures.values():
            if each.waiting and each not in self._telling:
                self._telling.add(each)
                self._keep(asyncio.get_running_loop().create_task(self._tell_of(each)))

    async def _tell_of(self, departures: Departures) -> None:
        while departures.waiting:
            await asyncio.sleep(await self._on_datapath(departures.batch))
        self._telling.discard(departures)

    async def _beat(self, ticker: Ticker) -> None:
        while not ticker.retired:
            await asyncio.sleep(ticker.pause)
            await self._on_datapath(ticker.tick)

    def _hush(self) -> None:
        loop = asyncio.get_running_loop()
        for tap in self._listening:
            loop.remove_reader(tap)
        self._listening.clear()
        for beat in self._beats:
            beat.cancel()

    def _wait_for(self, tap: _Tap | EndsTap) -> None:
        asyncio.get_running_loop().add_reader(tap, self._readable, tap)

    def _readable(self, tap: _Tap | EndsTap) -> None:
        loop = asyncio.get_running_loop()
        loop.remove_reader(tap)
        self._keep(loop.create_task(self._serve(tap)))

    def _keep(self, task: asyncio.Task[None]) -> None:
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _serve(self, tap: _Tap | EndsTap) -> None:
        await asyncio.sleep(await self._on_datapath(tap.batch))
        if tap in self._listening:
            self._wait_for(tap)

    async def close(self) -> None:
        """Stop reading and close everything; undelivered records wait for the next run."""
        self._hush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, *self._beats, return_exceptions=True)
        self._running.retire()
        await self._on_datapath(self._close, [*self._retired, self._running])
        self._running, self._retired, self._composition = _Running(), [], None
        self._frames.close()
