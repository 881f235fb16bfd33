"""The interface of a source of objects, to which the agent also reports the end of passes."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from cubelet.sources.problem import Problem
from cubelet_hooks.cube import Complaint, Condition
from cubelet_hooks.objects import Address, Change, Pod
from cubelet_hooks.resources import Resource

Emit = Callable[[Change], None]
Free = Callable[[Iterable[Address]], None]
"""Lets go of routes that an earlier run set to these addresses; called on a thread, may block."""


@dataclass(frozen=True)
class Outcome:
    """Where the agent stands after a pass.

    ``ready`` says whether pods are served, ``refused`` why the configuration was refused.
    ``quarantined`` are the cubes that cannot be used and ``kept`` those that run on as they were
    in force though their packages are others, each with the reason; ``complaints`` what is wrong
    with objects, ``conditions`` what has become of cubes' own.
    """

    ready: bool
    refused: str = ""
    quarantined: Mapping[str, str] = field(default_factory=dict)
    kept: Mapping[str, str] = field(default_factory=dict)
    complaints: Collection[Complaint] = ()
    conditions: Collection[Condition] = ()


class Feed(Protocol):
    """A source of objects as the agent uses it."""

    @property
    def problems(self) -> list[Problem]:
        """Objects that could not be read, and whether the source is unreachable."""

    @property
    def synced(self) -> bool:
        """Whether all objects of the source have been read once."""

    @property
    def away(self) -> bool:
        """Whether the source cannot be reached now."""

    @property
    def complete(self) -> bool:
        """Whether all objects are known, so that entries without an object are unwanted."""

    @property
    def usable(self) -> bool:
        """Whether enough is known for pods to be served."""

    async def run(self) -> None:
        """Follow the source until cancelled."""

    async def begun(self) -> None:
        """Return when the first pass may be made."""

    async def watch(self, resources: Iterable[Resource]) -> None:
        """Follow these kinds beyond the built-in ones, and no others, from now on.

        Returns when the objects of new kinds have been emitted, or after a few seconds without.
        """

    async def learn(self, annotations: Iterable[str], watches: Mapping[str, Resource]) -> None:
        """Keep these annotations, and read these kinds, from now on: other cubes are to join.

        Returns when objects that were known have been emitted as they are by that.
        """

    async def refresh(self) -> None:
        """Return once all present objects of the source have been emitted."""

    async def find_pod(self, key: str) -> Pod | None:
        """The pod of a CNI call. Raises AgentError if it must not be served while unknown."""

    def passed(self, outcome: Outcome) -> None:
        """A pass has ended."""
