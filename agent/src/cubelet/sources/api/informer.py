"""One kind's informer: it lists, then watches, and lists again where that is needed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Protocol

from cubelet.sources.api.errors import ApiError, Garbled, Refused
from cubelet.sources.api.messages import Event, Lines, event_of, page_of, precedes, version_of
from cubelet.sources.api.pace import Backoff, Pace
from cubelet.sources.api.reader import identify
from cubelet.sources.api.resources import is_absent

if TYPE_CHECKING:
    import msgspec

    from cubelet.sources.api.connection import Connection
    from cubelet.sources.api.resources import Resource
    from cubelet.sources.api.store import Store
    from cubelet.sources.problem import Problem

_SLICE = 0.01
"""Seconds of reading a page until the loop's other tasks get their turn."""
_LONGEST_WATCH = 600
"""Longest watch in seconds; watches end so that connections spread over new servers."""
_WATCHES_TRIED = 3
"""Refusals of a watch in a row after which a list is read instead."""
_BUSY = (401, 429, 503)
"""Statuses that do not count as refusals: a list would fail too, and costs the server more."""

_LISTS_MISSED = 5
"""Answers in a row that a kind is unknown until its objects count as deleted, after some 15 s."""


class Listener(Protocol):
    """Receives the outcomes of a kind's requests."""

    def reached(self, resource: Resource) -> None:
        """The server answers."""

    def works(self, resource: Resource) -> None:
        """The server's answers can be used."""

    def failed(self, resource: Resource, error: ApiError) -> None:
        """A request failed; it will be repeated."""


class Informer:
    """Keeps a store up to date with the server's objects.

    A list is read page by page. Its objects are taken in as they come, but none is removed before
    the list is complete. The watch starts at the list's version, a following one at the last
    version seen. The list is read again, and compared with the store, only if the server no longer
    has that version, or if events come in an impossible order.
    """

    def __init__(
        self,
        resource: Resource,
        store: Store,
        connection: Connection,
        listener: Listener,
        pace: Pace,
        *,
        page_size: int,
        idle: float,
    ) -> None:
        self.resource = resource
        self.store = store
        self._connection = connection
        self._listener = listener
        self._pace = pace
        self._backoff = Backoff(pace)
        self._page_size = page_size
        self._idle = idle
        self._version = ""
        self._listed = False
        self._absent = 0
        self._refusals = 0
        self._wake = asyncio.Event()
        self._waiting: list[asyncio.Future[None]] = []
        self._fetched: dict[str, str] | None = None  # while a list is read: key to version

    @property
    def has_synced(self) -> bool:
        """Whether a list was read to its end."""
        return self._listed

    @property
    def settled(self) -> bool:
        """Whether the server's objects are known: a list was read, or it does not know the kind."""
        return self._listed or self._absent > 0

    async def run(self) -> None:
        """Follow the server until cancelled."""
        while True:
            error: ApiError | None = None
            try:
                if not self._version or self._waiting:
                    await self._list()
                await self._watch_until_woken()
            except ApiError as caught:
                error = caught
                self._judge(error)
            if self._waiting and error is None:
                continue
            await self._backoff.pause(
                self._wake,
                asked=error.retry_after if error else 0.0,
                clean=error is None or (isinstance(error, Refused) and error.gone),
            )

    async def refresh(self) -> None:
        """Return once a list that begins now has been read, or the server has no such kind."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wake.set()
        await waiter

    def stop(self) -> None:
        """Remove all objects of the kind, and wake those that wait for it; call after ``run``."""
        waiting, self._waiting = self._waiting, []
        _tell(waiting)
        self._empty()

    def fetched(self, raw: bytes) -> Problem | None:
        """Take in an object that was requested by itself; returns the problem with it, if any.

        An object not newer than the watch is ignored: it may have been deleted since.
        """
        version = version_of(raw)
        if self._version and version and not precedes(self._version, version):
            return None
        key = self.store.put(raw)
        if key is not None and self._fetched is not None:
            self._fetched[key] = version
        return self.store.problem(key or "")

    def _judge(self, error: ApiError) -> None:
        """Decide whether the next request is a list, and report the error if it matters."""
        watching = bool(self._version)
        if watching and isinstance(error, Refused):
            self._refusals += error.code not in _BUSY
            if error.gone or self._refusals >= _WATCHES_TRIED:
                self._version = ""
            if error.gone:
                return
        if self._backoff.lived is None or isinstance(error, Garbled):
            self._listener.failed(self.resource, error)

    async def _list(self) -> None:
        self._wake.clear()
        waiting, self._waiting = self._waiting, []
        try:
            self._version = await self._read_list()
        except BaseException as error:
            if is_absent(self.resource, error):
                self._miss()
                _tell(waiting)
            else:
                self._absent = 0
                self._waiting = waiting + self._waiting
            raise
        self._listed, self._absent = True, 0
        self._refusals = 0
        self._listener.works(self.resource)
        _tell(waiting)

    def _miss(self) -> None:
        """Count an answer that the kind is unknown; after several in a row remove its objects.

        One of several API servers may learn of a definition later than the others.
        """
        self._absent += 1
        if self._absent >= _LISTS_MISSED:
            self._empty()

    def _empty(self) -> None:
        held = self.store.keys()
        for key in held:
            self.store.remove(key)

    async def _read_list(self) -> str:
        """Read a consistent list; returns its version."""
        try:
            return await self._read_pages(self._page_size)
        except Refused as error:
            if not error.gone:
                raise
        # The server no longer has the version of the first pages. Continuing with the newer one
        # that it offers would miss deletions in between, so read all pages in one request.
        return await self._read_pages(0)

    async def _read_pages(self, limit: int) -> str:
        gone, complete, version, more = self.store.keys(), True, "", ""
        fetched: dict[str, str] = {}
        self._fetched = fetched
        while more or not version:
            query = self._query(limit=str(limit) if limit else "", **{"continue": more})
            async with self._connection.get(self.resource.path, query, idle=self._idle) as answer:
                page = page_of(await answer.body())
            self._listener.reached(self.resource)
            complete = await self._take(page.items or (), gone, fetched) and complete
            version = version or page.metadata.resource_version
            more = page.metadata.more
        self._fetched = None
        # An object fetched meanwhile that is not in the list is newer than it, or deleted already.
        gone.update(key for key, at in fetched.items() if not precedes(version, at))
        if complete:
            for key in gone:
                self.store.remove(key)
        return version

    async def _take(
        self, items: Sequence[msgspec.Raw], gone: set[str], fetched: dict[str, str]
    ) -> bool:
        """Take in a page's items; False if some item's key cannot be read."""
        complete, until = True, time.monotonic() + _SLICE
        for raw in items:
            key = self.store.put(raw)
            if key is None:
                complete = False
            else:
                gone.discard(key)
                fetched.pop(key, None)
            if time.monotonic() > until:
                await asyncio.sleep(0)
                until = time.monotonic() + _SLICE
        return complete

    async def _watch_until_woken(self) -> None:
        watching = asyncio.create_task(self._watch())
        woken = asyncio.create_task(self._wake.wait())
        try:
            await asyncio.wait((watching, woken), return_when=asyncio.FIRST_COMPLETED)
            if watching.done():
                watching.result()
        finally:
            watching.cancel()
            woken.cancel()
            await asyncio.gather(watching, woken, return_exceptions=True)

    async def _watch(self) -> None:
        seconds = str(int(self._pace.spread(_LONGEST_WATCH) / 1.5))
        query = self._query(
            watch="true",
            allowWatchBookmarks="true",
            resourceVersion=self._version,
            timeoutSeconds=seconds,
        )
        async with self._connection.get(self.resource.path, query, idle=self._idle) as answer:
            self._backoff.established()
            self._listener.reached(self.resource)
            cut = Lines()
            while piece := await answer.piece():
                for line in cut.feed(piece):
                    self._follow(event_of(line))

    def _follow(self, event: Event) -> None:
        """Take in one event. Raises Garbled for one that is older than the last."""
        version = version_of(event.object)
        if precedes(version, self._version):
            last, self._version = self._version, ""
            raise Garbled(f"a watch went back from version {last} to {version}")
        if event.type in ("ADDED", "MODIFIED"):
            self.store.put(event.object)
        elif event.type == "DELETED":
            about = identify(event.object)
            if about is None:
                self._version = ""
                raise Garbled("a watch does not tell which object was deleted")
            self.store.remove(about.key)
        self._version = version or self._version
        self._refusals = 0
        self._listener.works(self.resource)

    def _query(self, **parameters: str) -> dict[str, str]:
        given = {name: value for name, value in parameters.items() if value}
        selector = self.resource.field_selector
        return {**given, "fieldSelector": selector} if selector else given


def _tell(waiting: Iterable[asyncio.Future[None]]) -> None:
    for each in waiting:
        if not each.done():
            each.set_result(None)
