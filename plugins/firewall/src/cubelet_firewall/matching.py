"""Finds which of many selectors match some labels without asking them all."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from cubelet_hooks.objects import LabelSelector

T = TypeVar("T")


class Selectors(Generic[T]):
    """Things by the selectors that they are meant by.

    A selector is looked for under one label that it demands, the one which the fewest others demand
    as well. Those that demand none are always asked.
    """

    def __init__(self, given: Iterable[tuple[LabelSelector, T]]) -> None:
        pairs = list(given)
        self.things = [thing for _, thing in pairs]
        self._plain: dict[tuple[str, str], list[T]] = defaultdict(list)
        self._keyed: dict[tuple[str, str], list[tuple[LabelSelector, T]]] = defaultdict(list)
        self._others: list[tuple[LabelSelector, T]] = []
        demanded = Counter(label for selector, _ in pairs for label in _demanded(selector))
        for selector, thing in pairs:
            label = min(_demanded(selector), key=demanded.__getitem__, default=None)
            if label is None:
                self._others.append((selector, thing))
            elif len(selector.match_labels) + len(selector.match_expressions) == 1:
                self._plain[label].append(thing)
            else:
                self._keyed[label].append((selector, thing))

    def matching(self, labels: Mapping[str, str]) -> Iterator[T]:
        """The things whose selectors match, in no particular order."""
        for label in labels.items():
            yield from self._plain.get(label, ())
            for selector, thing in self._keyed.get(label, ()):
                if selector.matches(labels):
                    yield thing
        for selector, thing in self._others:
            if selector.matches(labels):
                yield thing


def _demanded(selector: LabelSelector) -> list[tuple[str, str]]:
    """Labels without any one of which nothing is selected."""
    values = (
        (each.key, each.values[0])
        for each in selector.match_expressions
        if each.operator == "In" and len(each.values) == 1
    )
    return [*selector.match_labels.items(), *values]
