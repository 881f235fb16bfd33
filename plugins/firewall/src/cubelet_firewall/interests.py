"""The peers that policies of local pods refer to, looked up for every change of any pod."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from itertools import chain

from cubelet_firewall.peers import Peers
from cubelet_firewall.policies import Policies, read_rule, rules_of
from cubelet_firewall.records import Direction
from cubelet_firewall.rules import Space
from cubelet_hooks.view import View


class Interests:
    """What the rules say that may tell namespaces, or single pods, apart."""

    def __init__(self, policies: Policies) -> None:
        self._peers = Peers(
            read_rule(each, policy.namespace, direction, ())
            for policy in policies.policies
            for direction in Direction
            for each in rules_of(policy, direction) or ()
        )

    def in_space(self, space: Space) -> set[str]:
        """Namespaces whose policies say of this one what they do not say of all."""
        return {rule.home for rule in self._peers.within(space).rules()}

    def in_pod(self, space: Space, labels: Mapping[str, str]) -> set[str]:
        """Namespaces whose policies single out pods of this one with these labels."""
        return {rule.home for rule in self._peers.within(space).of(labels)}


def interests(view: View) -> Interests:
    """The interests of all policies in namespaces of local pods, whichever pods they select."""
    homes = {port.namespace for port in view.ports.values()}
    return _read(Policies(tuple(chain.from_iterable(map(view.policies_in, homes)))))


_read = lru_cache(maxsize=2)(Interests)
