"""The agent's loop: makes passes, which bring the node up to date with the changes."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import structlog

from cubelet.composer.composition import Composition
from cubelet.config.live import Configuration
from cubelet.config.setup import Setup
from cubelet.control.reconciler import Reconciler
from cubelet.cubes.discovery import Discovery
from cubelet.cubes.keeping import Keeper
from cubelet.cubes.runtime import Runtime
from cubelet.daemon.health import Health
from cubelet.daemon.inbox import Batch, Inbox
from cubelet.datapath.thread import DatapathThread
from cubelet.sources.feed import Feed, Outcome
from cubelet_hooks.objects import Change

log = structlog.get_logger()
_COALESCE = 0.01
"""Seconds to wait for further changes once one has come: bursts become one pass."""
_RETRY = 5.0
"""Seconds until a pass with problems is repeated."""
_SETTLE = 0.5
"""Seconds of quiet until ports that were attached in a hurry are attached for good."""
_REVIEW = 60.0
"""Seconds of quiet until a pass compares everything: other software may have changed the node."""


class Loop:
    """Makes a pass when changes are in the inbox, and when one is due.

    ``on_pass`` is called after each with the seconds that it took, ``on_composition`` when another
    composition has taken over.
    """

    def __init__(
        self,
        inbox: Inbox,
        thread: DatapathThread,
        feed: Feed,
        configuration: Configuration,
        discovery: Discovery,
        reconciler: Reconciler,
        runtime: Runtime,
        health: Health,
        keeper: Keeper,
    ) -> None:
        self._inbox = inbox
        self._thread = thread
        self._feed = feed
        self._configuration = configuration
        self._discovery = discovery
        self._reconciler = reconciler
        self._runtime = runtime
        self._health = health
        self._keeper = keeper
        self._kept: Setup | None = None
        self.on_pass: list[Callable[[float], None]] = []
        self.on_composition: list[Callable[[Composition], None]] = []

    async def run(self) -> None:
        """Make passes until cancelled; tasks that then wait for one get an error."""
        try:
            await self._feed.begun()  # before that, pinned maps' entries could look unwanted
            self._inbox.wake()
            reviewed = time.monotonic()
            while True:
                due = reviewed + (_RETRY if self._reconciler.problems else _REVIEW)
                await self._inbox.woken(self._pause(due))
                if not self._inbox.awaited:  # a pod that waits is served at once
                    await asyncio.sleep(_COALESCE)
                if time.monotonic() >= due:
                    self._reconciler.review_all()
                    reviewed = time.monotonic()
                batch = self._inbox.take()
                try:
                    await self._pass(batch)
                except Exception:  # a bug here must not end the agent
                    log.exception("a pass failed")
                    self._reconciler.review_all()
                except BaseException:
                    batch.fail()
                    raise
                batch.done()
        finally:
            self._inbox.close()

    def _pause(self, due: float) -> float:
        """Seconds until a pass is due without changes."""
        pause = max(0.0, due - time.monotonic())
        if self._reconciler.ports.unsettled:
            pause = min(pause, _SETTLE)
        if (lingers := self._reconciler.lingers) is not None:
            pause = min(pause, max(lingers, _SETTLE))
        return pause

    async def _pass(self, batch: Batch) -> None:
        """Make a pass with these changes, then call the observers."""
        changes = await self._taken_in(batch.changes)
        before = self._reconciler.datapath.identity
        began = self._health.pass_began = time.monotonic()
        await self._thread.run(self._bring_up, changes, batch, self._feed.complete)
        await self._runtime.listen()
        self._health.pass_began = None
        for passed in self.on_pass:
            passed(time.monotonic() - began)
        composition = self._reconciler.switchover.composition
        if composition is not None and self._reconciler.datapath.identity != before:
            for recomposed in self.on_composition:
                recomposed(composition)
        self._settle()
        self._feed.passed(self._outcome())
        for change in changes:
            self._discovery.observe("cubelet_changed", change=change)

    def _outcome(self) -> Outcome:
        """What the source of objects is told."""
        setup = self._reconciler.setup
        kinds = {cube.kind for cube in setup.composition.cubes} if setup else set()
        return Outcome(
            ready=self._health.ready,
            refused=self._configuration.problem,
            quarantined=self._discovery.quarantined(),
            kept=self._discovery.kept(kinds),
            complaints=self._reconciler.complaints,
            conditions=self._reconciler.conditions,
        )

    async def _taken_in(self, changes: list[Change]) -> list[Change]:
        """These changes, and the objects of kinds that only a new configuration's cubes watch.

        So the plans of such a cube are complete from its first pass on.
        """
        taken: list[Change] = []
        while True:
            self._configuration.follow(changes, self._feed.complete)
            taken += changes
            await self._feed.watch(self._reconciler.watches)
            changes = self._inbox.take_changes()
            if not changes:
                return taken

    def _bring_up(self, changes: list[Change], batch: Batch, complete: bool) -> None:
        """Make the pass; runs on the datapath thread."""
        reconciler = self._reconciler
        reconciler.run(changes, batch.affected, hurry=batch.hurry, complete=complete)
        try:
            maps = reconciler.datapath.maps
            self._runtime.take_over(reconciler.switchover.composition, maps)
        except Exception as error:  # a bug here must not end the agent
            log.error("cubes are not served", error=str(error))
            reconciler.problems["runtime"] = f"cubes' events are not read: {error}"
        else:
            self._runtime.tell_gone(reconciler.take_gone())
            reconciler.problems.pop("runtime", None)

    def _settle(self) -> None:
        """Quarantine cubes that fail while in force, or that keep the node from starting.

        What was in force before them takes their place, if that is another version.

        Faults of a configuration that is given up do not count.
        """
        switchover = self._reconciler.switchover
        given_up = self._configuration.settle(
            self._reconciler.refused, switchover.in_force is not None, switchover.faults
        )
        faults, suspects = dict(switchover.faults), dict(switchover.suspects)
        switchover.faults.clear()
        switchover.suspects.clear()
        if given_up:
            self._inbox.wake()
            return
        found = (faults | suspects).items()
        reverted = {kind for kind, reason in found if self._discovery.fall_back(kind, reason)}
        known = reverted | self._discovery.faults.keys()
        fresh = {kind: reason for kind, reason in faults.items() if kind not in known}
        if not fresh and not reverted:
            self._keep()
            return
        for kind, reason in fresh.items():
            log.error("cube quarantined", cube=kind, reason=reason)
        self._configuration.go_on_without(fresh)
        self._inbox.wake()

    def _keep(self) -> None:
        """Note once which cubes are in force and have proved no fault."""
        setup = self._reconciler.setup
        if self._reconciler.refused == "" and setup is not None and setup is not self._kept:
            self._kept = setup
            kinds = {cube.kind for cube in setup.composition.cubes}
            self._keeper.took_over(self._discovery, kinds)
