"""A lookup table that follows objects as they change."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from typing import Generic, Protocol, TypeVar


class Keyed(Protocol):
    """Anything with the key of a Kubernetes object."""

    @property
    def key(self) -> str:
        """``namespace/name`` or ``name``."""


K = TypeVar("K", bound=Hashable)
T = TypeVar("T", bound=Keyed)


class Index(Generic[K, T]):
    """Finds objects by values computed from them; ``terms`` gives an object's values."""

    def __init__(self, terms: Callable[[T], Iterable[K]]) -> None:
        self._terms = terms
        self._found: dict[K, dict[str, T]] = {}

    def replace(self, old: T | None, new: T | None) -> None:
        """Forget ``old``, exactly as it was added, and find ``new`` from now on."""
        if old is not None:
            for term in self._terms(old):
                found = self._found.get(term, {})
                found.pop(old.key, None)
                if not found:
                    self._found.pop(term, None)
        if new is not None:
            for term in self._terms(new):
                self._found.setdefault(term, {})[new.key] = new

    def get(self, term: K) -> Iterable[T]:
        """The objects found by ``term``, in no particular order."""
        return self._found.get(term, {}).values()

    def ordered(self, term: K) -> tuple[T, ...]:
        """The objects found by ``term``, ordered by key."""
        return tuple(found for _, found in sorted(self._found.get(term, {}).items()))
