"""Reads one manifest file: its objects and its problems."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, NamedTuple

import msgspec
import yaml

from cubelet.sources.decode import (
    KINDS,
    Identity,
    Kinds,
    ObjectError,
    decode_object,
    expand,
    possible_identities,
)
from cubelet.sources.fields import Path
from cubelet.sources.problem import Problem
from cubelet_hooks.objects import Object

Objects = Mapping[Identity, Object]
_Base: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # libyaml's, if there, is 10 x faster
_TIMESTAMP = "tag:yaml.org,2002:timestamp"


class _Loader(_Base):  # type: ignore[misc]
    """YAML as Kubernetes reads it: dates stay strings."""

    yaml_implicit_resolvers: ClassVar[dict[str, Any]] = {
        first: [resolver for resolver in resolvers if resolver[0] != _TIMESTAMP]
        for first, resolvers in _Base.yaml_implicit_resolvers.items()
    }


class Manifest(msgspec.Struct, frozen=True):
    """The objects of a file, and its problems.

    Objects in ``kept`` are from an earlier reading, because the file's present ones are unreadable.
    """

    objects: Objects = {}
    kept: frozenset[Identity] = frozenset()
    problems: tuple[Problem, ...] = ()


class _Document(NamedTuple):
    value: object
    node: yaml.Node | None  # None for JSON, whose parser gives no lines

    def line(self, path: Path) -> int:
        """Line of the deepest step of ``path`` that the document has; 0 when not known."""
        if self.node is None:
            return 0
        node = self.node
        for step in path:
            below = _child(node, step)
            if below is None:
                break
            node = below
        return int(node.start_mark.line) + 1


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int):
        return node.value[step] if step < len(node.value) else None
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    return None


def read(file: str, data: bytes, last: Objects, kinds: Kinds = KINDS) -> Manifest:
    """Read a file's contents. ``last`` are the objects of its earlier reading.

    An object that has become unreadable stays as it was, and so do all objects of a file that
    cannot be parsed: an error is reported and removes nothing. If it is not known which object an
    unreadable document is about, all objects of the file stay.
    """
    try:
        documents = list(_documents(file, data))
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 0
        return unreadable(file, line, f"not valid YAML: {error.problem or error.context}", last)
    except json.JSONDecodeError as error:
        return unreadable(file, error.lineno, f"not valid JSON: {error.msg}", last)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        return unreadable(file, 0, f"cannot be parsed: {' '.join(str(error).split())}", last)
    reading = _Reading(file, last, kinds)
    for document in documents:
        reading.take(document)
    return reading.result()


def unreadable(file: str, line: int, message: str, last: Objects) -> Manifest:
    """The manifest of a file that cannot be read at all: its objects stay."""
    return Manifest(last, frozenset(last), (Problem(file, line, "", "", "", message),))


def _documents(file: str, data: bytes) -> Iterator[_Document]:
    """The file's documents; empty ones, as between two separators, are left out."""
    if file.endswith(".json"):
        yield _Document(json.loads(data), None)
        return
    loader = _Loader(data)
    try:
        while loader.check_node():
            node = loader.get_node()
            value = loader.construct_document(node)
            if value is not None:
                yield _Document(value, node)
    finally:
        loader.dispose()


class _Reading:
    """Gathers the objects and problems of one file's documents."""

    def __init__(self, file: str, last: Objects, kinds: Kinds) -> None:
        self._file = file
        self._last = last
        self._kinds = kinds
        self._objects: dict[Identity, Object] = {}
        self._kept: dict[Identity, Object] = {}
        self._problems: list[Problem] = []

    def take(self, document: _Document) -> None:
        """Take in one document, or each item of a list."""
        try:
            items = list(expand(document.value, self._file, self._kinds))
        except ObjectError as error:
            self._keep(document.value, error, document.line(error.path))
            return
        for place, item in items:
            try:
                found = decode_object(item, self._file, self._kinds)
            except ObjectError as error:
                self._keep(item, error, document.line((*place, *error.path)))
            else:
                self._add(found, document.line(place))

    def _add(self, found: Object, line: int) -> None:
        identity = Identity(found.kind, found.key)
        if identity in self._objects:
            message = "is in this file twice; the first one counts"
            self._problems.append(Problem(self._file, line, *identity, "", message))
        else:
            self._objects[identity] = found

    def _keep(self, document: object, error: ObjectError, line: int) -> None:
        self._problems.append(
            Problem(self._file, line, error.kind, error.key, error.field, error.message)
        )
        about = possible_identities(document, self._kinds)
        for identity in self._last if about is None else about:
            if identity in self._last:
                self._kept[identity] = self._last[identity]

    def result(self) -> Manifest:
        """The file's manifest; objects that were read replace kept ones."""
        return Manifest(
            {**self._kept, **self._objects},
            frozenset(self._kept.keys() - self._objects.keys()),
            tuple(self._problems),
        )
