"""The bridge cube: the Ethernet segment that a node's pods share.

Pods are static FDB entries, known from CNI. Other MAC addresses behind a pod's port (such as those
of devices inside the pod) are learned and age out. ARP requests for known addresses are answered at
once, so pods hardly flood each other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from heapq import nsmallest
from typing import Annotated, ClassVar

import msgspec

from cubelet_bridge.records import (
    FdbEntry,
    FdbKey,
    FloodPort,
    FloodRate,
    FloodRateKey,
    LearnedEntry,
    Neighbor,
    NeighborKey,
)
from cubelet_hooks.cube import Cube, Entry, Read, Reason, Row, Settings, Unit
from cubelet_hooks.flows import Index
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, Port
from cubelet_hooks.records import Address
from cubelet_hooks.view import View

FLOOD_PORTS = 256
"""The most ports that a flood reaches: those attached first."""

POD_SEGMENT = 0
"""Pods send untagged frames."""

_FLOOD: Unit = ("flood",)

_Count = Annotated[int, msgspec.Meta(ge=1, le=1 << 24)]
_Rate = Annotated[int, msgspec.Meta(ge=1, le=1 << 16)]


class BridgeSettings(Settings, frozen=True, kw_only=True):
    """Rates are per source port, sizes in entries."""

    aging_seconds: Annotated[int, msgspec.Meta(ge=1, le=86_400)] = 300
    """Seconds after which a silent learned FDB entry ages out (IEEE 802.1Q recommends 300)."""
    vlans: bool = False
    """Whether pods may send tagged frames. NetworkPolicy does not see what those carry: while
    policies are in force on the node, only ARP passes in them."""
    flood_packets_per_second: _Rate = 100
    flood_burst: _Rate = 100
    pods: _Count = 1024
    learned_entries: _Count = 4096


class Bridge(Cube):
    """Forwards frames between the ports of a segment, except frames to the router's MAC."""

    kind: ClassVar[str] = "bridge"
    essential: ClassVar[bool] = True
    core: ClassVar[bool] = True
    inward: ClassVar[frozenset[str]] = frozenset({"pod", "host"})
    outward: ClassVar[frozenset[str]] = frozenset({"pod"})
    floods: ClassVar[bool] = True
    settings_type: ClassVar[type[Settings]] = BridgeSettings
    settings: BridgeSettings
    reasons: ClassVar[tuple[Reason, ...]] = (
        Reason("mac_spoofed", "the source MAC address belongs to another port"),
        Reason("arp_spoofed", "an ARP packet that claims another port's address"),
        Reason("malformed_arp", "a truncated ARP packet, or one that contradicts its frame"),
        Reason("reserved", "a link-local control frame (01:80:c2:00:00:0x), never forwarded"),
        Reason("same_port", "the destination is on the port the frame came from"),
        Reason("wrong_address", "an IP packet to the MAC address of a pod with another address"),
        Reason("unknown_neighbor", "no pod of this node has the destination address"),
        Reason("not_routed", "a frame for the router that is no IP packet of its family"),
        Reason("unfiltered_ip", "an IP packet that NetworkPolicy could not see, on the segment"),
        Reason("flood_limited", "floods or moves of stations beyond the port's rate"),
        Reason("tagged", "a VLAN tag, which the setting vlans does not allow"),
        Reason("unfiltered", "neither IP nor ARP, while policies are in force that cannot see it"),
        Reason("nd_spoofed", "IPv6 neighbour discovery that claims another's address or MAC"),
        Reason("malformed_nd", "neighbour discovery that was forwarded, or contradicts itself"),
        Reason("link_control", "IPv6 of routers and group listeners on the link, whom no pod is"),
    )
    shows: ClassVar[Mapping[str, str]] = {"fdb": "fdb", "neighbors": "neighbors"}
    maps: ClassVar[tuple[Map, ...]] = (
        Map(
            "neighbors",
            MapType.HASH,
            NeighborKey,
            Neighbor,
            "pods",
            concerns=lambda key, _value: key.address,
        ),
        Map("fdb", MapType.HASH, FdbKey, FdbEntry, "pods"),
        Map("flood_ports", MapType.ARRAY, Index, FloodPort, FLOOD_PORTS),
        Map(
            "learned",
            MapType.LRU_HASH,
            FdbKey,
            LearnedEntry,
            "learned_entries",
            planned=False,
        ),
        Map("flood_rates", MapType.LRU_HASH, FloodRateKey, FloodRate, "pods", planned=False),
    )

    def defines(self, view: View) -> Mapping[str, int]:
        """The settings that the C reads."""
        return {
            "VLANS": int(self.settings.vlans),
            "AGING_SECONDS": self.settings.aging_seconds,
            "FLOOD_RATE": self.settings.flood_packets_per_second,
            "FLOOD_BURST": self.settings.flood_burst,
        }

    def rows(self, noun: str, read: Read, view: View) -> Iterable[Row]:
        """The FDB: configured entries, then learned ones; other tables by default."""
        if noun != "fdb":
            yield from super().rows(noun, read, view)
            return
        for name, state in (("fdb", "static"), ("learned", "learned")):
            for key, entry in read(name).items():
                yield {
                    "mac": key.mac,
                    "segment": key.segment,
                    "ifindex": entry.ifindex,
                    "state": state,
                }

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """Each port is a unit; the list of flood ports is one more."""
        if change.kind != Port.kind:
            return ()
        return (("port", change.key), _FLOOD)

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """A port's neighbor and FDB entry, or the list of flood ports."""
        if unit == _FLOOD:
            return self._flood_list(view.ports.values())
        port = view.ports.get(unit[1])
        return () if port is None else self._fdb_entry(port)

    def _fdb_entry(self, port: Port) -> Iterable[Entry]:
        mac = port.mac.lower()
        key = FdbKey(mac=mac, segment=POD_SEGMENT)
        yield Entry("fdb", key, FdbEntry(ifindex=port.ifindex))
        address = self._address(port)
        if address is not None:
            neighbor = Neighbor(mac=mac, mtu=port.mtu, ifindex=port.ifindex)
            yield Entry("neighbors", NeighborKey(address=address), neighbor)

    def _flood_list(self, ports: Iterable[Port]) -> Iterable[Entry]:
        found = ((port.ifindex, self._address(port)) for port in ports)
        reached = ((ifindex, address) for ifindex, address in found if address is not None)
        for index, (ifindex, address) in enumerate(nsmallest(FLOOD_PORTS, reached)):
            value = FloodPort(ifindex=ifindex, address=address, segment=POD_SEGMENT)
            yield Entry("flood_ports", Index(index=index), value)

    def _address(self, port: Port) -> Address | None:
        """The port's address of this instance's family: Kubernetes gives a pod one of each."""
        return next((a for a in port.addresses if a.version == self.family), None)


@hookimpl
def cubelet_cubes() -> Sequence[type[Cube]]:
    """Offer the bridge."""
    return [Bridge]
