"""Keeps only the annotations that cubes read, and our own.

Others change every few minutes, and each change would cause a pass.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from msgspec.structs import replace

from cubelet_hooks.objects import Namespace, Node

OWN = "cubelet.io/"
"""Prefix of the annotations that the agent itself reads."""

Annotated = TypeVar("Annotated", Namespace, Node)


class Kept:
    """Reduces objects' annotations to ``declared`` ones: keys, or prefixes that end in ``/``."""

    def __init__(self, declared: Iterable[str] = ()) -> None:
        self.learn(declared)

    def learn(self, declared: Iterable[str]) -> None:
        """Keep these, and only these, from now on."""
        names = {OWN, *declared}
        self._prefixes = tuple(name for name in names if name.endswith("/"))
        self._keys = names.difference(self._prefixes)

    def of(self, found: Annotated) -> Annotated:
        """The object without other annotations; the same instance if it has none."""
        kept = {
            key: text
            for key, text in found.annotations.items()
            if key in self._keys or key.startswith(self._prefixes)
        }
        return found if len(kept) == len(found.annotations) else replace(found, annotations=kept)
