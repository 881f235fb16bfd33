"""Has new versions of cubes join without a restart of the agent, or says why they do not."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Any

import structlog

from cubelet.config.live import Configuration, Reload
from cubelet.control.reconciler import Reconciler
from cubelet.control.trial import Job, Verdict, try_out
from cubelet.cubes.changes import Installed
from cubelet.cubes.copies import CopyError
from cubelet.cubes.discovery import Discovery
from cubelet.cubes.keeping import Keeper
from cubelet.ipc.client import INVALID_REQUEST, AgentError
from cubelet.sources.feed import Feed

log = structlog.get_logger()
_LOOK = 2.0
"""Seconds between looks at what is installed; packages at rest between two of them are taken up."""
_AGAIN = 1.0
"""Seconds between passes that are asked for until one has settled the matter."""
_NOT_RELOADED = 40
"""The code of errors of a reload."""


class Reloader:
    """Tries what is installed in a process of its own, then lets a pass put it in force.

    ``job`` gives what the trial has to know, ``wake`` has a pass made.
    """

    def __init__(
        self,
        discovery: Discovery,
        keeper: Keeper,
        configuration: Configuration,
        reconciler: Reconciler,
        feed: Feed,
        job: Callable[[], Awaitable[Job]],
        wake: Callable[[], None],
    ) -> None:
        self._discovery = discovery
        self._keeper = keeper
        self._configuration = configuration
        self._reconciler = reconciler
        self._feed = feed
        self._job = job
        self._wake = wake
        self._one = asyncio.Lock()
        self._refused = ""
        self._tasks: set[asyncio.Task[str]] = set()
        self._installed = Installed(keeper.folder)

    def handlers(self) -> dict[str, Any]:
        """The methods by name."""
        return {"reload": self._asked, "forget": self._forget}

    def problems(self) -> Iterator[str]:
        """Cubes that are kept though their packages fail, and what keeps others from joining."""
        setup = self._reconciler.setup
        kinds = {cube.kind for cube in setup.composition.cubes} if setup else set()
        for name, why in self._discovery.kept(kinds).items():
            yield f"cube {name} is kept: {why}"
        for name, why in self._discovery.uncopied.items():
            yield f"cube {name} runs as it is installed: {why}"
        if self._refused:
            yield f"the cubes that are installed do not take over: {self._refused}"
        if self._keeper.problem:
            yield self._keeper.problem

    async def run(self) -> None:
        """Reload when the set of installed packages has changed and is at rest; until cancelled."""
        try:
            await self._follow()
        finally:
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(_LOOK)
            if await asyncio.to_thread(self._installed.changed):
                try:
                    await self._reload()
                except Exception:  # a bug here must not end the agent
                    log.exception("cubes are not reloaded")

    async def _asked(self, _: Mapping[str, Any]) -> list[dict[str, object]]:
        problem = await self._reload()
        if problem:
            message = "the cubes that are installed do not take over; those that run go on"
            raise AgentError(_NOT_RELOADED, message, problem)
        return self._rows()

    async def _forget(self, params: Mapping[str, Any]) -> list[dict[str, object]]:
        """Let go of what was in force of a kind that is not installed, or not usably."""
        kind = params.get("kind")
        if not isinstance(kind, str) or not kind:
            raise AgentError(INVALID_REQUEST, "name the kind that is to go")
        kept = {p.name for p in self._discovery.plugins if p.kept}
        known = self._keeper.known | kept | self._discovery.lost.keys()
        if kind not in known:
            told = ", ".join(sorted(known)) or "none"
            raise AgentError(INVALID_REQUEST, f"no {kind} was in force", f"there are {told}")
        undo = self._keeper.forget(self._discovery, kind)
        try:
            return await self._asked({})
        except AgentError:
            undo()
            raise

    async def _reload(self) -> str:
        """Why what is installed is not in force, '' if it is. Goes on if who asks is cancelled."""
        task = asyncio.create_task(self._reload_now())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return await asyncio.shield(task)

    async def _reload_now(self) -> str:
        async with self._one:
            if self._installed.outdated:
                return "cubelet itself is another on disk; remedy: restart the agent"
            self._keeper.trying = True
            try:
                verdict = await try_out(await self._job())
                problem = verdict.refused or await self._take_over(verdict)
            finally:
                self._keeper.trying = False
                self._keeper.tidy(self._discovery)
            if problem:
                log.error("cubes are not reloaded", problem=problem)
            self._refused = problem
            return problem

    async def _take_over(self, verdict: Verdict) -> str:
        """Load what was tried and have a pass put it in force; why it is not, '' if it is."""
        before = self._keeper.imported()
        try:
            fresh = self._keeper.adopt(verdict.plugins)
        except CopyError as error:
            return str(error)
        fresh.faults.update(verdict.faults)
        fresh.lost = verdict.lost
        await self._feed.learn({*self._discovery.annotations, *fresh.annotations}, fresh.watches)
        told: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._configuration.reload(
            Reload(fresh, told.set_result, lambda: self._keeper.put_back(before))
        )
        while not told.done():  # a pass may settle another configuration first
            self._wake()
            await asyncio.wait([told], timeout=_AGAIN)
        return told.result()

    def _rows(self) -> list[dict[str, object]]:
        setup = self._reconciler.setup
        active = [cube.kind for cube in self._reconciler.switchover.cubes]
        return self._discovery.rows(active, setup.excluded if setup else {})
