"""The node agent: sources enqueue changes, one loop reconciles them, one socket answers.

sources --> one queue --> state --> cubes plan --> applier --> maps
                               `--> composition --> composer --> programs
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from cubelet.bpf.fs import ensure_bpffs
from cubelet.bpf.jiffies import Clock
from cubelet.cni.ipam import Ipam
from cubelet.cni.service import CniService
from cubelet.composer.composition import CompositionError
from cubelet.config.live import Configuration
from cubelet.config.node import Settings, SettingsError
from cubelet.control.reconciler import Reconciler
from cubelet.cubes.discovery import discover
from cubelet.cubes.questions import Questions
from cubelet.cubes.runtime import Runtime
from cubelet.daemon.http import serve, sites
from cubelet.daemon.requests import Answers
from cubelet.ipc.client import AgentError
from cubelet.ipc.server import AgentServer
from cubelet.metrics.meters import Meters, NoMeters, metered
from cubelet.net import pods
from cubelet.sources.choice import open_feed
from cubelet.sources.feed import Feed
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.objects import Change, Port

if TYPE_CHECKING:
    from cubelet.metrics.page import Page

log = structlog.get_logger()
T = TypeVar("T")
_COALESCE = 0.01
"""Seconds to wait for further changes once one has come: bursts become one pass."""
_RETRY = 5.0
"""Seconds until a pass is repeated after which something was left undone."""
_SETTLE = 0.5
"""Seconds of quiet until ports that were attached in a hurry are attached for good."""
_REVIEW = 60.0
"""Seconds of quiet until a pass looks at everything: others may have changed what is ours."""
_STUCK = 300.0
"""Seconds that a pass may take before the agent says that it is not alive."""
_SWEEP_PAUSE = 50
"""Times a sweep's duration to pause after it: sweeping takes 2 % of a CPU at most."""


def run(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises SettingsError or CompositionError."""
    asyncio.run(Agent(settings).run())


class Agent:
    """Everything of one node, held together. Use :func:`run`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.discovery = discover()
        self._memory = memory = Memory(settings.state_dir / "memory.json")
        self.state = State()
        self._clock = Clock()
        self.reconciler = Reconciler(settings, self.state, self._clock, memory)
        self._configuration = Configuration(
            settings, self.discovery, memory, self.reconciler.propose
        )
        ensure_bpffs(settings.bpffs)
        self._worker = ThreadPoolExecutor(1, "datapath")
        self.runtime = Runtime(self.state, self._alone)
        self._queue: list[Change] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._passing_since: float | None = None
        self._feed: Feed = open_feed(
            settings, self.discovery, memory, self.state, self._emit, self._wake.set
        )
        self._cni = CniService(
            settings,
            Ipam(settings.state_dir / "ipam.json"),
            pods,
            lambda: self.state.local if self.reconciler.serving else None,
            self._attached,
            self._detached,
            self._feed.find_pod,
        )
        self._answers = Answers(
            self.state,
            self.reconciler,
            self.discovery,
            self._clock,
            self._alone,
            self._status,
            self.runtime.counts,
        )
        self._questions = Questions(
            lambda: self.reconciler.cubes, self.runtime.context, self._alone
        )
        self._meters: Meters = NoMeters()
        self._sites = sites(settings, self._unalive, self._unready, self._metrics)

    async def run(self) -> None:
        """Serve until a signal comes. Programs, links and maps stay and keep forwarding."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, stop.set)
        for port in await asyncio.to_thread(self._cni.load):
            self._emit(Change.between(None, port))
        self.settings.socket.parent.mkdir(parents=True, exist_ok=True)
        handlers = {
            "cni": metered(self._cni.handle, self._meters),
            "cube": self._questions.ask,
            "sync": self._sync,
            **self._answers.handlers(),
        }
        server = AgentServer(self.settings.socket, handlers)
        await server.start()
        async with AsyncExitStack() as stack:
            stack.callback(self._clock.close)
            stack.callback(self.reconciler.close)
            stack.push_async_callback(self.runtime.close)
            stack.push_async_callback(server.stop)
            stack.push_async_callback(self._cni.close)
            await serve(stack, self._sites)
            works = (self._feed.run(), self._reconcile(), self._sweep(), stop.wait())
            tasks = [loop.create_task(work) for work in works]
            try:
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    task.result()  # only the wait for a signal ends without an error
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def _metrics(self) -> Page:
        """The page ``/metrics``; from now on what happens is counted."""
        from cubelet.metrics.assembly import Sources, make_page

        sources = Sources(
            name=self.settings.source,
            feed=self._feed,
            reconciler=self.reconciler,
            discovery=self.discovery,
            monitor=self._answers.monitor,
            view=self.state,
            counts=self.runtime.counts,
            refused=lambda: self._configuration.problem,
            passing_since=lambda: self._passing_since,
        )
        self._meters, page = make_page(sources, self._alone)
        return page

    async def _alone(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run what touches maps in the one thread for it: a pass may replace them all."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    # Changes in, passes out

    def _emit(self, change: Change) -> None:
        self._queue.append(change)
        self._wake.set()

    async def _submit(self, *changes: Change) -> None:
        """Enqueue changes and wait for the pass that takes them in."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        for change in changes:
            self._emit(change)
        self._wake.set()
        await waiter

    async def _reconcile(self) -> None:
        await self._feed.begun()  # before that, what pins hold could look unwanted
        self._wake.set()
        reviewed = time.monotonic()
        while True:
            due = reviewed + (_RETRY if self.reconciler.problems else _REVIEW)
            pause = max(0.0, due - time.monotonic())
            if self.reconciler.unsettled:
                pause = min(pause, _SETTLE)
            if (lingers := self.reconciler.lingers) is not None:
                pause = min(pause, max(lingers, _SETTLE))
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            if not self._waiters:  # a pod that waits is served at once, bursts while a pass runs
                await asyncio.sleep(_COALESCE)
            if time.monotonic() >= due:
                self.reconciler.distrust()
                reviewed = time.monotonic()
            self._wake.clear()
            changes, self._queue = self._queue, []
            waiters, self._waiters = self._waiters, []
            try:
                await self._pass(changes, hurry=bool(waiters))
            except Exception:  # a bug here must not end the agent
                log.exception("a pass failed")
                self.reconciler.distrust()
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _pass(self, changes: list[Change], hurry: bool) -> None:
        """Bring everything up to these changes, then tell those who observe."""
        changes = await self._taken_in(changes)
        self.reconciler.complete = self._feed.complete
        before = self.reconciler.datapath.identity
        self._passing_since = time.monotonic()
        await self._alone(self._bring_up, changes, hurry)
        await self.runtime.listen()
        self._meters.passed(time.monotonic() - self._passing_since)
        self._passing_since = None
        composition = self.reconciler.composition
        if composition is not None and self.reconciler.datapath.identity != before:
            self._answers.recomposed()
            self._meters.recomposed()
            names = [cube.instance for cube in composition.cubes]
            self.discovery.observe("cubelet_composed", mode=composition.mode, instances=names)
        given_up = self._configuration.settle(self.reconciler.refused, self.reconciler.in_force)
        self._quarantine(given_up)
        quarantined = self.discovery.quarantined()
        self._feed.passed(self.ready, self._configuration.problem, quarantined)
        for change in changes:
            self.discovery.observe("cubelet_changed", change=change)

    def _bring_up(self, changes: list[Change], hurry: bool) -> None:
        reconciler = self.reconciler
        reconciler.run(changes, hurry)
        try:
            self.runtime.take_over(reconciler.composition, reconciler.datapath.maps)
        except Exception as error:  # a bug here must not end the agent
            log.error("cubes are not served", error=str(error))
            reconciler.problems["runtime"] = f"cubes' events are not read: {error}"
        else:
            reconciler.problems.pop("runtime", None)

    async def _taken_in(self, changes: list[Change]) -> list[Change]:
        """These changes, and the objects of kinds that only a new configuration's cubes watch.

        What such a cube plans is then right from its first pass on.
        """
        taken: list[Change] = []
        while True:
            self._configuration.follow(changes, self._feed.complete)
            taken += changes
            await self._feed.watch(self.reconciler.watches)
            changes, self._queue = self._queue, []
            if not changes:
                return taken

    def _quarantine(self, given_up: bool) -> None:
        """Go on without cubes that fail while they run, or that keep the node from starting.

        Those of a configuration that is ``given_up`` do neither.
        """
        faults = dict(self.reconciler.faults)
        self.reconciler.faults.clear()
        if given_up:
            self._wake.set()
            return
        fresh = {k: v for k, v in faults.items() if k not in self.discovery.faults}
        if not fresh:
            return
        for kind, reason in fresh.items():
            log.error("cube quarantined", cube=kind, reason=reason)
        self._configuration.go_on_without(fresh)
        self._wake.set()

    async def _sweep(self) -> None:
        took = 0.0
        while True:
            await asyncio.sleep(max(self.settings.sweep_seconds, took * _SWEEP_PAUSE))
            took = await self._alone(self._sweep_once)

    def _sweep_once(self) -> float:
        """Seconds that the sweep took, without the wait for its turn."""
        began = time.monotonic()
        try:
            if self.reconciler.sweeper is not None:
                self._answers.monitor.silence()
                self.reconciler.sweeper.sweep()
        except Exception as error:  # a bug here must not end the agent
            log.error("a sweep failed", error=str(error))
            self.reconciler.problems["sweep"] = str(error)
        else:
            self.reconciler.problems.pop("sweep", None)
        return time.monotonic() - began

    # What CNI needs

    async def _attached(self, port: Port) -> None:
        await self._submit(Change.between(self.state.ports.get(port.key), port))
        hindrance = self.reconciler.hindrance(port)
        if hindrance:
            raise AgentError(11, f"pod {port.key} is not served by the datapath", hindrance)

    async def _detached(self, port: Port) -> None:
        known = self.state.ports.get(port.key)
        if known is not None and known.container_id == port.container_id:
            await self._submit(Change.between(known, None))

    # What the agent says of itself

    @property
    def ready(self) -> bool:
        """Whether pods can be served: everything composed, attached, and the source read."""
        return not self._unready()

    def _unready(self) -> str:
        """Why pods cannot be served; '' if they can."""
        if not self.reconciler.serving:
            return "; ".join(self._problems()) or "nothing is composed yet"
        return "" if self._feed.usable else "; ".join(self._problems()) or "nothing is known yet"

    def _unalive(self) -> str:
        """Why the agent should be started anew; '' if it should not."""
        since = self._passing_since
        if since is not None and time.monotonic() - since > _STUCK:
            return f"a pass has been running for {time.monotonic() - since:.0f} s"
        return ""

    def _problems(self) -> list[str]:
        refused = [self._configuration.problem] if self._configuration.problem else []
        quarantined = self.discovery.quarantined().items()
        refused += [f"cube {kind} is quarantined: {reason}" for kind, reason in quarantined]
        found = [*self.reconciler.problems.values(), *self.reconciler.contests]
        found += [self._memory.problem] if self._memory.problem else []
        return [*map(str, self._feed.problems), *refused, *found]

    def _status(self) -> dict[str, Any]:
        return {
            "ready": self.ready and not self._queue,
            "node": self.settings.name,
            "problems": self._problems(),
        }

    async def _sync(self, _: Mapping[str, Any]) -> dict[str, Any]:
        await self._feed.refresh()
        await self._submit()
        return {"problems": self._problems()}


__all__ = ["Agent", "CompositionError", "SettingsError", "run"]
