"""The folder of manifests as the agent's source, with derived EndpointSlices."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from cubelet.config.node import Settings
from cubelet.cubes.discovery import Discovery
from cubelet.sources.annotations import Kept
from cubelet.sources.decode import with_custom
from cubelet.sources.derive import EndpointDeriver
from cubelet.sources.feed import Emit, Outcome
from cubelet.sources.folder.source import FolderSource
from cubelet.sources.problem import Problem
from cubelet.state.cluster import State
from cubelet_hooks.objects import Change, Custom, Namespace, Node, Object, Pod
from cubelet_hooks.resources import Resource

log = structlog.get_logger()


class FolderFeed:
    """Implements :class:`cubelet.sources.feed.Feed`.

    Objects of all kinds that installed cubes declare are read; those of kinds that no composed cube
    watches are not emitted.
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
        self._annotated: dict[tuple[str, str], Namespace | Node] = {}
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
        """Emit the objects of these kinds, and the removal of other kinds' objects."""
        self._custom.watch({each.kind for each in resources})

    async def learn(self, annotations: Iterable[str], watches: Mapping[str, Resource]) -> None:
        """Read all manifests again."""
        before, self._kept = self._kept, Kept(annotations)
        for each in [*self._annotated.values()]:
            self._emit_change(Change.between(_trimmed(each, before), _trimmed(each, self._kept)))
        await self._source.learn(with_custom(watches.values()))

    async def refresh(self) -> None:
        """Read the folder now."""
        await self._source.refresh()

    async def find_pod(self, key: str) -> Pod | None:
        """The pod, if a manifest has it."""
        return self._state.pods.get(key)

    def passed(self, outcome: Outcome) -> None:
        """Nobody is told."""

    def _take(self, change: Change) -> None:
        if isinstance(change.new or change.old, Custom):
            self._custom.take(change)
            return
        self._annotated.pop((change.kind, change.key), None)
        if isinstance(change.new, Namespace | Node):
            self._annotated[change.kind, change.key] = change.new
        old, new = _trimmed(change.old, self._kept), _trimmed(change.new, self._kept)
        self._emit_change(Change(change.kind, change.key, old, new))

    def _emit_change(self, change: Change) -> None:
        if change.old == change.new:
            return  # only annotations that are not kept have changed
        for each in self._deriver.apply(change):
            self._emit(each)

    def _report(self, problems: list[Problem]) -> None:
        for problem in set(problems) - set(self.problems):
            log.error("manifest refused", problem=str(problem))
        self.problems = problems
        self._wake()


def _trimmed(found: Object | None, kept: Kept) -> Object | None:
    if isinstance(found, Namespace):
        return kept.of(found)
    return kept.of(found) if isinstance(found, Node) else found


class CustomShelf:
    """Holds the objects of cubes' kinds, and emits only those of watched kinds."""

    def __init__(self, emit: Emit) -> None:
        self._emit = emit
        self._held: dict[str, dict[str, Custom]] = {}
        self._watched: set[str] = set()

    def take(self, change: Change) -> None:
        """Take in a change; it is emitted if its kind is watched."""
        held = self._held.setdefault(change.kind, {})
        if isinstance(change.new, Custom):
            held[change.key] = change.new
        else:
            held.pop(change.key, None)
        if change.kind in self._watched:
            self._emit(change)

    def watch(self, kinds: set[str]) -> None:
        """Emit objects of these kinds from now on, and of no others."""
        before, self._watched = self._watched, kinds
        for kind in sorted(kinds - before):
            for each in self._held.get(kind, {}).values():
                self._emit(Change.between(None, each))
        for kind in sorted(before - kinds):
            for each in self._held.get(kind, {}).values():
                self._emit(Change.between(each, None))
