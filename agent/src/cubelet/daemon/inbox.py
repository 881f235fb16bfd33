"""Queues changes for the next pass, and wakes the tasks that wait for that pass."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

from cubelet.cni.errors import TRY_AGAIN_LATER, CniError
from cubelet.net.changes import Affected
from cubelet_hooks.objects import Change


@dataclass(frozen=True)
class Batch:
    """The changes of one pass, and the ``waiters`` that its end wakes.

    ``affected`` is what others may have changed on the node.
    """

    changes: list[Change]
    waiters: Sequence[asyncio.Future[None]]
    affected: Affected = Affected.NOTHING

    @property
    def hurry(self) -> bool:
        """Whether a task waits for the pass."""
        return bool(self.waiters)

    def done(self) -> None:
        """Wake the waiters: the pass is over."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_result(None)

    def fail(self) -> None:
        """Raise CniError in the waiters: the agent ends before the pass does."""
        for waiter in self.waiters:
            if not waiter.done():
                waiter.set_exception(_ending())


class Inbox:
    """One queue for all sources. Tasks that wait for a pass get an error when no more will come."""

    def __init__(self) -> None:
        self._changes: list[Change] = []
        self._waiters: list[asyncio.Future[None]] = []
        self._affected = Affected.NOTHING
        self._wake = asyncio.Event()
        self._closed = False

    @property
    def empty(self) -> bool:
        """Whether all changes have been taken in."""
        return not self._changes

    @property
    def awaited(self) -> bool:
        """Whether a task waits for the next pass."""
        return bool(self._waiters)

    def emit(self, change: Change) -> None:
        """Enqueue a change."""
        self._changes.append(change)
        self._wake.set()

    def note(self, affected: Affected) -> None:
        """Have a pass made that looks at this part of the node."""
        self._affected |= affected
        self._wake.set()

    def wake(self) -> None:
        """Have a pass made, whether anything has changed or not."""
        self._wake.set()

    async def submit(self, *changes: Change) -> None:
        """Enqueue changes and wait for the pass that takes them in.

        Raises CniError if no pass will: the agent is ending.
        """
        self._changes += changes
        self._wake.set()
        await self.passed()

    async def passed(self) -> None:
        """Wait for the next pass, whatever it is made for. Raises CniError as :meth:`submit`."""
        if self._closed:
            raise _ending()
        waiter = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        await waiter

    async def woken(self, seconds: float) -> None:
        """Return when a pass is wanted, at the latest after ``seconds``."""
        # Not asyncio.wait_for: before Python 3.12 it can swallow a cancellation (bpo-37658).
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()

    def take(self) -> Batch:
        """Take all queued changes and waiters."""
        self._wake.clear()
        batch = Batch(self._changes, self._waiters, self._affected)
        self._changes, self._waiters, self._affected = [], [], Affected.NOTHING
        return batch

    def take_changes(self) -> list[Change]:
        """Take only the changes; their waiters stay and wait for the pass after this one."""
        changes, self._changes = self._changes, []
        return changes

    def close(self) -> None:
        """Fail all waiters, present and future: no more passes will be made."""
        self._closed = True
        self.take().fail()


def _ending() -> CniError:
    return CniError(TRY_AGAIN_LATER, "the agent is ending", "try again when it is back")
