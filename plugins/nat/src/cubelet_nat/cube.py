"""The nat cube: masquerade, NodePort traffic that leaves for another node, and hairpins.

Source ports are taken from the core's range when a flow is committed, without checking whether the
host uses one: the range has to be reserved (``net.ipv4.ip_local_reserved_ports``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from ipaddress import ip_network
from typing import ClassVar

from cubelet_hooks import cube
from cubelet_hooks.cube import Cube, Entry, Reason, Unit
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, LocalNode, Network, Node
from cubelet_hooks.records import U8, U32, Addr, Record
from cubelet_hooks.view import View
from cubelet_nat.settings import Settings


class ExemptKey(Record):
    """A network whose hosts see pods' own addresses; ``prefixlen`` in bits."""

    prefixlen: U32
    network: Addr


class Present(Record):
    """Says that the key exists; always 1."""

    present: U8


class Nat(Cube):
    """Gives a new flow a source address that its replies can reach."""

    kind: ClassVar[str] = "nat"
    essential: ClassVar[bool] = True
    outward: ClassVar[frozenset[str]] = frozenset({"pod", "host", "overlay", "uplink"})
    settings_type: ClassVar[type[cube.Settings]] = Settings
    settings: Settings
    reasons: ClassVar[tuple[Reason, ...]] = (
        Reason(
            "no_ports", "by the uplink, with nothing that could tell its replies from the node's"
        ),
    )
    # No verdict depends on it: a flow keeps the translation that it began with.
    maps: ClassVar[tuple[Map, ...]] = (
        Map("exempt", MapType.LPM_TRIE, ExemptKey, Present, "max_exempt"),
    )

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """One unit per node, and ``("settings",)`` for the networks of the settings."""
        if change.kind == Node.kind:
            return [("node", change.key)]
        return [("settings",)] if change.kind == LocalNode.kind else ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """The networks that a node or the settings exempt from masquerade.

        Pods of other nodes are reached by the uplink where routing is direct, and see each other.
        """
        networks: Iterable[Network] = map(ip_network, self.settings.exempt)
        if unit[0] == "node":
            node = view.nodes.get(unit[1])
            networks = node.pod_cidrs if node else ()
        return [
            Entry("exempt", ExemptKey(network.prefixlen, network.network_address), Present(1))
            for network in networks
            if network.version == self.family
        ]


@hookimpl
def cubelet_cubes() -> Sequence[type[Cube]]:
    """The one cube of this package."""
    return [Nat]
