"""The nat cube: masquerade, NodePort traffic that leaves for another node, and hairpins.

Source ports are taken from the settings' range when a flow is committed. The host is not asked
whether it listens on one: the range has to be reserved (``net.ipv4.ip_local_reserved_ports``).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import ClassVar

from cubelet_hooks import cube
from cubelet_hooks.cube import Cube, Entry, Unit
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Address, Change, LocalNode, Network, Node
from cubelet_hooks.records import U8, U32, Addr, Family, Record
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
    """Gives a new flow the source address that its replies can find their way back to."""

    kind: ClassVar[str] = "nat"
    outward: ClassVar[frozenset[str]] = frozenset({"pod", "host", "overlay", "uplink"})
    settings_type: ClassVar[type[cube.Settings]] = Settings
    # No verdict depends on it: a flow keeps the translation that it began with.
    maps: ClassVar[tuple[Map, ...]] = (
        Map("exempt", MapType.LPM_TRIE, ExemptKey, Present, "max_exempt"),
    )

    def __init__(self, instance: str, settings: Settings, family: Family = 4) -> None:
        super().__init__(instance, settings, family)
        self._hairpin: Address = ip_address(settings.hairpin_address)
        self._exempt = tuple(ip_network(text) for text in settings.exempt)
        self._ports = (settings.first_port, settings.port_count)
        if self._hairpin.version != family:
            raise ValueError(f"hairpin_address: {self._hairpin} is not an IPv{family} address")

    def defines(self, view: View) -> Mapping[str, int]:
        """``HAIRPIN_0`` and on are the address's 32-bit words in host byte order."""
        packed = self._hairpin.packed
        words = struct.unpack(f">{len(packed) // 4}I", packed)
        first, count = self._ports
        return {
            "FIRST_PORT": first,
            "PORT_COUNT": count,
            **{f"HAIRPIN_{index}": word for index, word in enumerate(words)},
        }

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """One unit per node, and ``("settings",)`` for the networks of the settings."""
        if change.kind == Node.kind:
            return [("node", change.key)]
        return [("settings",)] if change.kind == LocalNode.kind else ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """The networks that a node or the settings exempt from masquerade.

        Pods of other nodes are reached by the uplink where routing is direct, and see each other.
        """
        networks: Iterable[Network] = self._exempt
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
