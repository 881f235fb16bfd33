"""The Kubernetes API as the source of objects."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING

from cubelet.sources.api.connection import Connection
from cubelet.sources.api.contact import Contact
from cubelet.sources.api.errors import Garbled, Refused, Unreachable
from cubelet.sources.api.informer import Informer
from cubelet.sources.api.pace import Pace
from cubelet.sources.api.reader import Reader
from cubelet.sources.api.resources import Resource, resources
from cubelet.sources.api.store import Malformed, Store
from cubelet.sources.problem import Problem
from cubelet_hooks.objects import Change, Pod

if TYPE_CHECKING:
    from cubelet.settings import KubernetesSettings

_FIND_SECONDS = 2.0
"""How long the server may take to tell about one pod: a pod's start waits for it."""


class ApiSource:
    """Emits the changes of the objects that an API server holds, as the node needs them.

    While the server cannot be reached, and when it says what makes no sense, everything stays as
    it was. ``emit`` gets one change at a time and ``report`` all problems whenever they change;
    ``malformed`` gets each object that cannot be used, once for each thing that is wrong with it.
    All are called in the loop that ``run`` runs in.
    """

    def __init__(
        self,
        settings: KubernetesSettings,
        node_name: str,
        emit: Callable[[Change], None],
        report: Callable[[list[Problem]], None],
        malformed: Callable[[Malformed], None] = lambda _: None,
        *,
        pace: Pace | None = None,
    ) -> None:
        self._report = report
        self._connection = Connection(settings)
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

        self._informers = {each.kind: informer(each) for each in resources(settings.config_map)}

    @property
    def connection(self) -> Connection:
        """For other requests to the same server."""
        return self._connection

    @property
    def has_synced(self) -> bool:
        """Whether all that the server held at the start has been emitted."""
        return all(each.has_synced for each in self._informers.values())

    async def run(self) -> None:
        """Follow the server until cancelled."""
        try:
            async with asyncio.TaskGroup() as tasks:
                for informer in self._informers.values():
                    tasks.create_task(informer.run())
        finally:
            await self._connection.close()

    async def refresh(self) -> None:
        """Return once all that the server holds now, by a consistent read, has been emitted."""
        await asyncio.gather(*(each.refresh() for each in self._informers.values()))

    async def find_pod(self, key: str, uid: str = "") -> Pod | None:
        """The pod with this key, and this uid if one is given; None if there is no such pod.

        One that is not known yet is asked for, and emitted when it is found. Raises
        ``cubelet.sources.api.ApiError`` when the server cannot be asked or its answer not be used.
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
        """Tell the problems once for all that changes in this step of the loop."""
        if self._telling is None:
            self._telling = asyncio.get_running_loop().call_soon(self._tell)

    def _tell(self) -> None:
        self._telling = None
        found = self._contact.problems()
        for informer in self._informers.values():
            found += informer.store.problems()
        found.sort()
        if found != self._problems:
            self._problems = found
            self._report(list(found))


def _pod(informer: Informer, key: str, uid: str) -> Pod | None:
    found = informer.store.get(key)
    return found if isinstance(found, Pod) and uid in ("", found.uid) else None
