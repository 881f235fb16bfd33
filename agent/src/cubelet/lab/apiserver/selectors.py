"""Label and field selectors of requests, as predicates on stored objects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Final, Protocol

from cubelet.lab.apiserver import errors
from cubelet.lab.apiserver.resources import Resource

_SET: Final = re.compile(r"(?P<key>[^\s=!,()]+)\s+(?P<how>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUAL: Final = re.compile(r"(?P<key>[^\s=!,()]+)\s*(?P<how>==|=|!=)\s*(?P<value>[^\s=!,()]*)")
_EXISTS: Final = re.compile(r"(?P<how>!?)\s*(?P<key>[^\s=!,()]+)")


class Selectable(Protocol):
    """The fields that selectors use; ``node`` is the node of a pod, empty for other kinds."""

    @property
    def namespace(self) -> str: ...
    @property
    def name(self) -> str: ...
    @property
    def labels(self) -> Mapping[str, str]: ...
    @property
    def node(self) -> str: ...


Predicate = Callable[[Selectable], bool]


def predicate(resource: Resource, namespace: str, name: str, labels: str, fields: str) -> Predicate:
    """All selectors of a request as one predicate.

    Raises ApiError (400) for a selector that cannot be read or names a field that the resource
    cannot be selected by.
    """
    parts = [*_labels(labels), *_fields(resource, fields)]
    if namespace:
        parts.append(lambda each: each.namespace == namespace)
    if name:
        parts.append(lambda each: each.name == name)
    return lambda each: all(part(each) for part in parts)


def _labels(text: str) -> Iterator[Predicate]:
    for term in _terms(text):
        if found := _SET.fullmatch(term):
            values = frozenset(value.strip() for value in found["values"].split(","))
            yield _is_in(found["key"], values, found["how"] == "in")
        elif found := _EQUAL.fullmatch(term):
            yield _is_in(found["key"], frozenset([found["value"]]), found["how"] != "!=")
        elif found := _EXISTS.fullmatch(term):
            yield _has(found["key"], not found["how"])
        else:
            raise errors.bad_request(f"unable to parse requirement: {term!r}")


def _is_in(key: str, values: frozenset[str], wanted: bool) -> Predicate:
    # `!=` and `notin` also select objects without the label: None is in no set of texts.
    return lambda each: (each.labels.get(key) in values) is wanted


def _has(key: str, wanted: bool) -> Predicate:
    return lambda each: (key in each.labels) is wanted


def _fields(resource: Resource, text: str) -> Iterator[Predicate]:
    known: dict[str, Callable[[Selectable], str]] = {"metadata.name": lambda each: each.name}
    if resource.namespaced:
        known["metadata.namespace"] = lambda each: each.namespace
    if resource.kind == "Pod":
        known["spec.nodeName"] = lambda each: each.node
    for term in _terms(text):
        found = _EQUAL.fullmatch(term)
        if found is None:
            raise errors.bad_request(f"invalid selector: {term!r}; can't understand it")
        if found["key"] not in known:
            raise errors.bad_request(f"field label not supported: {found['key']}")
        yield _field_is(known[found["key"]], found["value"], found["how"] != "!=")


def _field_is(field: Callable[[Selectable], str], value: str, wanted: bool) -> Predicate:
    return lambda each: (field(each) == value) is wanted


def _terms(text: str) -> list[str]:
    """The parts between commas, those in parentheses excepted."""
    terms = re.split(r",(?![^(]*\))", text) if text.strip() else []
    return [term.strip() for term in terms]
