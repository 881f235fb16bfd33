"""Whom a namespace's policies speak of: asked for every change of a pod anywhere."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import NamedTuple

from cubelet_firewall.policies import read_rule, rules_of
from cubelet_firewall.records import Direction
from cubelet_firewall.rules import Rule, Space
from cubelet_hooks.objects import NetworkPolicy
from cubelet_hooks.view import View


class _Relevant(NamedTuple):
    """A rule, with the names of the only namespaces it can tell apart; None: any."""

    names: frozenset[str] | None
    rule: Rule


class Interests(NamedTuple):
    """The rules of a namespace's policies that may tell namespaces, or single pods, apart."""

    spaces: tuple[_Relevant, ...]
    pods: tuple[_Relevant, ...]

    def in_space(self, space: Space) -> bool:
        """Whether some rule says of the namespace what it does not say of all."""
        return any(
            (names is None or space.name in names) and rule.tells_spaces_apart(space)
            for names, rule in self.spaces
        )

    def in_pod(self, space: Space, labels: Mapping[str, str]) -> bool:
        """Whether some rule speaks of pods of the namespace with these labels, but not of all."""
        for names, rule in self.pods:
            if names is not None and space.name not in names:
                continue
            if rule.tells_pods_apart(space) and rule.covers_pod(space, labels):
                return True
        return False


class _Policies:
    """Policies as a key: the same objects, not equal ones, which takes long to find out."""

    __slots__ = ("_ids", "home", "policies")

    def __init__(self, home: str, policies: tuple[NetworkPolicy, ...]) -> None:
        self.home = home
        self.policies = policies
        self._ids = tuple(map(id, policies))

    def __hash__(self) -> int:
        return hash(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Policies) and self._ids == other._ids


def interests(home: str, view: View) -> Interests:
    """Those of all policies of ``home``; which of its pods they select is left aside."""
    return _read(_Policies(home, tuple(view.policies_in(home))))


@lru_cache(maxsize=1024)
def _read(key: _Policies) -> Interests:
    rules = [
        read_rule(rule, key.home, direction, ())
        for policy in key.policies
        for direction in Direction
        for rule in rules_of(policy, direction) or ()
    ]
    relevant = [_Relevant(rule.spaces(), rule) for rule in rules]
    spaces = tuple(each for each in relevant if each.names != frozenset())
    return Interests(spaces, tuple(each for each in spaces if each.rule.names_pods))
