"""Stored objects, and the events for watches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Literal

from cubelet.lab.apiserver import errors
from cubelet.lab.apiserver.selectors import Predicate

EventType = Literal["ADDED", "MODIFIED", "DELETED", "BOOKMARK"]


@dataclass(frozen=True, slots=True)
class Stored:
    """An object at one version: its JSON, and the fields that requests select by."""

    namespace: str
    name: str
    uid: str
    version: int
    labels: Mapping[str, str]
    node: str
    body: bytes

    @property
    def key(self) -> tuple[str, str]:
        """Namespace (empty if it has none) and name, by which lists are sorted."""
        return self.namespace, self.name


@dataclass(frozen=True, slots=True)
class Event:
    """A change: ``new`` replaced ``old``; for DELETED ``new`` is the last state, at the
    version of the deletion. A BOOKMARK has neither."""

    type: EventType
    version: int
    old: Stored | None = None
    new: Stored | None = None

    def seen_by(self, wanted: Predicate) -> tuple[EventType, Stored] | None:
        """The event for a watch that selects the objects that are ``wanted``.

        An object that begins to match is ADDED, one that no longer matches is DELETED.
        """
        assert self.new is not None
        before = self.old is not None and wanted(self.old)
        after = self.type != "DELETED" and wanted(self.new)
        if before and after:
            return "MODIFIED", self.new
        if after:
            return "ADDED", self.new
        return ("DELETED", self.new) if before else None


class Subscription:
    """The events of one resource from one moment on, for a reader in the event loop."""

    def __init__(self) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._queue: Final = asyncio.Queue[Event | None]()

    def put(self, event: Event | None) -> None:
        """Add an event, from any thread; None ends the subscription."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._queue.put_nowait, event)

    async def get(self, seconds: float | None) -> Event | None:
        """The next event; None when the server ended the subscription. Raises TimeoutError."""
        async with asyncio.timeout(seconds):
            return await self._queue.get()


class History:
    """The latest events of one resource, and its subscriptions. Callers hold the store's lock."""

    def __init__(self, limit: int) -> None:
        self._events: deque[Event] = deque()
        self._limit = limit
        self._floor = 0
        self._readers: list[Subscription] = []

    def append(self, event: Event) -> None:
        """Remember an event and hand it to all subscriptions."""
        self._events.append(event)
        if len(self._events) > self._limit:
            self._floor = self._events.popleft().version
        for reader in self._readers:
            reader.put(event)

    def since(self, version: int) -> list[Event]:
        """The events after ``version``. Raises ApiError (410) if some are forgotten."""
        if version < self._floor:
            raise errors.expired(f"too old resource version: {version} ({self._floor + 1})")
        return [each for each in self._events if each.version > version]

    def forget(self, version: int) -> None:
        """Forget all events up to ``version``, the present one."""
        self._events.clear()
        self._floor = max(self._floor, version)

    def subscribe(self) -> Subscription:
        """A subscription to all events from now on; `unsubscribe` it."""
        reader = Subscription()
        self._readers.append(reader)
        return reader

    def unsubscribe(self, reader: Subscription) -> None:
        """Stop feeding a reader."""
        self._readers.remove(reader)

    def end_readers(self) -> None:
        """End all subscriptions."""
        for reader in self._readers:
            reader.put(None)
