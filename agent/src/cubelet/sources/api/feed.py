"""The API server as the agent's source of objects; the agent also writes Events and Node status."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping
from ipaddress import ip_address
from itertools import chain

import structlog

from cubelet.cni.errors import TRY_AGAIN_LATER, CniError
from cubelet.config.node import Settings
from cubelet.sources.api import ApiError, ApiSource, Malformed
from cubelet.sources.api.events import EventWriter, Reference
from cubelet.sources.api.node import NodeKeeper
from cubelet.sources.api.servers import Servers, endpoints_of, host_of
from cubelet.sources.api.statuses import StatusWriter
from cubelet.sources.api.whereabouts import find, server_url
from cubelet.sources.decode import KINDS, Kinds, with_custom
from cubelet.sources.feed import Emit, Free, Outcome
from cubelet.sources.problem import Problem
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.addresses import API_SERVICE
from cubelet_hooks.cube import Complaint
from cubelet_hooks.objects import Change, ConfigMap, EndpointSlice, Node, Pod
from cubelet_hooks.resources import Resource

log = structlog.get_logger()
_PATIENCE = 10.0
"""Seconds to wait for the API server at a start before using the memory of the last run."""

_LOOK, _LOOK_WHILE_AWAY = 60.0, 5.0
"""Seconds until the API server's addresses are looked up again."""

_CUSTOM_PATIENCE = 5.0
"""Seconds to wait for the objects of a cube's own kind before going on without them."""


class ApiFeed:
    """Implements ``cubelet.sources.feed.Feed``.

    If the server is unreachable at a start, a node that has run before uses the memory of the last
    run: maps and programs stay, and pods can be started.
    """

    def __init__(
        self,
        settings: Settings,
        memory: Memory,
        state: State,
        emit: Emit,
        wake: Callable[[], None],
        patience: float = _PATIENCE,
        annotations: Iterable[str] = (),
        free: Free = lambda _: None,
    ) -> None:
        self._name = settings.name
        self._config_map = settings.kubernetes.config_map
        self._memory = memory
        self._state = state
        self._emit_on = emit
        self._wake = wake
        self._patience = patience
        self._free = free
        self._servers = Servers(
            settings.kubernetes.api_servers,
            [(ip_address(each), port) for each, port in memory.known.api_endpoints],
            memory.known.api_names,
        )
        self._source = ApiSource(
            settings.kubernetes,
            settings.name,
            self._emit,
            self._report,
            self._tell_malformed,
            annotations=annotations,
            servers=self._servers,
        )
        self._events = EventWriter(self._source.connection, settings.name)
        self._statuses = StatusWriter(self._source.connection, settings.name)
        self._reported: tuple[Resource, ...] = ()
        self._keeper = NodeKeeper(self._source.connection, settings.name)
        self._annotations = frozenset(annotations)
        self._degraded = False
        self._held: list[Change] | None = []
        self._told = Outcome(ready=False)
        self._url = server_url(settings.kubernetes)
        self._kinds: Kinds = KINDS
        self.problems: list[Problem] = []

    @property
    def synced(self) -> bool:
        """Whether all objects of the server have been read once."""
        return self._source.has_synced

    @property
    def away(self) -> bool:
        """Whether the server cannot be reached now."""
        return self._source.away

    @property
    def complete(self) -> bool:
        """Whether all objects are known and none was unreadable."""
        return self._held is None and self._source.knows_custom and not self.problems

    @property
    def usable(self) -> bool:
        """Whether all objects have been read once, or the memory of the last run is in use."""
        return self._source.has_synced or self._degraded

    async def run(self) -> None:
        """Follow the API server until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            await self._look_for_the_server()  # before it is asked: the way may be blocked
            for writer in (self._events, self._keeper, self._statuses):
                tasks.create_task(writer.run())
            for work in (self._source.run(), self._look_on()):
                tasks.create_task(work)

    async def _look_on(self) -> None:
        """Look again now and then, for as long as the agent runs."""
        while True:
            reached = self._source.has_synced and not self._source.away
            await asyncio.sleep(_LOOK if reached else _LOOK_WHILE_AWAY)
            await self._look_for_the_server()

    async def _look_for_the_server(self) -> None:
        """Find out the servers' addresses, for no route of ours to take them; let go of one that
        has.

        Where none can be resolved, what was known last counts.
        """
        urls = self._servers.urls or (self._url,)
        found = await asyncio.gather(*map(find, urls))
        for url, reached in zip(urls, found, strict=True):
            if reached and (name := host_of(url)):
                self._servers.names[name] = tuple(str(address) for address, _ in reached)
        told = tuple(dict.fromkeys((str(each), port) for each, port in chain(*found)))
        self._memory.remember(api_names=dict(self._servers.names))
        if told and told != self._memory.known.api_servers:
            self._memory.remember(api_servers=told)
            self._wake()
        if self._source.has_synced and not self._source.away:
            return
        addresses = [ip_address(each) for each, _ in self._memory.known.api_servers]
        if addresses:
            await asyncio.to_thread(self._free, addresses)

    async def begun(self) -> None:
        """Return when all objects are known, or it is time to use the memory of the last run."""
        reading = asyncio.ensure_future(self._source.refresh())
        remembered = self._memory.known.node(self._name)
        await asyncio.wait([reading], timeout=self._patience if remembered else None)
        if reading.done():
            reading.result()
            self._release()
            return
        self._degraded = True
        log.warning("going by what the last run knew", node=self._name)
        reading.add_done_callback(lambda _: self._release())

    async def watch(self, resources: Iterable[Resource]) -> None:
        """Follow these kinds too; their objects are waited for as long as the server answers."""
        resources = tuple(resources)
        self._kinds, self._reported = with_custom(resources), resources
        await self._source.watch(resources, _CUSTOM_PATIENCE if self._source.has_synced else 0.0)

    async def learn(self, annotations: Iterable[str], watches: Mapping[str, Resource]) -> None:
        """Read Nodes and Namespaces again, if more of their annotations are to be kept."""
        names = frozenset(annotations)
        if not names <= self._annotations:
            self._annotations = names
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._patience):
                    await self._source.learn(names)

    async def refresh(self) -> None:
        """Return once all that the server holds now has been emitted."""
        await self._source.refresh()

    async def find_pod(self, key: str) -> Pod | None:
        """The pod; the server is asked if the watch has not shown it yet.

        Raises CniError if the server has been unreachable since the start and the last run knew
        policies in the pod's namespace: they could not be applied to the pod.
        """
        try:
            pod = await self._source.find_pod(key)
        except ApiError as error:
            namespace = key.partition("/")[0]
            if not self._source.has_synced and namespace in self._memory.known.policed:
                raise CniError(
                    TRY_AGAIN_LATER,
                    f"the policies of namespace {namespace} are not known yet",
                    f"the API server cannot be asked: {error}",
                ) from error
            return None
        if pod is not None and self._held is not None:
            self._emit_on(Change.between(None, pod))  # it is about to be served
        return pod

    def passed(self, outcome: Outcome) -> None:
        """Tell the server that pods are served, and of what was refused, quarantined or kept."""
        if outcome.ready:
            self._keeper.serve()
        if outcome.ready and self._held is None and self._source.knows_custom:
            self._statuses.want(self._reported, outcome.conditions)
        if self._held is None:
            policed = {policy.namespace for policy in self._state.policies.values()}
            self._memory.remember(policed=tuple(sorted(policed)))
        last, self._told = self._told, outcome
        if outcome.refused and outcome.refused != last.refused:
            namespace, _, name = self._config_map.rpartition("/")
            about = Reference("v1", ConfigMap.kind, namespace or "default", name)
            self._events.warn(about, "ConfigurationRefused", outcome.refused)
        # Nodes have no uid of their own in Events: kubelets and kubectl use their name.
        node = Reference("v1", Node.kind, "", self._name, self._name)
        for name, reason in outcome.quarantined.items() - last.quarantined.items():
            self._events.warn(node, "CubeQuarantined", f"cube {name}: {reason}")
        for name, reason in outcome.kept.items() - last.kept.items():
            self._events.warn(node, "CubeKept", f"cube {name}: {reason}")
        for each in sorted({*outcome.complaints} - {*last.complaints}, key=str):
            self._events.warn(self._about(each), each.reason, each.message)

    def _about(self, complaint: Complaint) -> Reference:
        known = self._kinds.get(complaint.kind)
        version = known.api_version if known else "v1"
        namespace, _, name = complaint.key.rpartition("/")
        uid = name if complaint.kind == Node.kind else ""
        return Reference(
            version, complaint.kind, namespace, name, uid, known.plural if known else ""
        )

    def _emit(self, change: Change) -> None:
        """Hand a change on; until all objects are known, only changes of our own Node.

        Plans from half a cluster would be wrong: policies without the pods that they allow,
        Services without endpoints.
        """
        own_node = change.kind == Node.kind and change.key == self._name
        if own_node:
            self._keeper.look()
        if isinstance(change.new, EndpointSlice) and change.key == API_SERVICE:
            self._learn_endpoints(change.new)
        if self._held is not None:
            self._held.append(change)
        if self._held is None or own_node:
            self._emit_on(change)

    def _learn_endpoints(self, found: EndpointSlice) -> None:
        """Note where the API servers are; while they say that none is ready, where they were."""
        endpoints = endpoints_of(found)
        if endpoints:
            self._servers.endpoints = endpoints
            told = tuple((str(address), port) for address, port in endpoints)
            self._memory.remember(api_endpoints=told)

    def _release(self) -> None:
        """Hand on the held changes, in their order: all objects are known now."""
        held, self._held = self._held, None
        for change in held or ():
            self._emit_on(change)
        self._wake()

    def _report(self, problems: list[Problem]) -> None:
        self.problems = problems
        self._wake()

    def _tell_malformed(self, found: Malformed) -> None:
        log.error("object refused", kind=found.kind, key=found.key, error=found.message)
        if found.name:
            about = Reference(found.api_version, found.kind, found.namespace, found.name, found.uid)
            text = f"{found.field}: {found.message}" if found.field else found.message
            self._events.warn(about, "ObjectRefused", f"cubelet cannot use it: {text}")
