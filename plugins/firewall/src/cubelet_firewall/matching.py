"""Finds which of many selectors match some labels without asking them all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, NamedTuple, TypeVar

from cubelet_hooks.objects import LabelSelector, Requirement

T = TypeVar("T")
_Label = tuple[str, str]


class _Demand(NamedTuple):
    """A requirement whose values are a set: they may be many."""

    key: str
    operator: str
    values: frozenset[str]

    def allows(self, labels: Mapping[str, str]) -> bool:
        value = labels.get(self.key)
        if self.operator in ("In", "NotIn"):
            return (value in self.values) == (self.operator == "In")
        return (value is not None) == (self.operator == "Exists")


class Selectors(Generic[T]):
    """Things by the selectors that they are meant by.

    A selector is looked for under the labels of one of its demands, of which labels must have one:
    those that the fewest others demand as well. A selector without such demands is always asked.
    """

    def __init__(self, given: Iterable[tuple[LabelSelector, T]]) -> None:
        pairs = [(_demands(selector), thing) for selector, thing in given]
        self.things = [thing for _, thing in pairs]
        self._keyed: dict[_Label, list[tuple[list[_Demand], T]]] = defaultdict(list)
        self._others: list[tuple[list[_Demand], T]] = []
        wanted = Counter(label for demands, _ in pairs for each in demands for label in _of(each))
        for demands, thing in pairs:
            places = [each for each in demands if each.operator == "In"]
            if not places:
                self._others.append((demands, thing))
                continue
            place = min(places, key=lambda each: sum(wanted[label] for label in _of(each)))
            others = [each for each in demands if each is not place]
            for label in _of(place):
                self._keyed[label].append((others, thing))

    def matching(self, labels: Mapping[str, str]) -> Iterator[T]:
        """The things whose selectors match, in no particular order."""
        for label in labels.items():
            for demands, thing in self._keyed.get(label, ()):
                if not demands or _allow(demands, labels):
                    yield thing
        for demands, thing in self._others:
            if _allow(demands, labels):
                yield thing


def _demands(selector: LabelSelector) -> list[_Demand]:
    found = [
        _Demand(key, "In", frozenset((value,))) for key, value in selector.match_labels.items()
    ]
    return found + [_read(each) for each in selector.match_expressions]


def _read(requirement: Requirement) -> _Demand:
    return _Demand(requirement.key, requirement.operator, frozenset(requirement.values))


def _of(demand: _Demand) -> Iterator[_Label]:
    """The labels that fulfil it, if it names them."""
    return ((demand.key, value) for value in demand.values if demand.operator == "In")


def _allow(demands: Iterable[_Demand], labels: Mapping[str, str]) -> bool:
    return all(each.allows(labels) for each in demands)
