"""Whom the policies of this node's pods speak of: asked for every change of a pod anywhere."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from functools import lru_cache
from itertools import chain
from typing import NamedTuple

from cubelet_firewall.policies import read_rule, rules_of
from cubelet_firewall.records import Direction
from cubelet_firewall.rules import Rule, Space
from cubelet_hooks.objects import NetworkPolicy
from cubelet_hooks.view import View


class _Policies:
    """Policies as a key: the same objects, not equal ones, which takes long to find out."""

    __slots__ = ("_ids", "policies")

    def __init__(self, policies: tuple[NetworkPolicy, ...]) -> None:
        self.policies = policies
        self._ids = tuple(map(id, policies))

    def __hash__(self) -> int:
        return hash(self._ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Policies) and self._ids == other._ids


_ByName = Mapping[str | None, list[Rule]]
"""Rules by the only namespace that they can tell apart; those by None can do so with any."""


class Interests(NamedTuple):
    """The rules that may tell namespaces, and those that may tell single pods apart."""

    spaces: _ByName
    pods: _ByName

    def in_space(self, space: Space) -> set[str]:
        """Namespaces whose policies say of this one what they do not say of all."""
        found = _about(self.spaces, space)
        return {rule.home for rule in found if rule.tells_spaces_apart(space)}

    def in_pod(self, space: Space, labels: Mapping[str, str]) -> set[str]:
        """Namespaces whose policies single out pods of this one with these labels."""
        return {
            rule.home
            for rule in _about(self.pods, space)
            if rule.tells_pods_apart(space) and rule.covers_pod(space, labels)
        }


def _about(rules: _ByName, space: Space) -> Iterator[Rule]:
    return chain(rules.get(space.name, ()), rules.get(None, ()))


def interests(view: View) -> Interests:
    """Those of all policies in namespaces of local pods, whichever pods they select."""
    homes = {port.namespace for port in view.ports.values()}
    return _read(_Policies(tuple(chain.from_iterable(map(view.policies_in, homes)))))


@lru_cache(maxsize=2)
def _read(key: _Policies) -> Interests:
    spaces: dict[str | None, list[Rule]] = defaultdict(list)
    pods: dict[str | None, list[Rule]] = defaultdict(list)
    for policy in key.policies:
        for direction in Direction:
            for each in rules_of(policy, direction) or ():
                rule = read_rule(each, policy.namespace, direction, ())
                names = rule.spaces()
                for name in (None,) if names is None else names:
                    spaces[name].append(rule)
                    if rule.names_pods:
                        pods[name].append(rule)
    return Interests(dict(spaces), dict(pods))
