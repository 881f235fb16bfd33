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
    """A container port's name, whose number may differ between pods."""

    protocol: Protocol
    name: str


class Rule(NamedTuple):
    """Allows ``peers`` (none: everyone) ``ports``, and the peer pod's own ports called ``named``.

    ``peers`` are those of a policy in the namespace ``home``.
    """

    home: str
    peers: tuple[PolicyPeer, ...]
    ports: PortSet
    named: tuple[PortName, ...] = ()


def space_of(name: str, view: View) -> Space:
    """A namespace; one without a Namespace object has only the label of its name."""
    known = view.namespaces.get(name)
    return Space(name, known.labels if known else {NAME_LABEL: name})
