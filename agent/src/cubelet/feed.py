"""Where the agent's objects come from, and what is told there in return."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Protocol

import structlog

from cubelet.memory import Memory
from cubelet.plugins import Discovery
from cubelet.settings import Settings
from cubelet.sources.annotations import Kept
from cubelet.sources.decode import with_custom
from cubelet.sources.derive import EndpointDeriver
from cubelet.sources.folder import FolderSource
from cubelet.sources.problem import Problem
from cubelet.state import State
from cubelet_hooks.objects import Change, Custom, Namespace, Node, Object, Pod
from cubelet_hooks.resources import Resource

log = structlog.get_logger()
Emit = Callable[[Change], None]


class Feed(Protocol):
    """A source of objects as the agent uses it."""

    @property
    def problems(self) -> list[Problem]:
        """What could not be read, and whether the source is away."""

    @property
    def synced(self) -> bool:
        """Whether all that the source held was known once."""

    @property
    def away(self) -> bool:
        """Whether the source cannot be reached now."""

    @property
    def complete(self) -> bool:
        """Whether all is known: what nobody speaks of is then unwanted."""

    @property
    def usable(self) -> bool:
        """Whether enough is known for pods to be served."""

    async def run(self) -> None:
        """Follow the source until cancelled."""

    async def begun(self) -> None:
        """Return when the first pass may be made."""

    async def watch(self, resources: Iterable[Resource]) -> None:
        """Follow these kinds beyond the built-in ones, and no others, from now on.

        Returns when what is new has been emitted, if that can be had soon.
        """

    async def refresh(self) -> None:
        """Return once all that the source holds now has been emitted."""

    async def find_pod(self, key: str) -> Pod | None:
        """A pod that CNI asks for. Raises AgentError when it must not be served unknown."""

    def passed(self, ready: bool, refused: str, quarantined: Mapping[str, str]) -> None:
        """A pass has ended: whether pods are served, why the configuration was refused, and why
        which cubes are quarantined."""


def open_feed(
    settings: Settings,
    discovery: Discovery,
    memory: Memory,
    state: State,
    emit: Emit,
    wake: Callable[[], None],
) -> Feed:
    """The feed that the settings ask for. ``wake`` is called when its problems change."""
    if settings.source == "manifests":
        return FolderFeed(settings, discovery, state, emit, wake)
    from cubelet.kubernetes.feed import ApiFeed

    return ApiFeed(settings, memory, state, emit, wake, annotations=discovery.annotations)


class FolderFeed:
    """A folder of manifests; slices that it lacks are derived.

    Objects of all kinds that installed cubes declare are read, and those kept back that no
    composed one watches.
    """

    def __init__(
        self,
        settings: Settings,
        discovery: Discovery,
        state: State,
        emit: Emit,
        wake: Callable[[], None],
    ) -> None:
        self._state = state
        self._emit = emit
        self._wake = wake
        self._deriver = EndpointDeriver()
        self._kept = Kept(discovery.annotations)
        self._custom = CustomShelf(emit)
        self._source = FolderSource(
            settings.manifests,
            self._take,
            self._report,
            kinds=with_custom(discovery.watches.values()),
        )
        self.problems: list[Problem] = []

    @property
    def synced(self) -> bool:
        """Whether the folder was read once."""
        return self._source.has_synced

    @property
    def away(self) -> bool:
        """Whether the folder cannot be listed."""
        return self._source.away

    @property
    def complete(self) -> bool:
        """Whether every file could be read."""
        return not self.problems

    @property
    def usable(self) -> bool:
        """Whether the folder was read once."""
        return self._source.has_synced

    async def run(self) -> None:
        """Follow the folder until cancelled."""
        await self._source.run()

    async def begun(self) -> None:
        """Return when the folder has been read."""
        await self._source.refresh()

    async def watch(self, resources: Iterable[Resource]) -> None:
        """Emit what was kept back of these kinds, and take back what was emitted of others."""
        self._custom.watch({each.kind for each in resources})

    async def refresh(self) -> None:
        """Read the folder now."""
        await self._source.refresh()

    async def find_pod(self, key: str) -> Pod | None:
        """The pod, if a manifest has it."""
        return self._state.pods.get(key)

    def passed(self, ready: bool, refused: str, quarantined: Mapping[str, str]) -> None:
        """Nobody is told."""

    def _take(self, change: Change) -> None:
        if isinstance(change.new or change.old, Custom):
            self._custom.take(change)
            return
        old, new = self._trimmed(change.old), self._trimmed(change.new)
        if old == new:
            return  # only what nobody reads has changed
        for each in self._deriver.apply(Change(change.kind, change.key, old, new)):
            self._emit(each)

    def _trimmed(self, found: Object | None) -> Object | None:
        if isinstance(found, Namespace):
            return self._kept.of(found)
        return self._kept.of(found) if isinstance(found, Node) else found

    def _report(self, problems: list[Problem]) -> None:
        for problem in set(problems) - set(self.problems):
            log.error("manifest refused", problem=str(problem))
        self.problems = problems
        self._wake()


class CustomShelf:
    """Objects of cubes' kinds, of which only those of watched kinds are emitted."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._held: dict[str, dict[str, Custom]] = {}
        self._watched: set[str] = set()

    def take(self, change: Change) -> None:
        """Take in a change of what there is."""
        held = self._held.setdefault(change.kind, {})
        if isinstance(change.new, Custom):
            held[change.key] = change.new
        else:
            held.pop(change.key, None)
        if change.kind in self._watched:
            self._emit(change)

    def watch(self, kinds: set[str]) -> None:
        """Let these kinds be seen from now on, and no others."""
        before, self._watched = self._watched, kinds
        for kind in sorted(kinds - before):
            for each in self._held.get(kind, {}).values():
                self._emit(Change.between(None, each))
        for kind in sorted(before - kinds):
            for each in self._held.get(kind, {}).values():
                self._emit(Change.between(each, None))
