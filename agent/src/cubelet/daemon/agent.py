"""The node agent: sources enqueue changes, one loop reconciles them, one socket answers.

sources --> one inbox --> state --> cubes plan --> applier --> maps
                               `--> composition --> composer --> programs
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from cubelet.bpf.folders import trusted_folder
from cubelet.bpf.fs import ensure_bpffs
from cubelet.bpf.jiffies import Clock
from cubelet.cni.files import broken
from cubelet.cni.ipam import Ipam
from cubelet.cni.service import CniService
from cubelet.composer.background import BackgroundCompiler
from cubelet.composer.composition import Composition, CompositionError
from cubelet.config.live import Configuration
from cubelet.config.node import Settings, SettingsError
from cubelet.control.host import free_way
from cubelet.control.reconciler import Reconciler
from cubelet.control.trial import Job
from cubelet.cubes.keeping import Keeper
from cubelet.cubes.questions import Questions
from cubelet.cubes.runtime import Runtime
from cubelet.daemon.attaching import Attaching
from cubelet.daemon.health import Health
from cubelet.daemon.http import serve, sites
from cubelet.daemon.inbox import Inbox
from cubelet.daemon.loop import Loop
from cubelet.daemon.reloading import Reloader
from cubelet.daemon.requests import Requests
from cubelet.daemon.service_health import ServiceHealth
from cubelet.daemon.surroundings import Surroundings
from cubelet.daemon.sweeps import Sweeps
from cubelet.datapath.thread import DatapathThread
from cubelet.guests.registry import Guests
from cubelet.ipc.server import AgentServer
from cubelet.metrics.meters import Meters, NoMeters, metered
from cubelet.net import pods
from cubelet.sources.choice import open_feed
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory

if TYPE_CHECKING:
    from cubelet.metrics.page import Page

_GRACE = 10.0
"""Seconds that CNI calls under way may take when the agent ends; kubelets kill it after 30."""


def run(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises SettingsError or CompositionError."""
    asyncio.run(Agent(settings).run())


class Agent:
    """The parts of a node's agent, each made after those it uses. Use :func:`run`."""

    def __init__(self, settings: Settings) -> None:
        # Only root may write to where it reads from. Raises OSError, naming the remedy.
        for folder in (settings.state_dir, settings.cache_dir, settings.socket.parent):
            trusted_folder(folder)
        # The installed cubes, the memory of the last run, and the known objects.
        self.settings = settings
        self.memory = Memory(settings.state_dir / "memory.json")
        self.state = State()
        self.guests = Guests(self.state)
        self.keeper = Keeper(settings.state_dir / "cubes", self.guests.stand_in)
        self.discovery = self.keeper.discover()
        self.clock = Clock()
        # The source of changes.
        self.inbox = Inbox()
        self.feed = open_feed(
            settings,
            self.discovery,
            self.memory,
            self.state,
            self.inbox.emit,
            self.inbox.wake,
            free_way,
        )
        # What passes change: devices, programs, maps; and the callbacks of running cubes.
        ensure_bpffs(settings.bpffs)
        self.thread = DatapathThread()
        self.compiler = BackgroundCompiler()
        self.reconciler = Reconciler(
            settings,
            self.state,
            self.clock,
            self.memory,
            self.compiler,
            lambda: self.compiler.seconds is not None,
            self.guests,
        )
        self.configuration = Configuration(
            settings, self.discovery, self.memory, self.reconciler.propose
        )
        self.runtime = Runtime(self.state, self.thread.run)
        self.health = Health(
            self.reconciler,
            self.feed,
            self.configuration,
            self.discovery,
            self.memory,
            partial(broken, settings.state_dir),
            lambda: self.compiler.seconds,
        )
        self.loop = Loop(
            self.inbox,
            self.thread,
            self.feed,
            self.configuration,
            self.discovery,
            self.reconciler,
            self.runtime,
            self.health,
            self.keeper,
        )
        # What answers the container runtime, the command line, cubes' commands and Prometheus.
        self.requests = Requests(
            self.state,
            self.reconciler,
            self.discovery,
            self.clock,
            self.thread.run,
            self._status,
            self.runtime.counts,
        )
        self.sweeps = Sweeps(
            settings.sweep_seconds, self.thread, self.reconciler, self.requests.monitor
        )
        self.surroundings = Surroundings(self.inbox.note, self.reconciler.astray)
        self.attaching = Attaching(self.state, self.reconciler, self.inbox)
        ipam = Ipam(settings.state_dir / "ipam.json")
        self.cni = CniService(settings, ipam, pods, self.attaching, self.feed.find_pod)
        self.questions = Questions(
            lambda: self.reconciler.switchover.cubes, self.runtime.context, self.thread.run
        )
        # What has other versions of cubes join.
        self.reloader = Reloader(
            self.discovery,
            self.keeper,
            self.configuration,
            self.reconciler,
            self.feed,
            lambda: self.thread.run(self._job),
            self.inbox.wake,
        )
        self.meters: Meters = NoMeters()
        self.sites = sites(settings, self.health.unalive, self.health.unready, self._metrics)
        self.service_health = ServiceHealth(
            self.state, settings.health_check_networks, self.health.unready
        )
        self.health.also += [lambda: self.service_health.problems, self.reloader.problems]
        self.loop.on_pass += [
            self.meters.passed,
            self.surroundings.passed,
            self._observed,
            lambda _: self.service_health.look(),
        ]
        self.loop.on_composition += [self._recomposed]

    async def run(self) -> None:
        """Serve until a signal comes. Programs, links and maps stay and keep forwarding.

        The parts end in reverse order of their start: first new requests are refused, then those
        that wait for a pass end, then the passes, then the datapath is closed.
        """
        told, loop = asyncio.Event(), asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, told.set)
        self.compiler.on_done = partial(loop.call_soon_threadsafe, self.inbox.wake)
        self.attaching.resume(await asyncio.to_thread(self.cni.load))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.thread.close)
            stack.callback(self.clock.close)
            stack.callback(self.reconciler.close)
            stack.push_async_callback(self.runtime.close)
            stack.callback(self.compiler.close)
            works = (
                self.feed.run(),
                self.loop.run(),
                self.surroundings.run(),
                self.sweeps.run(),
                self.cni.run(),
                self.service_health.run(),
                self.reloader.run(),
            )
            ended = await stack.enter_async_context(_running(*works, told.wait()))
            server = AgentServer(self.settings.socket, self._handlers())
            await server.start()
            stack.push_async_callback(server.stop)
            stack.push_async_callback(self.cni.close, _GRACE)
            stack.callback(server.refuse)
            await serve(stack, self.sites)
            stack.callback(self.guests.end)
            await ended.wait()

    def _handlers(self) -> dict[str, Any]:
        """The handlers of the socket's methods."""
        return {
            "cni": metered(self.cni.handle, self.meters),
            "cube": self.questions.ask,
            "sync": self._sync,
            **self.requests.handlers(),
            **self.reloader.handlers(),
        }

    def _metrics(self) -> Page:
        """Make the page ``/metrics``, and start counting events for it."""
        from cubelet.metrics.assembly import Sources, make_page

        sources = Sources(
            name=self.settings.source,
            feed=self.feed,
            reconciler=self.reconciler,
            discovery=self.discovery,
            monitor=self.requests.monitor,
            view=self.state,
            counts=self.runtime.counts,
            refused=lambda: self.configuration.problem,
            passing_since=lambda: self.health.pass_began,
        )
        self.meters, page = make_page(sources, self.thread.run)
        return page

    def _observed(self, _: float) -> None:
        """Guests observe a pass when whoever waited for it has been answered."""
        if self.guests.observing:
            asyncio.get_running_loop().call_soon(self.thread.run, self.guests.observe)

    def _job(self) -> Job:
        """What a trial of other cubes has to know; asked between passes."""
        known = self.memory.known
        return Job(
            settings=self.settings,
            config=self.configuration.present,
            reasons=known.reasons,
            slots=known.slots,
            objects=tuple(self.state),
            local=self.state.local,
            hz=self.clock.hz,
            early_xdp=self.reconciler.datapath.sees_early,
            running=frozenset(plugin.digest for plugin in self.discovery.plugins),
        )

    def _recomposed(self, composition: Composition) -> None:
        self.requests.recomposed()
        self.meters.recomposed()
        names = [cube.instance for cube in composition.cubes]
        self.discovery.observe("cubelet_composed", mode=composition.mode, instances=names)

    def _status(self) -> dict[str, Any]:
        return {
            "ready": self.health.ready and self.inbox.empty,
            "node": self.settings.name,
            "waiting": self.health.waiting(),
            "problems": self.health.problems(),
        }

    async def _sync(self, _: Mapping[str, Any]) -> dict[str, Any]:
        await self.feed.refresh()
        await self.inbox.submit()
        while self.reconciler.awaited:
            await self.inbox.passed()
        return {"problems": self.health.problems()}


@asynccontextmanager
async def _running(*works: Any) -> AsyncIterator[asyncio.Event]:
    """Run these tasks; the event is set once one has ended, and its exception is raised."""
    ended = asyncio.Event()
    tasks = [asyncio.ensure_future(work) for work in works]
    for task in tasks:
        task.add_done_callback(lambda _: ended.set())
    try:
        yield ended
        for task in tasks:
            if task.done():
                task.result()  # only the wait for a signal ends without an error
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


__all__ = ["Agent", "CompositionError", "SettingsError", "run"]
