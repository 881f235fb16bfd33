"""Changes on their way to a pass, and those who wait for the pass that takes them in."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from cubelet.cni.errors import TRY_AGAIN_LATER, CniError
from cubelet_hooks.objects import Change


@dataclass(frozen=True)
class Batch:
    """What one pass takes in. ``waiters`` are done with when the pass is."""

    changes: list[Change]
    waiters: Sequence[asyncio.Future[None]]

    @property
    def hurry(self) -> bool:
        """Whether somebody waits for it."""
        return bool(self.waiters)

    def done(self) -> None:
        """Tell those who wait that the pass is over."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self) -> None:
        """Tell those who wait that the agent ends before the pass does."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(_ending())


class Inbox:
    """One queue for all sources. Whoever waits for a pass is told when no more will come."""

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def empty(self) -> bool:
        """Whether all changes have been taken in."""
        return not self._changes

    @property
    def awaited(self) -> bool:
        """Whether somebody waits for the next pass."""
        return bool(self._waiters)

    def emit(self, change: Change) -> None:
        """Enqueue a change."""
        self._changes.append(change)
        self._wake.set()

    def wake(self) -> None:
        """Let a pass come, whether anything has changed or not."""
        self._wake.set()

    async def submit(self, *changes: Change) -> None:
        """Enqueue changes and wait for the pass that takes them in.

        Raises CniError if no pass will: the agent is ending.
        """
        if self._closed:
            raise _ending()
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        self._changes += changes
        self._wake.set()
        await waiter

    async def woken(self, seconds: float) -> None:
        """Return when there is something to do, and after so many seconds at the latest."""
        # Not asyncio.wait_for: before Python 3.12 it can swallow a cancellation (bpo-37658).
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def take(self) -> Batch:
        """Everything that has come."""
        self._wake.clear()
        batch = Batch(self._changes, self._waiters)
        self._changes, self._waiters = [], []
        return batch

    def take_changes(self) -> list[Change]:
        """Only the changes; whoever waits for them waits for the pass after this one, too."""
        changes, self._changes = self._changes, []
        return changes

    def close(self) -> None:
        """No pass comes any more: whoever waits for one gets an error, now and from now on."""
        self._closed = True
        self.take().fail()


def _ending() -> CniError:
    return CniError(TRY_AGAIN_LATER, "the agent is ending", "try again when it is back")
