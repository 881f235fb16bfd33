"""The core's own maps and their plan: flows, epochs, drops and what the programs share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Annotated, ClassVar

import msgspec

from cubelet.bpf.layout import possible_cpus
from cubelet.composer import exposed
from cubelet.composer.ends import Ended, Lost, Rate
from cubelet.composer.exposed import PORT_WORDS, ExposedAddress, ExposedKey, PortBits
from cubelet.composer.mirrors import MirrorTargets
from cubelet_hooks import flows
from cubelet_hooks.buckets import TokenBucket, TokenRate
from cubelet_hooks.cube import Cube, Entry, Settings, Unit
from cubelet_hooks.flows import EPOCH_BUCKETS, Count, Counter, FragmentKey, FragmentPorts, Index
from cubelet_hooks.maps import EVERYTHING, Map, MapType
from cubelet_hooks.objects import Change, LocalNode, Network, Node, Port, Service
from cubelet_hooks.reasons import FIRST_CUBE_REASON, MAX_CUBES, REASONS_PER_CUBE
from cubelet_hooks.records import (
    U8,
    U16,
    U32,
    Addr,
    Address,
    Be16,
    Be32,
    Family,
    Frame,
    Record,
)
from cubelet_hooks.view import View

PORT_CLASS_COUNT = 4
UPLINKS = 64
"""NICs by which packets leave, at most."""
OWN_ADDRESSES = 8
"""The node's addresses that a UDP answer from another of them is tried under, at most."""


class Bucket(Record):
    """A rate limit's current second: its start in jiffies, and how much of the limit is used."""

    since: U32
    used: U32


class ErrorOrigin(Record):
    """Whose packets errors are about: the device they entered by, which is a pod's or a class's.

    ``path_mtu``: errors that say what size fits have a budget apart.
    """

    ifindex: U32
    path_mtu: U8


class PuntedHead(Record):
    """Stands before a frame that is handed to Python: where it entered, and its bytes."""

    ifindex: U32
    length: U16
    entered: U8


class KeptKey(Record):
    """A place for a fragment that came before its first: number ``slot`` of its owner's.

    Owners are pods' ports, by ifindex; the host; and buckets of sources that come by the overlay
    and by the uplink: ``keeper`` in keep.h numbers them.
    """

    owner: U32
    slot: U32


class KeptFragment(Record):
    """A fragment that waits for its first: ``length`` bytes of ``frame``, as it came.

    ``seen`` is in jiffies; ``remote`` the far end of the tunnel that it came through; ``stamp``
    any number, which tells it from what may stand in its place later. ``passed``: the node's own
    stack has it too.
    """

    datagram: flows.FragmentKey
    remote: Be32
    seen: U32
    stamp: U32
    length: U16
    passed: U8
    frame: Frame


class Keeper(Record):
    """An owner of fragments: when one was kept last (jiffies), and the slot of the next one.

    ``datagrams`` counts those whose first fragment was seen: see ``fragment_places``.
    """

    seen: U32
    next: U32
    datagrams: U32


class KeeperKey(Record):
    """See :class:`KeptKey`."""

    owner: U32


class MartianKey(Record):
    """A network that no packet from the uplink may come from; ``prefixlen`` in bits."""

    prefixlen: U32
    network: Addr


class Martian(Record):
    """Says that the key exists; always 1."""

    present: U8


class OwnAddress(Record):
    """One of the node's addresses; zero for none. Number 0 is that of tunnels' outer packets: zero
    leaves it to the kernel. The gateway's comes after it, then the others."""

    address: Addr


class Trace(Record):
    """Where a packet went, written by programs that are composed with tracing.

    ``sent`` says that it left by ``hop`` (1), went back unchanged in direction (2), to a cube's
    Python (3), or is a fragment that waits for its first (4); otherwise ``reason`` says why not,
    and ``stage`` which cube spoke last.
    """

    hop: flows.Hop
    reason: U32
    stage: U8
    sent: U8
    verdict: U8


class DropEvent(Record):
    """The ring buffer's record of a dropped packet, for `cubelet monitor`.

    ``tuple`` is the frame's own, zero unless it is IP; ``ifindex`` and ``entered`` are those of the
    port it entered by; ``length`` in bytes; ``stage`` is the cube that ran last (0: none).
    """

    tuple: flows.Tuple
    ifindex: U32
    length: U32
    reason: U16
    ethertype: Be16
    entered: U8
    stage: U8
    tcp_flags: U8
    mode: U8


Positive = Annotated[int, msgspec.Meta(ge=1)]
_FRAGMENT_OWNERS = 160


class CoreSettings(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes and limits of the core. The defaults fit a node of 110 pods.

    ``flows`` counts records, two a connection; memory is about 250 bytes a record. An eighth of
    the connections that fit may be closing. Timeouts are in seconds of idleness: ``timeout_syn`` is
    that of TCP connections that are being opened, ``timeout_pending`` of other flows that have not
    been answered, or only once; ``timeout_tcp`` is a day. ``fragments`` counts datagrams, of which
    an owner may have one part in 160. A fragment that came before its first takes 2 kB while it
    waits.
    """

    flows: Annotated[int, msgspec.Meta(ge=4)] = 262_144
    pending_flows: Positive = 65_536
    fragments: Positive = 32_768
    kept_fragments: Positive = 16_384
    kept_per_port: Annotated[int, msgspec.Meta(ge=1, le=256)] = 64
    ports: Positive = 1_024
    nodes: Positive = 8_192
    exposed: Positive = 16_384
    martians: Positive = 16_384
    errors_per_second: Positive = 100
    path_mtu_errors_per_second: Positive = 100
    node_errors_per_second: Positive = 10_000
    mirrored_per_second: Positive = 50_000
    event_bytes: Positive = 262_144
    timeout_pending: Positive = 30
    timeout_syn: Positive = 10
    timeout_closing: Positive = 10
    timeout_tcp: Positive = 86_400
    timeout_udp: Positive = 180
    timeout_icmp: Positive = 30
    timeout_other: Positive = 600
    tunnel_id: Positive = 1
    snat_first_port: Positive = 12_000
    snat_last_port: Positive = 29_999
    node_port_first: Positive = 30_000
    node_port_last: Positive = 32_767
    hairpin_address: str = "169.254.1.2"
    hairpin_address6: str = "fd6c:e3a1:5b70::2"

    def hairpin(self, family: Family) -> Address:
        """The source of flows of this family that come back to their own sender."""
        return ip_address(self.hairpin_address if family == 4 else self.hairpin_address6)

    @property
    def closing(self) -> int:
        """How many connections may be closing at a time: an eighth of those that fit."""
        each = max(1, self.flows // 16 // possible_cpus())
        return each * possible_cpus()

    @property
    def fragments_each(self) -> int:
        """How many datagrams of an owner may be under way: 110 pods' and all others' fit."""
        return max(1, self.fragments // _FRAGMENT_OWNERS)

    @property
    def live_flows(self) -> int:
        """How many connections can be replied and not closing."""
        return max(1, self.flows // 2 - self.closing)

    def __post_init__(self) -> None:
        """Check constraints beyond the types. Raises ValueError naming the field."""
        for family in (4, 6):
            if self.hairpin(family).version != family:
                raise ValueError(f"{self.hairpin(family)} is no IPv{family} address")
        for first, last in (
            ("snat_first_port", "snat_last_port"),
            ("node_port_first", "node_port_last"),
        ):
            if not 1024 <= getattr(self, first) <= getattr(self, last) <= 65535:
                raise ValueError(f"{first} to {last} is no range of ports from 1024 to 65535")


CORE_RECORDS: tuple[type[Record], ...] = (
    flows.Tuple,
    flows.Hop,
    flows.Flow,
    flows.FragmentKey,
    flows.FragmentPorts,
    flows.PortKey,
    flows.PortInfo,
    flows.Uplink,
    flows.NodeKey,
    flows.NodeInfo,
    flows.Counter,
    flows.Count,
    flows.Index,
    Bucket,
    Rate,
    Lost,
    Ended,
    MirrorTargets,
    TokenBucket,
    TokenRate,
    ErrorOrigin,
    PuntedHead,
    KeptKey,
    KeptFragment,
    KeeperKey,
    Keeper,
    ExposedKey,
    ExposedAddress,
    MartianKey,
    Martian,
    OwnAddress,
    PortBits,
    Trace,
    DropEvent,
)
"""In the order in which their C structs refer to each other."""

CORE_MAPS: tuple[Map, ...] = (
    Map("flows", MapType.HASH, flows.Tuple, flows.Flow, "flows", planned=False),
    Map("pending", MapType.LRU_HASH, flows.Tuple, flows.Flow, "pending_flows", planned=False),
    Map("fragments", MapType.LRU_HASH, FragmentKey, FragmentPorts, "fragments", planned=False),
    Map("fragment_places", MapType.LRU_HASH, KeptKey, FragmentKey, "fragments", planned=False),
    Map("closing", MapType.ARRAY, Index, flows.Tuple, "closing", planned=False),
    Map("closing_heads", MapType.PERCPU_ARRAY, Index, Count, 1, planned=False),
    Map("kept", MapType.HASH, KeptKey, KeptFragment, "kept_fragments", planned=False),
    Map("keepers", MapType.HASH, KeeperKey, Keeper, 4_096, planned=False),
    Map("kept_frame", MapType.PERCPU_ARRAY, Index, KeptFragment, 1, planned=False),
    Map(
        "ports",
        MapType.HASH,
        flows.PortKey,
        flows.PortInfo,
        "ports",
        concerns=lambda key, value: value.address,
    ),
    Map(
        "nodes",
        MapType.HASH,
        flows.NodeKey,
        flows.NodeInfo,
        "nodes",
        concerns=lambda key, value: EVERYTHING,
    ),
    Map(
        "uplinks",
        MapType.HASH,
        flows.PortKey,
        flows.Uplink,
        UPLINKS,
        concerns=lambda key, value: EVERYTHING,
    ),
    Map("own", MapType.ARRAY, Index, OwnAddress, 1 + OWN_ADDRESSES),
    Map("exposed", MapType.HASH, ExposedKey, ExposedAddress, "exposed"),
    Map("host_ports", MapType.ARRAY, Index, PortBits, PORT_WORDS),
    Map(
        "drops",
        MapType.PERCPU_ARRAY,
        Index,
        Counter,
        (FIRST_CUBE_REASON + REASONS_PER_CUBE * MAX_CUBES) * PORT_CLASS_COUNT,
        planned=False,
    ),
    Map("error_rates", MapType.LRU_HASH, ErrorOrigin, Bucket, 4_096, planned=False),
    Map("error_ceilings", MapType.ARRAY, Index, Bucket, 2, planned=False),
    Map("events", MapType.RINGBUF, Index, Index, "event_bytes", planned=False),
    Map(
        "martians",
        MapType.LPM_TRIE,
        MartianKey,
        Martian,
        "martians",
        concerns=lambda key, value: ip_network((key.network, key.prefixlen)),
    ),
)


class Core(Cube):
    """The core as planner and applier see it: which port may send what, and who tunnels.

    ``service_cidrs`` are the cluster's Service networks, which nobody is beyond the uplink.
    """

    kind = "cubelet"
    essential = True
    settings_type = CoreSettings
    settings: CoreSettings
    maps: ClassVar[tuple[Map, ...]] = CORE_MAPS

    def __init__(
        self,
        instance: str,
        settings: Settings,
        family: Family = 4,
        service_cidrs: tuple[IPv4Network, ...] = (),
    ) -> None:
        super().__init__(instance, settings, family)
        self.service_cidrs = service_cidrs

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """Each port, node and Service is a unit, and so are this node's addresses together.

        All ports that pods and Services have at the node's addresses are one: they share words.
        """
        return {*self._own_units(change), *exposed.units(change, view)}

    def _own_units(self, change: Change) -> Iterable[Unit]:
        if change.kind == Port.kind:
            ports = (each for each in (change.old, change.new) if isinstance(each, Port))
            shared = (("host_ports",),) if any(each.host_ports for each in ports) else ()
            return (("port", change.key), *shared)
        if change.kind == Node.kind:
            return (("node", change.key),)
        return (("own",),) if change.kind == LocalNode.kind else ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """A port's own address; what other nodes may tunnel; what outsiders may address, and be."""
        kind, key = unit[0], unit[-1]
        if kind == "service" and key in view.services:
            service = view.services[key]
            yield from exposed.of_service(service, view, self.family)
            yield from self._martians(map(ip_network, self._outside_ranges(service)))
        if kind == "own" and view.local is not None:
            yield from exposed.of_node(view.local, self.family)
            yield from self._uplinks(view.local)
            yield from self._martians(self._own_networks(view.local))
        if kind == "host_ports":
            yield from exposed.port_bits(view)
        if kind == "port" and key in view.ports:
            port = view.ports[key]
            for address in port.addresses:
                if address.version == self.family:
                    info = flows.PortInfo(address=address, mac=port.mac)
                    yield Entry("ports", flows.PortKey(ifindex=port.ifindex), info)
        if kind == "node" and key in view.nodes:
            yield from self._martians(view.nodes[key].pod_cidrs)
            if view.local is None or view.local.name != key:
                yield from self._tunnels(view.nodes[key])

    def _uplinks(self, local: LocalNode) -> Iterable[Entry]:
        """The NICs, and the node's addresses as tunnels and answers from any of them need them."""
        for nic in local.uplinks[:UPLINKS]:
            if nic.address.version == self.family:
                uplink = flows.Uplink(address=nic.address, mac=nic.mac)
                yield Entry("uplinks", flows.PortKey(ifindex=nic.ifindex), uplink)
        own = dict.fromkeys((local.gateway, *local.addresses))
        known = [each for each in own if each.version == self.family]
        tunnel = local.tunnel_source if self.family == 4 else None  # tunnels run over IPv4
        for number, address in enumerate((tunnel, *known[:OWN_ADDRESSES])):
            if address is not None:
                yield Entry("own", Index(number), OwnAddress(address=address))

    def _own_networks(self, local: LocalNode) -> Iterable[Network]:
        """What is this node's or everybody's, so that no one out there has it."""
        hairpin = self.settings.hairpin(self.family)
        addresses = (*local.addresses, *local.broadcasts, hairpin)
        return (local.pod_cidr, *self.service_cidrs, *map(ip_network, addresses))

    def _outside_ranges(self, service: Service) -> Iterable[Address]:
        """Its ClusterIPs that no network of the settings includes."""
        return (a for a in service.cluster_ips if not any(a in c for c in self.service_cidrs))

    def _martians(self, networks: Iterable[Network]) -> Iterable[Entry]:
        for network in networks:
            if network.version == self.family:
                key = MartianKey(prefixlen=network.prefixlen, network=network.network_address)
                yield Entry("martians", key, Martian(present=1))

    def _tunnels(self, node: Node) -> Iterable[Entry]:
        for network in node.pod_cidrs:
            if network.version != self.family:
                continue
            info = flows.NodeInfo(network=network.network_address, prefix=network.prefixlen)
            for address in node.addresses:
                if address.version == 4:  # the tunnel runs over IPv4
                    yield Entry("nodes", flows.NodeKey(address=int(address)), info)


@dataclass(frozen=True)
class ValueMap:
    """An array of one value that programs address directly, without a lookup."""

    name: str
    size: int


EPOCHS = ValueMap("epochs", 8 + 4 * EPOCH_BUCKETS)
RECOVERY = ValueMap("recovery", 8)
"""Until when (jiffies; 0: not at all) TCP that is under way may open flows: records were lost."""
MONITOR = ValueMap("monitor", 8)
TRACE = ValueMap("trace", Trace.layout().size)
SHARES = ValueMap("shares", 4 * flows.SHARES)
PORT_SHARES = ValueMap("port_shares", 4 * flows.PORT_SHARES)
VALUE_MAPS = (EPOCHS, RECOVERY, SHARES, PORT_SHARES, MONITOR, TRACE)
SCRATCH = "scratch_map"
SCRATCH_BYTES = 2048
JUMPS = "jumps"
"""The table of tail calls; each composition has its own."""
