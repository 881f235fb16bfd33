"""The Kubernetes API as the source of objects."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from cubelet.sources.annotations import Kept
from cubelet.sources.api.connection import Connection
from cubelet.sources.api.contact import Contact
from cubelet.sources.api.errors import Garbled, Refused, Unreachable
from cubelet.sources.api.informer import Informer
from cubelet.sources.api.pace import Pace
from cubelet.sources.api.reader import Reader
from cubelet.sources.api.resources import Resource, custom, resources
from cubelet.sources.api.servers import Servers
from cubelet.sources.api.store import Malformed, Store
from cubelet.sources.problem import Problem
from cubelet_hooks import resources as hooks
from cubelet_hooks.objects import Change, Pod

if TYPE_CHECKING:
    from cubelet.config.node import KubernetesSettings

_FIND_SECONDS = 2.0
"""Seconds that a request for one pod may take: a pod's start waits for it."""


class ApiSource:
    """Emits the changes of the objects that an API server holds, as the node needs them.

    While the server cannot be reached, or sends malformed answers, all objects stay as they were.
    ``emit`` gets one change at a time and ``report`` all problems whenever they change;
    ``malformed`` gets each object that cannot be used, once for each error in it. All are called in
    the loop that ``run`` runs in. Nodes and Namespaces keep only the ``annotations`` that cubes
    declare. ``servers`` are asked; without them those of the settings, or the credentials' one.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        node_name: str,
        emit: Callable[[Change], None],
        report: Callable[[list[Problem]], None],
        malformed: Callable[[Malformed], None] = lambda _: None,
        *,
        annotations: Iterable[str] = (),
        pace: Pace | None = None,
        servers: Servers | None = None,
    ) -> None:
        self._report = report
        self._connection = Connection(settings, servers or Servers(settings.api_servers))
        self._contact = Contact(lambda: self._connection.server, self._changed)
        self._problems: list[Problem] = []
        self._telling: asyncio.Handle | None = None

        def informer(resource: Resource) -> Informer:
            return Informer(
                resource,
                Store(Reader(resource, node_name), emit, malformed, self._changed),
                self._connection,
                self._contact,
                pace or Pace(),
                page_size=settings.page_size,
                idle=settings.idle_seconds,
            )

        self._make = informer
        self._kept = Kept(annotations)
        built_in = resources(settings.config_map, self._kept)
        self._informers = {each.kind: informer(each) for each in built_in}
        self._custom: dict[hooks.Resource, Informer] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._running: dict[hooks.Resource, asyncio.Task[None]] = {}

    @property
    def connection(self) -> Connection:
        """The connection, for other requests to the same server."""
        return self._connection

    @property
    def has_synced(self) -> bool:
        """Whether all objects of built-in kinds that the server had at the start are emitted."""
        return all(each.has_synced for each in self._informers.values())

    @property
    def away(self) -> bool:
        """Whether the server cannot be reached now."""
        return self._contact.away

    @property
    def knows_custom(self) -> bool:
        """Whether all objects of cubes' kinds that the server knows have been emitted."""
        return all(each.settled for each in self._custom.values())

    async def run(self) -> None:
        """Follow the server until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for informer in self._informers.values():
                    tasks.create_task(informer.run())
                for declared in self._custom:
                    self._start(declared)
        finally:
            self._tasks = None
            await self._connection.close()

    async def watch(self, wanted: Iterable[hooks.Resource], patience: float) -> None:
        """Follow these kinds beyond the built-in ones, and no others.

        Returns when the server's objects of them have been emitted, or after ``patience`` seconds.
        A kind that the server does not know is a problem but not waited for; it is followed once
        the server knows it.
        """
        kinds = dict.fromkeys(wanted)
        for declared in self._custom.keys() - kinds:
            self._stop(declared)
        fresh = [declared for declared in kinds if declared not in self._custom]
        for declared in fresh:
            self._custom[declared] = self._make(custom(declared))
            self._start(declared)
        if fresh and patience > 0:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await asyncio.gather(*(self._custom[declared].refresh() for declared in fresh))

    async def learn(self, annotations: Iterable[str]) -> None:
        """Keep these annotations from now on; returns when Nodes and Namespaces were read anew."""
        self._kept.learn(annotations)
        await asyncio.gather(*(self._informers[each].refresh() for each in ("Node", "Namespace")))

    def _start(self, declared: hooks.Resource) -> None:
        if self._tasks is not None:
            self._running[declared] = self._tasks.create_task(self._custom[declared].run())

    def _stop(self, declared: hooks.Resource) -> None:
        """Stop following a kind, and emit the removal of its objects."""
        informer = self._custom.pop(declared)
        task = self._running.pop(declared, None)
        if task is not None:
            task.cancel()
            task.add_done_callback(lambda _: informer.stop())
        informer.stop()
        self._contact.forget(informer.resource)
        self._changed()

    async def refresh(self) -> None:
        """Return once the server's present objects, by a consistent read, have been emitted."""
        informers = (*self._informers.values(), *self._custom.values())
        await asyncio.gather(*(each.refresh() for each in informers))

    async def find_pod(self, key: str, uid: str = "") -> Pod | None:
        """The pod with this key, and this uid if one is given; None if there is no such pod.

        The server is asked for a pod that is not known yet, which is emitted if found. Raises
        ``cubelet.sources.api.ApiError`` if the server is unreachable or its answer unusable.
        """
        informer = self._informers[Pod.kind]
        known = _pod(informer, key, uid)
        if known is not None:
            return known
        namespace, _, name = key.partition("/")
        try:
            async with (
                asyncio.timeout(_FIND_SECONDS),
                self._connection.get(f"/api/v1/namespaces/{namespace}/pods/{name}", {}) as answer,
            ):
                body = await answer.body()
        except TimeoutError as error:
            raise Unreachable(f"no answer within {_FIND_SECONDS:g} s") from error
        except Refused as error:
            if error.code == 404:
                return None
            raise
        problem = informer.fetched(body)
        if problem is not None:
            raise Garbled(str(problem))
        return _pod(informer, key, uid)

    def _changed(self) -> None:
        """Schedule one report of the problems for all changes in this step of the event loop."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        found = self._contact.problems()
        for informer in (*self._informers.values(), *self._custom.values()):
            found += informer.store.problems()
        found.sort()
        if found != self._problems:
            self._problems = found
            self._report(list(found))


def _pod(informer: Informer, key: str, uid: str) -> Pod | None:
    found = informer.store.get(key)
    return found if isinstance(found, Pod) and uid in ("", found.uid) else None
