"""Where the agent's objects come from, and what is told there in return."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import structlog

from cubelet.memory import Memory
from cubelet.settings import Settings
from cubelet.sources.derive import EndpointDeriver
from cubelet.sources.folder import FolderSource
from cubelet.sources.problem import Problem
from cubelet.state import State
from cubelet_hooks.objects import Change, Pod

log = structlog.get_logger()
Emit = Callable[[Change], None]


class Feed(Protocol):
    """A source of objects as the agent uses it."""

    @property
    def problems(self) -> list[Problem]:
        """What could not be read, and whether the source is away."""

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

    async def refresh(self) -> None:
        """Return once all that the source holds now has been emitted."""

    async def find_pod(self, key: str) -> Pod | None:
        """A pod that CNI asks for. Raises AgentError when it must not be served unknown."""

    def passed(self, ready: bool, refused: str, quarantined: Mapping[str, str]) -> None:
        """A pass has ended: whether pods are served, why the configuration was refused, and why
        which cubes are quarantined."""


def open_feed(
    settings: Settings, memory: Memory, state: State, emit: Emit, wake: Callable[[], None]
) -> Feed:
    """The feed that the settings ask for. ``wake`` is called when its problems change."""
    if settings.source == "manifests":
        return FolderFeed(settings, state, emit, wake)
    from cubelet.kubernetes.feed import ApiFeed

    return ApiFeed(settings, memory, state, emit, wake)


class FolderFeed:
    """A folder of manifests; slices that it lacks are derived."""

    def __init__(
        self, settings: Settings, state: State, emit: Emit, wake: Callable[[], None]
    ) -> None:
        self._state = state
        self._emit = emit
        self._wake = wake
        self._deriver = EndpointDeriver()
        self._source = FolderSource(settings.manifests, self._derive, self._report)
        self.problems: list[Problem] = []

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

    async def refresh(self) -> None:
        """Read the folder now."""
        await self._source.refresh()

    async def find_pod(self, key: str) -> Pod | None:
        """The pod, if a manifest has it."""
        return self._state.pods.get(key)

    def passed(self, ready: bool, refused: str, quarantined: Mapping[str, str]) -> None:
        """Nobody is told."""

    def _derive(self, change: Change) -> None:
        for each in self._deriver.apply(change):
            self._emit(each)

    def _report(self, problems: list[Problem]) -> None:
        for problem in set(problems) - set(self.problems):
            log.error("manifest refused", problem=str(problem))
        self.problems = problems
        self._wake()
