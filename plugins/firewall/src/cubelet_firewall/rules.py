"""One rule of a policy, and which namespaces and pods its peers are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cubelet_firewall.portsets import PortSet
from cubelet_hooks.objects import LabelSelector, PolicyPeer, Protocol
from cubelet_hooks.view import View

NAME_LABEL = "kubernetes.io/metadata.name"
"""The label that the API server puts on every namespace (KEP-2161)."""


class Space(NamedTuple):
    """A namespace with its labels."""

    name: str
    labels: Mapping[str, str]


class PortName(NamedTuple):
    """A container port's name, by which each pod may mean another number."""

    protocol: Protocol
    name: str


class Rule(NamedTuple):
    """Lets ``peers`` (none: everyone) speak ``ports``, and what the peer pod calls ``named``.

    ``peers`` are meant as in a policy of the namespace ``home``.
    """

    home: str
    peers: tuple[PolicyPeer, ...]
    ports: PortSet
    named: tuple[PortName, ...] = ()

    @property
    def names_pods(self) -> bool:
        """Whether labels or ports of single pods make any difference to it."""
        return bool(self.named) or any(not _any_label(peer.pod_selector) for peer in self.peers)

    def covers_all(self) -> bool:
        """Whether every pod of the cluster is meant."""
        return not self.peers or any(map(_all_pods, self.peers))

    def covers_space(self, space: Space) -> bool:
        """Whether every pod of the namespace is meant."""
        return not self.peers or any(
            _within(peer, self.home, space) and _any_label(peer.pod_selector) for peer in self.peers
        )

    def covers_pod(self, space: Space, labels: Mapping[str, str]) -> bool:
        """Whether a pod of the namespace with these labels is meant."""
        return not self.peers or any(
            _within(peer, self.home, space)
            and (peer.pod_selector is None or peer.pod_selector.matches(labels))
            for peer in self.peers
        )

    def tells_spaces_apart(self, space: Space) -> bool:
        """Whether the rule says of the namespace what it does not say of all."""
        if not self.peers:
            return bool(self.named)
        return any(
            _within(peer, self.home, space) and (self.named or not _all_pods(peer))
            for peer in self.peers
        )

    def tells_pods_apart(self, space: Space) -> bool:
        """Whether it depends on a pod of the namespace itself what the rule says of it."""
        if not self.peers:
            return bool(self.named)
        return any(
            _within(peer, self.home, space) and (self.named or not _any_label(peer.pod_selector))
            for peer in self.peers
        )

    def spaces(self) -> frozenset[str] | None:
        """Names of the namespaces that it may tell apart from all; None: any may be."""
        if not self.peers:
            return None if self.named else frozenset()
        relevant = [p for p in self.peers if p.cidr is None and (self.named or not _all_pods(p))]
        names = [_only_name(peer, self.home) for peer in relevant]
        return None if None in names else frozenset(name for name in names if name is not None)


def space_of(name: str, view: View) -> Space:
    """A namespace; one that was not declared has the label of its name alone."""
    known = view.namespaces.get(name)
    return Space(name, known.labels if known else {NAME_LABEL: name})


def _any_label(selector: LabelSelector | None) -> bool:
    return selector is None or not (selector.match_labels or selector.match_expressions)


def _all_pods(peer: PolicyPeer) -> bool:
    return (
        peer.namespace_selector is not None
        and _any_label(peer.namespace_selector)
        and _any_label(peer.pod_selector)
    )


def _within(peer: PolicyPeer, home: str, space: Space) -> bool:
    """Whether the peer is pods, and pods of the namespace may be among them."""
    if peer.cidr is not None:
        return False
    if peer.namespace_selector is None:
        return space.name == home
    return peer.namespace_selector.matches(space.labels)


def _only_name(peer: PolicyPeer, home: str) -> str | None:
    """The one namespace that the peer's pods can be of, if its selector says so plainly."""
    if peer.namespace_selector is None:
        return home
    return peer.namespace_selector.match_labels.get(NAME_LABEL)
