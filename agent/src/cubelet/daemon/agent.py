"""The node agent: sources enqueue changes, one loop reconciles them, one socket answers.

sources --> one inbox --> state --> cubes plan --> applier --> maps
                               `--> composition --> composer --> programs
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING, Any

from cubelet.bpf.fs import ensure_bpffs
from cubelet.bpf.jiffies import Clock
from cubelet.cni.ipam import Ipam
from cubelet.cni.service import CniService
from cubelet.composer.composition import Composition, CompositionError
from cubelet.config.live import Configuration
from cubelet.config.node import Settings, SettingsError
from cubelet.control.host import free_way
from cubelet.control.reconciler import Reconciler
from cubelet.cubes.discovery import discover
from cubelet.cubes.questions import Questions
from cubelet.cubes.runtime import Runtime
from cubelet.daemon.attaching import Attaching
from cubelet.daemon.health import Health
from cubelet.daemon.http import serve, sites
from cubelet.daemon.inbox import Inbox
from cubelet.daemon.loop import Loop
from cubelet.daemon.requests import Requests
from cubelet.daemon.sweeps import Sweeps
from cubelet.datapath.thread import DatapathThread
from cubelet.ipc.server import AgentServer
from cubelet.metrics.meters import Meters, NoMeters, metered
from cubelet.net import pods
from cubelet.sources.choice import open_feed
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.objects import Change

if TYPE_CHECKING:
    from cubelet.metrics.page import Page

_GRACE = 10.0
"""Seconds that CNI calls under way have to end in when the agent does; kubelets wait for 30."""


def run(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises SettingsError or CompositionError."""
    asyncio.run(Agent(settings).run())


class Agent:
    """What a node's agent is made of, from what knows to what serves. Use :func:`run`."""

    def __init__(self, settings: Settings) -> None:
        # What is installed, what is known, and what was known last.
        self.settings = settings
        self.discovery = discover()
        self.memory = Memory(settings.state_dir / "memory.json")
        self.state = State()
        self.clock = Clock()
        # Where changes come from.
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
        # What they are made into: devices, programs, maps, and what cubes do while these run.
        ensure_bpffs(settings.bpffs)
        self.thread = DatapathThread()
        self.reconciler = Reconciler(settings, self.state, self.clock, self.memory)
        self.configuration = Configuration(
            settings, self.discovery, self.memory, self.reconciler.propose
        )
        self.runtime = Runtime(self.state, self.thread.run)
        self.health = Health(
            self.reconciler, self.feed, self.configuration, self.discovery, self.memory
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
        )
        # Who asks: the container runtime, the command line, cubes' own commands, Prometheus.
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
        attaching = Attaching(self.state, self.reconciler, self.inbox)
        ipam = Ipam(settings.state_dir / "ipam.json")
        self.cni = CniService(settings, ipam, pods, attaching, self.feed.find_pod)
        self.questions = Questions(
            lambda: self.reconciler.switchover.cubes, self.runtime.context, self.thread.run
        )
        self.meters: Meters = NoMeters()
        self.sites = sites(settings, self.health.unalive, self.health.unready, self._metrics)
        self.loop.on_pass += [self.meters.passed]
        self.loop.on_composition += [self._recomposed]

    async def run(self) -> None:
        """Serve until a signal comes. Programs, links and maps stay and keep forwarding.

        What was started last ends first: nobody new is served, then those end who wait for a pass,
        then the passes, then what they work on.
        """
        told = asyncio.Event()
        for each in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(each, told.set)
        for port in await asyncio.to_thread(self.cni.load):
            self.inbox.emit(Change.between(None, port))
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.thread.close)
            stack.callback(self.clock.close)
            stack.callback(self.reconciler.close)
            stack.push_async_callback(self.runtime.close)
            works = (self.feed.run(), self.loop.run(), self.sweeps.run(), told.wait())
            ended = await stack.enter_async_context(_running(*works))
            server = AgentServer(self.settings.socket, self._handlers())
            await server.start()
            stack.push_async_callback(server.stop)
            stack.push_async_callback(self.cni.close, _GRACE)
            stack.callback(server.refuse)
            await serve(stack, self.sites)
            await ended.wait()

    def _handlers(self) -> dict[str, Any]:
        """What the socket answers, by method."""
        return {
            "cni": metered(self.cni.handle, self.meters),
            "cube": self.questions.ask,
            "sync": self._sync,
            **self.requests.handlers(),
        }

    def _metrics(self) -> Page:
        """The page ``/metrics``; from now on what happens is counted."""
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

    def _recomposed(self, composition: Composition) -> None:
        self.requests.recomposed()
        self.meters.recomposed()
        names = [cube.instance for cube in composition.cubes]
        self.discovery.observe("cubelet_composed", mode=composition.mode, instances=names)

    def _status(self) -> dict[str, Any]:
        return {
            "ready": self.health.ready and self.inbox.empty,
            "node": self.settings.name,
            "problems": self.health.problems(),
        }

    async def _sync(self, _: Mapping[str, Any]) -> dict[str, Any]:
        await self.feed.refresh()
        await self.inbox.submit()
        return {"problems": self.health.problems()}


@asynccontextmanager
async def _running(*works: Any) -> AsyncIterator[asyncio.Event]:
    """Run these; the event tells that one of them has ended. What that one raised is raised."""
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
