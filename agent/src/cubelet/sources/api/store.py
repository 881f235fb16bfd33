"""The known objects of one kind on the API server, as they were emitted."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from cubelet.sources.api.reader import Identity, Reader, identify
from cubelet.sources.decode import ObjectError
from cubelet.sources.problem import Problem
from cubelet_hooks.objects import Change, Object

FILE = "Kubernetes API"
"""Text in problems in the place of a manifest's file name."""


class Malformed(msgspec.Struct, frozen=True):
    """An object that cannot be used, with what an Event about it needs.

    ``key`` and the fields after it are empty if the object lacks them.
    """

    kind: str
    api_version: str
    key: str
    namespace: str
    name: str
    uid: str
    resource_version: str
    field: str
    message: str


class Store:
    """Takes in objects and emits the resulting changes.

    An object that cannot be read is a problem, and its last readable version stays. ``emit`` gets
    changes, ``malformed`` each error once, and ``changed`` is called when the problems change.
    """

    def __init__(
        self,
        reader: Reader,
        emit: Callable[[Change], None],
        malformed: Callable[[Malformed], None],
        changed: Callable[[], None],
    ) -> None:
        self._reader = reader
        self._emit = emit
        self._malformed = malformed
        self._changed = changed
        self._objects: dict[str, Object] = {}
        self._problems: dict[str, Problem] = {}

    def get(self, key: str) -> Object | None:
        """The object as it was emitted last."""
        return self._objects.get(key)

    def problem(self, key: str) -> Problem | None:
        """The problem with an object, if any."""
        return self._problems.get(key)

    def problems(self) -> list[Problem]:
        """The problems with all objects of the server."""
        return list(self._problems.values())

    def keys(self) -> set[str]:
        """The keys of all known objects, usable or not."""
        return self._objects.keys() | self._problems.keys()

    def put(self, raw: bytes | msgspec.Raw) -> str | None:
        """Take in an object's JSON; returns its key, None if it has none."""
        try:
            key, found = self._reader.read(raw)
        except ObjectError as error:
            return self._refuse(identify(raw), error)
        if self._problems.pop(key, None) is not None:
            self._changed()
        self._replace(key, found)
        return key

    def remove(self, key: str) -> None:
        """Remove an object that the server no longer has."""
        if self._problems.pop(key, None) is not None:
            self._changed()
        self._replace(key, None)

    def _replace(self, key: str, new: Object | None) -> None:
        old = self._objects.get(key)
        if old == new:
            return  # keep the old instance, to which others hold references too
        if new is None:
            del self._objects[key]
        else:
            self._objects[key] = new
        self._emit(Change(self._reader.kind, key, old, new))

    def _refuse(self, about: Identity | None, error: ObjectError) -> str | None:
        key = about.key if about else ""
        problem = Problem(FILE, 0, self._reader.kind, key, error.field, error.message)
        if self._problems.get(key) != problem:
            self._problems[key] = problem
            self._changed()
            self._malformed(_malformed(self._reader, about, error))
        return key or None


def _malformed(reader: Reader, about: Identity | None, error: ObjectError) -> Malformed:
    found = about or Identity(name="")
    return Malformed(
        kind=reader.kind,
        api_version=reader.api_version,
        key=found.key,
        namespace=found.namespace,
        name=found.name,
        uid=found.uid,
        resource_version=found.resource_version,
        field=error.field,
        message=error.message,
    )
