"""A watch: the stream of events that one client is sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cubelet.lab.apiserver import errors, serving
from cubelet.lab.apiserver.faults import Faults, Kind
from cubelet.lab.apiserver.history import Event, Stored, Subscription
from cubelet.lab.apiserver.listing import whole
from cubelet.lab.apiserver.resources import Resource
from cubelet.lab.apiserver.selectors import Predicate
from cubelet.lab.apiserver.store import Store

TRUE: Final = ("true", "1")


@dataclass(frozen=True)
class Pace:
    """Seconds between a watch's bookmarks, and the life of a watch without a timeout."""

    bookmarks: float = 60.0
    life: float = 1800.0


class Watch:
    """One watch request; `lines` is its answer."""

    def __init__(
        self, store: Store, faults: Faults, resource: Resource, wanted: Predicate, pace: Pace
    ) -> None:
        self._store = store
        self._faults = faults
        self._resource = resource
        self._wanted = wanted
        self._pace = pace
        self._held = b""  # a line that the fault REORDER keeps for later
        self._gap = False  # whether the fault DROP swallowed an event
        self._over = False  # whether a fault ended it

    async def lines(self, query: Mapping[str, str]) -> AsyncIterator[bytes]:
        """The answer, line by line, until its time is over or the server ends it.

        The query must have passed `check`. A version that is too old is reported in the stream, as
        one event of type ERROR.
        """
        initial, version = self._initial(query)
        try:
            backlog, reader = self._store.since(self._resource, version)
        except errors.ApiError as error:
            yield _failure(error)
            return
        try:
            yield b""  # send the headers at once, before the first event
            for each in initial:
                yield serving.event("ADDED", serving.body(self._resource, each, self._faults))
            if query.get("sendInitialEvents") in TRUE:
                yield serving.bookmark(self._resource, version, initial=True)
            async for line in self._follow(backlog, reader, query):
                yield line
        finally:
            self._store.unsubscribe(self._resource, reader)

    def _initial(self, query: Mapping[str, str]) -> tuple[list[Stored], int]:
        """The objects that a watch from no version begins with, and the version it begins at."""
        version = whole(query, "resourceVersion")
        if version and query.get("sendInitialEvents") not in TRUE:
            return [], version
        with self._store.lock:
            objects, version = self._store.all(self._resource), self._store.version
        return [each for each in objects if self._wanted(each)], version

    async def _follow(
        self, backlog: list[Event], reader: Subscription, query: Mapping[str, str]
    ) -> AsyncIterator[bytes]:
        silent = self._meets(Kind.SILENCE)
        muted = silent or self._meets(Kind.BOOKMARKS_ONLY)
        reminded = query.get("allowWatchBookmarks") in TRUE and not silent
        now = asyncio.get_running_loop().time
        end = now() + (whole(query, "timeoutSeconds") or self._pace.life)
        reminder = now() + self._pace.bookmarks if reminded else end
        for event in backlog:
            for line in self._lines_of(event, muted):
                yield line
        while not self._over and now() < end:
            if reminded and reminder <= now():
                self._store.bookmark(reader)
                reminder += self._pace.bookmarks
            try:
                event_or_end = await reader.get(min(reminder, end) - now())
            except TimeoutError:
                continue
            if event_or_end is None:
                return
            for line in self._lines_of(event_or_end, muted):
                yield line

    def _lines_of(self, event: Event, muted: bool) -> Iterator[bytes]:
        """The lines for an event: one, unless a fault changes that."""
        if event.type == "BOOKMARK":
            if not self._gap and not self._held:
                yield serving.bookmark(self._resource, event.version, initial=False)
            return
        seen = event.seen_by(self._wanted)
        if seen is None or muted or self._over:
            return
        line = serving.event(seen[0], serving.body(self._resource, seen[1], self._faults))
        if self._gap:
            yield _failure(errors.expired(f"too old resource version: {event.version}"))
            self._over = True
        elif self._meets(Kind.DROP):
            self._gap = True
        elif self._meets(Kind.TRUNCATE):
            yield line[: len(line) // 2]
            self._over = True
        elif not self._held and self._meets(Kind.REORDER):
            self._held = line
        else:
            again = line if self._meets(Kind.DUPLICATE) else b""
            yield line + again + self._held
            self._held = b""

    def _meets(self, kind: Kind) -> bool:
        return self._faults.take(kind, self._resource.key, "watch") is not None


def check(query: Mapping[str, str]) -> None:
    """Raise ApiError (400, 422) for invalid parameters of a watch."""
    whole(query, "resourceVersion")
    whole(query, "timeoutSeconds")
    if query.get("sendInitialEvents") in TRUE:
        if query.get("resourceVersionMatch") != "NotOlderThan":
            why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
            raise errors.ApiError(422, "Invalid", f"ListOptions.meta.k8s.io is invalid: {why}")
    elif query.get("resourceVersionMatch"):
        why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        raise errors.ApiError(422, "Invalid", f"ListOptions.meta.k8s.io is invalid: {why}")


def _failure(error: errors.ApiError) -> bytes:
    return serving.event("ERROR", serving.encode(error.status_object))
