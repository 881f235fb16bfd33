"""One rule of a policy, and which namespaces and pods its peers are."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from cubelet_firewall.portsets import PortSet
from cubelet_hooks.objects import PolicyPeer, Protocol
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


def space_of(name: str, view: View) -> Space:
    """A namespace; one that was not declared has the label of its name alone."""
    known = view.namespaces.get(name)
    return Space(name, known.labels if known else {NAME_LABEL: name})
