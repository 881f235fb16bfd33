"""The objects of a lab: files in the folder that agents watch, or objects on an API server."""

from __future__ import annotations

from typing import Protocol

from cubelet.lab.api import objects_of
from cubelet.lab.folder import Folder
from cubelet.lab.kinds import Key, Manifest
from cubelet.lab.layout import Layout


class Keeper(Protocol):
    """Keeps the objects of a lab."""

    @property
    def allocates(self) -> bool:
        """Whether it allocates Services' addresses and node ports itself."""

    @property
    def defines(self) -> bool:
        """Whether kinds are defined by CustomResourceDefinitions that are stored in it."""

    def get(self, key: Key) -> Manifest | None:
        """The object of that key, None if there is none."""

    def list(self, kind: str, namespace: str = "") -> list[Manifest]:
        """All objects of a kind, of one namespace if given, by namespace and name."""

    def put(self, manifest: Manifest) -> bool:
        """Store an object; false if that changed nothing."""

    def remove(self, key: Key) -> bool:
        """Remove an object; false if it was not there."""


class Store:
    """A lab's objects, wherever they are kept. All methods raise LabError."""

    def __init__(self, layout: Layout) -> None:
        self._keeper = _keeper(layout)

    @property
    def allocates(self) -> bool:
        """Whether storing a Service allocates its addresses and node ports."""
        return self._keeper.allocates

    @property
    def defines(self) -> bool:
        """Whether cubes' kinds need a CustomResourceDefinition that is stored."""
        return self._keeper.defines

    def get(self, key: Key) -> Manifest | None:
        """The object of that key, None if there is none."""
        return self._keeper.get(key)

    def list(self, kind: str, namespace: str = "") -> list[Manifest]:
        """All objects of a kind, of one namespace if given, by namespace and name."""
        return self._keeper.list(kind, namespace)

    def put(self, manifest: Manifest) -> bool:
        """Store an object; false if that changed nothing."""
        return self._keeper.put(manifest)

    def remove(self, key: Key) -> bool:
        """Remove an object; false if it was not there."""
        return self._keeper.remove(key)


def _keeper(layout: Layout) -> Keeper:
    if not layout.api.exists():
        return Folder(layout)
    return objects_of(layout)
