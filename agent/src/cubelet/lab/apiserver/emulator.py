"""The HTTP side: kmock's Kubernetes emulator, with this package's objects under it.

kmock reads requests, serves discovery and lets tests add reactions of their own; the modules beside
this one add what it lacks: versions, history, pages, selectors and subresources.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterable
from typing import Final, NamedTuple, Self

import aiohttp.web
import kmock

from cubelet.lab.apiserver import errors, intent, requests, serving, watching
from cubelet.lab.apiserver.faults import Faults, Kind
from cubelet.lab.apiserver.history import Stored
from cubelet.lab.apiserver.listing import Lists
from cubelet.lab.apiserver.resources import Place, Resource
from cubelet.lab.apiserver.selectors import Predicate, predicate
from cubelet.lab.apiserver.store import Store
from cubelet.lab.apiserver.watching import Pace, Watch

_LOGGED: Final = 100_000  # latest requests that tests can look at
_REMEMBERED: Final = 16  # latest requests that kmock keeps whole
_API_VERBS: Final = (
    "create",
    "delete",
    "deletecollection",
    "get",
    "list",
    "patch",
    "update",
    "watch",
)
_OPEN: Final = ("/healthz", "/livez", "/readyz", "/version")  # served without a token


_SUCCESS: Final = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success"}


class Access(NamedTuple):
    """A request that was answered: ``time`` is when it came, in seconds of time.monotonic()."""

    method: str
    path: str
    query: str
    time: float


class Emulator(kmock.KubernetesEmulator):
    """Answers requests from a `Store`."""

    def __init__(self, store: Store, pace: Pace) -> None:
        super().__init__()
        self.store = store
        self.pace = pace
        self.faults = Faults()
        self.lists = Lists(store)
        self.tokens: set[str] | None = None
        self.log: list[Access] = []
        for each in store.resources:
            self._describe(each)
        store.on_register.append(self._describe)

    def _describe(self, resource: Resource) -> None:
        """Add a resource to discovery."""
        name = kmock.resource(resource.group, resource.version, resource.plural)
        self.resources[name] = _described(resource)

    def __attrs_post_init__(self) -> None:
        """Set the default reactions, which tests can override: kmock's discovery, our objects."""
        super(kmock.KubernetesEmulator, self).__attrs_post_init__()
        for action, handle, status in (
            (kmock.action.LIST, self._serve_list, 200),
            (kmock.action.WATCH, self._serve_watch, 200),
            (kmock.action.FETCH, self._serve_fetch, 200),
            (kmock.action.CREATE, self._serve_create, 201),
            (kmock.action.UPDATE, self._serve_update, 200),
            (kmock.action.DELETE, self._serve_delete, 200),
        ):
            self.fallback[action] << status << {"Content-Type": "application/json"} << handle

    async def __aenter__(self) -> Self:
        if not self.active:
            self._stream_queue = asyncio.Queue()  # the last one belongs to the last event loop
        return await super().__aenter__()

    async def __call__(self, raw_request: aiohttp.web.BaseRequest) -> aiohttp.web.StreamResponse:
        """Serve one request: those for objects here, all others (discovery) by kmock."""
        self._note(raw_request)
        try:
            self._authorize(raw_request)
            place = self.store.resources.place(raw_request.path)
            if raw_request.path in _OPEN[:3]:
                return aiohttp.web.Response(text="ok")
            if place is None:
                return await super().__call__(raw_request)
            request = await intent.understood(raw_request, place)
            await self._fail(request, place)
            self._requests.append(request)
            return await self._handle(request)
        except errors.ApiError as error:
            return _response(error)

    async def _handle(self, request: kmock.Request) -> aiohttp.web.StreamResponse:
        """Answer by the first reaction that fits: a test's, or the fallbacks below.

        kmock's own handling of changes is skipped: it keeps copies without versions.
        """
        return await super(kmock.KubernetesEmulator, self)._handle(request)

    async def _render_error(self, exc: Exception) -> aiohttp.web.StreamResponse:
        if isinstance(exc, errors.ApiError | kmock.KubernetesNotFoundError):
            return _response(exc if isinstance(exc, errors.ApiError) else errors.no_such_path())
        return await super()._render_error(exc)

    async def _serve_list(self, request: kmock.Request) -> kmock.Payload:
        place, wanted = self._selection(request)
        query = request.params
        selects = bool(query.get("labelSelector") or query.get("fieldSelector") or place.namespace)
        found = self.lists.page(place.resource, wanted, query, selects=selects)
        pieces = serving.page(place.resource, found, self.faults)
        return self._cut(request, place, _slowly(pieces))

    async def _serve_watch(self, request: kmock.Request) -> kmock.Payload:  # type: ignore[override]
        place, wanted = self._selection(request)
        watching.check(request.params)
        watch = Watch(self.store, self.faults, place.resource, wanted, self.pace)
        return self._cut(request, place, watch.lines(request.params))

    async def _serve_fetch(self, request: kmock.Request) -> kmock.Payload:
        place = intent.place_of(request, self.store.resources)
        return self._one(place, self.store.get(place.resource, (place.namespace, place.name)))

    async def _serve_create(self, request: kmock.Request) -> kmock.Payload:
        place = intent.place_of(request, self.store.resources)
        return self._one(place, requests.create(self.store, place, request.data))

    async def _serve_update(self, request: kmock.Request) -> kmock.Payload:
        place = intent.place_of(request, self.store.resources)
        if request.method.value == "PUT":
            return self._one(place, requests.replace(self.store, place, request.data))
        content_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
        changed = requests.patch(self.store, place, content_type, request.data)
        return self._one(place, changed)

    async def _serve_delete(self, request: kmock.Request) -> kmock.Payload:
        place, wanted = self._selection(request)
        given = request.data if isinstance(request.data, dict) else {}
        options = {**request.params, **given}
        if not place.name:
            for each in filter(wanted, self.store.all(place.resource)):
                one = place._replace(namespace=each.namespace, name=each.name)
                requests.delete(self.store, one, options)
            return serving.encode({**_SUCCESS, "details": {"kind": place.resource.plural}})
        last, gone = requests.delete(self.store, place, options)
        if place.resource.returned or not gone:
            return self._one(place, last)
        details = {"name": last.name, "kind": place.resource.plural, "uid": last.uid}
        return serving.encode({**_SUCCESS, "details": details})

    async def _serve_server_version(self, request: kmock.Request) -> kmock.Payload:
        return {"major": "1", "minor": "36", "gitVersion": "v1.36.0+cubelet.lab"}

    async def _serve_version(self, request: kmock.Request) -> kmock.Payload:
        found = await super()._serve_version(request)
        assert isinstance(found, dict)
        return {**found, "groupVersion": str(found["groupVersion"]).lstrip("/")}

    def _one(self, place: Place, stored: Stored) -> bytes:
        return serving.body(place.resource, stored, self.faults)

    def _selection(self, request: kmock.Request) -> tuple[Place, Predicate]:
        place, query = intent.place_of(request, self.store.resources), request.params
        labels, fields = query.get("labelSelector", ""), query.get("fieldSelector", "")
        return place, predicate(place.resource, place.namespace, place.name, labels, fields)

    def _note(self, raw: aiohttp.web.BaseRequest) -> None:
        self.log.append(Access(raw.method, raw.path, raw.query_string, time.monotonic()))
        del self.log[:-_LOGGED]
        # kmock searches all remembered requests for every reaction, so keep only a few.
        del self._requests[:-_REMEMBERED]
        for reaction in self._payloads:
            del reaction._requests[:-_REMEMBERED]

    def _authorize(self, raw: aiohttp.web.BaseRequest) -> None:
        if self.tokens is None or raw.path in _OPEN:
            return
        scheme, _, token = raw.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or token not in self.tokens:
            raise errors.unauthorized()

    async def _fail(self, request: kmock.Request, place: Place) -> None:
        key, verb = place.resource.key, intent.verb(request)
        if slow := self.faults.take(Kind.SLOW, key, verb):
            await asyncio.sleep(slow.seconds)
        if answer := self.faults.take(Kind.ANSWER, key, verb):
            raise errors.injected(answer.status, answer.retry_after)

    async def _cut(
        self, request: kmock.Request, place: Place, pieces: AsyncIterator[bytes]
    ) -> AsyncIterator[bytes]:
        """The pieces of an answer, or as many of its bytes as a fault lets through."""
        fault = self.faults.take(Kind.CUT, place.resource.key, intent.verb(request))
        left = fault.bytes if fault else 0
        async for piece in pieces:
            if fault and len(piece) >= left:
                yield piece[:left]
                transport = request._raw_request.transport if request._raw_request else None
                if transport:
                    transport.abort()
                raise ConnectionResetError
            left -= len(piece)
            yield piece


def _described(resource: Resource) -> kmock.ResourceInfo:
    """A resource's description for discovery."""
    return kmock.ResourceInfo(
        kind=resource.kind,
        singular=resource.kind.lower(),
        namespaced=resource.namespaced,
        verbs=_API_VERBS,
        shortnames=resource.short_names,
        subresources=["status"] if resource.status else [],
    )


def _response(error: errors.ApiError) -> aiohttp.web.Response:
    return aiohttp.web.json_response(
        error.status_object, status=error.status, headers=error.headers
    )


async def _slowly(pieces: Iterable[bytes]) -> AsyncIterator[bytes]:
    """The pieces one by one, with other requests served in between."""
    for piece in pieces:
        yield piece
        await asyncio.sleep(0)
