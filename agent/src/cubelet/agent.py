"""The node agent: sources enqueue changes, one loop reconciles them, one socket answers.

sources --> one queue --> state --> cubes plan --> applier --> maps
                               `--> composition --> composer --> programs
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import AsyncGenerator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

import msgspec
import structlog

from cubelet.bpf.fs import ensure_bpffs
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram
from cubelet.client import AgentError
from cubelet.cni.ipam import Ipam
from cubelet.cni.service import CniService
from cubelet.composer.composition import Composition, CompositionError, compose, default_chain
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.cost import established_cost
from cubelet.composer.reasons import number_reasons
from cubelet.monitor import Monitor
from cubelet.net import pods
from cubelet.plugins import Discovery, discover
from cubelet.reconciler import Reconciler
from cubelet.server import AgentServer
from cubelet.settings import Settings, SettingsError
from cubelet.show import Tables
from cubelet.sources.derive import EndpointDeriver
from cubelet.sources.folder import FolderSource
from cubelet.sources.problem import Problem
from cubelet.state import State
from cubelet_hooks.objects import Change, LocalNode, Pod, Port

log = structlog.get_logger()
T = TypeVar("T")
_COALESCE = 0.01
"""Seconds to wait for further changes once one has come: bursts become one pass."""
_RETRY = 5.0
"""Seconds until a pass is repeated after which something was left undone."""
_REVIEW = 60.0
"""Seconds of quiet until a pass looks at everything: others may have changed what is ours."""
_SWEEP_PAUSE = 50
"""Times a sweep's duration to pause after it: sweeping takes 2 % of a CPU at most."""
OPTIONAL = ("lbrp", "nat", "firewall")
"""Built-in kinds without which a node still forwards packets."""


def run(settings: Settings) -> None:
    """Run the agent until SIGTERM or SIGINT. Raises SettingsError or CompositionError."""
    asyncio.run(Agent(settings).run())


def make_composition(settings: Settings, discovery: Discovery) -> tuple[Composition, Core]:
    """The composition that the settings ask for. Raises CompositionError, SettingsError."""
    chain = settings.chain or default_chain()
    optional = () if settings.chain else OPTIONAL
    unknown = sorted(set(settings.cubes) - set(discovery.cubes))
    if unknown:
        raise SettingsError(f"cubes: no installed cube is called {', '.join(unknown)}")
    try:
        core = Core("cubelet", msgspec.convert(dict(settings.core), CoreSettings))
    except msgspec.ValidationError as error:
        raise SettingsError(f"core: {error}") from error
    broken = [p for p in discovery.plugins if p.quarantined and p.name in chain.kinds()]
    if broken:
        raise CompositionError(
            "; ".join(f"{p.name} is quarantined: {p.reason}" for p in broken)
            + "; remedy: repair or uninstall it; what runs on the node is left as it is"
        )
    composition = compose(chain, discovery.cubes, settings.cubes, settings.composition, optional)
    return composition, core


class Agent:
    """Everything of one node, held together. Use :func:`run`."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.discovery = discover()
        self.composition, core = make_composition(settings, self.discovery)
        ensure_bpffs(settings.bpffs)
        self.state = State()
        self._clock = Clock()
        self.reconciler = Reconciler(settings, self.composition, core, self.state, self._clock)
        self._deriver = EndpointDeriver()
        self._worker = ThreadPoolExecutor(1, "datapath")
        self._queue: list[Change] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._problems: list[Problem] = []
        self._source = FolderSource(settings.manifests, self._emit, self._report)
        self._cni = CniService(
            settings,
            Ipam(settings.state_dir / "ipam.json"),
            pods,
            lambda: self.state.local if self.reconciler.serving else None,
            self._attached,
            self._detached,
            self._find_pod,
        )
        reasons = number_reasons(type(cube) for cube in self.composition.cubes)
        stages = ["core", *(cube.kind for cube in self.composition.cubes)]
        self._monitor = Monitor(self._maps, reasons, stages)
        self._tables = Tables(
            self.composition, self.state, reasons, self._maps, lambda: self.reconciler.sweeper
        )

    async def run(self) -> None:
        """Serve until a signal comes. Programs, links and maps stay and keep forwarding."""
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(each, stop.set)
        for port in await asyncio.to_thread(self._cni.load):
            self._emit(Change.between(None, port))
        self.settings.socket.parent.mkdir(parents=True, exist_ok=True)
        server = AgentServer(self.settings.socket, self._handlers())
        await server.start()
        tasks = [
            loop.create_task(work)
            for work in (self._source.run(), self._reconcile(), self._sweep(), stop.wait())
        ]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()  # only the wait for a signal ends without an error
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._cni.close()
            await server.stop()
            self._clock.close()

    def _handlers(self) -> dict[str, Any]:
        return {
            "cni": self._cni.handle,
            "status": self._status,
            "sync": self._sync,
            "composition": self._composition,
            "plugins": self._plugins,
            "get": self._get,
            "monitor": self._watch_drops,
        }

    async def _alone(self, work: Callable[..., T], *arguments: Any) -> T:
        """Run what touches maps in the one thread for it: a pass may replace them all."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    def _maps(self) -> Mapping[str, BpfMap]:
        return self.reconciler.datapath.maps

    # Changes in, passes out

    def _emit(self, change: Change) -> None:
        self._queue += self._deriver.apply(change)
        self._wake.set()

    def _report(self, problems: list[Problem]) -> None:
        for problem in set(problems) - set(self._problems):
            log.error("manifest refused", problem=str(problem))
        self._problems = problems
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
        await self._source.refresh()  # before that, what pins hold could look unwanted
        while True:
            undone = bool(self.reconciler.problems)
            try:
                await asyncio.wait_for(self._wake.wait(), _RETRY if undone else _REVIEW)
            except TimeoutError:
                self.reconciler.distrust()
            await asyncio.sleep(_COALESCE)
            self._wake.clear()
            changes, self._queue = self._queue, []
            waiters, self._waiters = self._waiters, []
            self.reconciler.complete = not self._problems
            before = self.reconciler.datapath.identity
            await self._alone(self.reconciler.run, changes)
            if self.reconciler.datapath.identity != before:
                names = [cube.instance for cube in self.composition.cubes]
                self._observe("cubelet_composed", mode=self.composition.mode, instances=names)
            for change in changes:
                self._observe("cubelet_changed", change=change)
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    def _observe(self, hook: str, **arguments: Any) -> None:
        try:
            getattr(self.discovery.manager.hook, hook)(**arguments)
        except Exception as error:  # an observer's bug is not the agent's
            log.error("an observer failed", hook=hook, error=repr(error))

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
                self._monitor.silence()
                self.reconciler.sweeper.sweep()
        except OSError as error:
            log.error("a sweep failed", error=str(error))
            self.reconciler.problems["sweep"] = str(error)
        else:
            self.reconciler.problems.pop("sweep", None)
        return time.monotonic() - began

    # What CNI needs

    async def _attached(self, port: Port) -> None:
        await self._submit(Change.between(self.state.ports.get(port.key), port))
        problems = self.reconciler.problems
        found = [
            problems[place] for place in ("pass", "maps", f"port {port.key}") if place in problems
        ]
        if found:
            raise AgentError(11, f"pod {port.key} is not served by the datapath", "; ".join(found))

    async def _detached(self, port: Port) -> None:
        known = self.state.ports.get(port.key)
        if known is not None and known.container_id == port.container_id:
            await self._submit(Change.between(known, None))

    async def _find_pod(self, key: str) -> Pod | None:
        return self.state.pods.get(key)

    # What the socket answers

    @property
    def ready(self) -> bool:
        """Whether pods can be served: everything composed, attached, and the source read."""
        return self.reconciler.serving and self._source.has_synced and not self._queue

    async def _status(self, _: Mapping[str, Any]) -> dict[str, Any]:
        local: LocalNode | None = self.state.local
        problems = [*map(str, self._problems), *self.reconciler.problems.values()]
        return {
            "ready": self.ready,
            "node": self.settings.name,
            "addresses": local.addresses if local else (),
            "pod_cidr": local.pod_cidr if local else None,
            "composition": self._composed(),
            "ports": len(self.state.ports),
            "problems": problems,
        }

    async def _sync(self, _: Mapping[str, Any]) -> dict[str, Any]:
        await self._source.refresh()
        await self._submit()
        return {"problems": [*map(str, self._problems), *self.reconciler.problems.values()]}

    def _composed(self) -> dict[str, Any]:
        composition, programs = self.composition, self.reconciler.datapath.programs
        entries: Mapping[str, BpfProgram] = programs.entries if programs else {}
        return {
            "mode": composition.mode,
            "identity": self.reconciler.datapath.identity,
            "core": [cube.kind for cube in composition.core],
            "stacks": {n: [c.kind for c in cubes] for n, cubes in composition.stacks.items()},
            "programs": {name: program.id for name, program in entries.items()},
        }

    async def _composition(self, _: Mapping[str, Any]) -> dict[str, Any]:
        compiled = self.reconciler.datapath.compiled
        if compiled is None:
            raise AgentError(11, "nothing is composed yet", "see: cubelet status")
        cost = await asyncio.to_thread(established_cost, compiled, self._clock)
        return self._composed() | {"cost_ns": cost}

    async def _plugins(self, _: Mapping[str, Any]) -> list[dict[str, object]]:
        return self.discovery.rows(active=[cube.kind for cube in self.composition.cubes])

    async def _get(self, params: Mapping[str, Any]) -> list[dict[str, Any]]:
        return await self._alone(partial(self._tables.rows, **params))

    async def _watch_drops(self, params: Mapping[str, Any]) -> AsyncGenerator[dict[str, Any], None]:
        async for event in self._monitor.events():
            yield event


__all__ = ["Agent", "CompositionError", "SettingsError", "make_composition", "run"]
