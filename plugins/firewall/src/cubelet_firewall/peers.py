"""Whom rules mean among the cluster's pods: looked up by labels, since rules and pods are many."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from cubelet_firewall.matching import Selectors
from cubelet_firewall.rules import NAME_LABEL, Rule, Space
from cubelet_hooks.objects import LabelSelector

_ANY = LabelSelector()
_REMEMBERED = 64
"""Namespaces that are not read again: pods come and go in a few, many times."""


class Scope:
    """What rules say of some namespaces: of all pods there, and of single ones.

    ``whole`` are the rules that mean all pods, ``single`` those that tell pods apart: by labels, or
    by what a pod calls its ports.
    """

    def __init__(self, given: Iterable[tuple[Rule, LabelSelector | None]]) -> None:
        self.whole: list[Rule] = []
        single: list[tuple[LabelSelector, Rule]] = []
        for rule, selector in given:
            anyone = selector is None or is_any(selector)
            if anyone:
                self.whole.append(rule)
            if rule.named or not anyone:
                single.append((selector or _ANY, rule))
        self.single = Selectors(single)


class Meant(NamedTuple):
    """What rules say of one namespace beside what they say of all."""

    whole: list[Rule]
    single: list[Selectors[Rule]]

    def rules(self) -> Iterator[Rule]:
        """All of them."""
        yield from self.whole
        for each in self.single:
            yield from each.things

    def of(self, labels: Mapping[str, str]) -> Iterator[Rule]:
        """The rules that single out a pod with these labels; one may come more than once."""
        for each in self.single:
            yield from each.matching(labels)


class Peers:
    """The pods that rules name, by where: everywhere, in their own namespace, or by its labels."""

    def __init__(self, rules: Iterable[Rule]) -> None:
        everywhere: list[tuple[Rule, LabelSelector | None]] = []
        homes: dict[str, list[tuple[Rule, LabelSelector | None]]] = defaultdict(list)
        selected: list[tuple[LabelSelector, tuple[Rule, LabelSelector | None]]] = []
        for rule in rules:
            if not rule.peers:
                everywhere.append((rule, None))
            for peer in rule.peers:
                meant = (rule, peer.pod_selector)
                if peer.cidr is not None:
                    continue
                if peer.namespace_selector is None:
                    homes[rule.home].append(meant)
                elif is_any(peer.namespace_selector):
                    everywhere.append(meant)
                else:
                    selected.append((peer.namespace_selector, meant))
        self.everywhere = Scope(everywhere)
        self._homes = {home: Scope(given) for home, given in homes.items()}
        self._selected = Selectors(selected)
        alone = self.everywhere.single
        self._nothing = Meant([], [alone] if alone.things else [])
        self._known: dict[str, tuple[Space, Meant]] = {}
        self._names = {*homes, *(_only_name(selector) for selector, _ in selected)}

    def within(self, space: Space) -> Meant:
        """What is said of a namespace and of its pods; ``whole`` leaves out what is of all."""
        known = self._known.pop(space.name, None)
        if known is None or known[0] != space:
            known = (space, self._read(space))
        self._known[space.name] = known
        if len(self._known) > _REMEMBERED:
            del self._known[next(iter(self._known))]
        return known[1]

    def _read(self, space: Space) -> Meant:
        selected = list(self._selected.matching(space.labels))
        if not selected and space.name not in self._homes:
            return self._nothing
        scopes = [Scope(selected)]
        if space.name in self._homes:
            scopes.append(self._homes[space.name])
        whole = [rule for scope in scopes for rule in scope.whole]
        single = [scope.single for scope in (self.everywhere, *scopes) if scope.single.things]
        return Meant(whole, single)

    def spaces(self) -> set[str] | None:
        """Names of the namespaces of which more is said than of all; None: of any."""
        names = {name for name in self._names if name is not None}
        anywhere = bool(self.everywhere.single.things) or None in self._names
        return None if anywhere else names


def is_any(selector: LabelSelector) -> bool:
    """Whether it selects all there are."""
    return not (selector.match_labels or selector.match_expressions)


def _only_name(selector: LabelSelector) -> str | None:
    """The one namespace that can be selected, if the selector says so plainly."""
    return selector.match_labels.get(NAME_LABEL)
