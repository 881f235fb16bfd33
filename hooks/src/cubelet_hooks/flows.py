"""The records of connection tracking, shared by the C headers and the Python that reads the maps.

A connection is two records, one per direction, each keyed by the tuple that its packets arrive
with. The reply record is the forward one inverted: it enters where the forward one leaves.
"""

from __future__ import annotations

import enum

from cubelet_hooks.records import U8, U16, U32, U64, Addr, Address, Area, Be16, Be32, Mac, Record

EPOCH_BUCKETS = 4096


class PortClass(enum.IntEnum):
    """``enum cubelet_class``."""

    POD = 0
    HOST = 1
    OVERLAY = 2
    UPLINK = 3


class FlowState(enum.IntEnum):
    """The conntrack state of a connection; PENDING records live in the small LRU table."""

    PENDING = 0
    ESTABLISHED = 1
    CLOSING = 2


class FlowFlag(enum.IntFlag):
    """Flags of a flow record, ``CUBELET_FLOW_*`` in C."""

    REPLY = 1
    ROUTED = 2
    TRANSLATED = 4
    FIN_FORWARD = 8
    FIN_REPLY = 16
    REPLIED = 32
    ALIVE_FORWARD = 64
    ALIVE_REPLY = 128
    RANGE = 256


class Tuple(Record):
    """Addresses and ports of one direction.

    An ICMP echo's identifier is the requester's port, and the other port is 0. Both are 1 for
    ICMP's other messages, which have no identifier.
    """

    src: Addr
    dst: Addr
    sport: Be16
    dport: Be16
    protocol: U8


class Hop(Record):
    """Where packets enter or leave, with the device and addresses for sending a frame there.

    ``ifindex`` is the device to send by; ``remote`` the tunnel's far end (overlay) or the next
    hop (uplink); ``mtu`` the largest IP packet in bytes.
    """

    ifindex: U32
    remote: Be32
    dst_mac: Mac
    src_mac: Mac
    mtu: U16
    port_class: U8


class Flow(Record):
    """One direction of a connection.

    ``to`` is the tuple its packets leave with. The deltas are one's complement sums to add to
    the IP header's and the transport checksum (of the pseudo-header and of the ports), constant
    for a flow. ``epoch_sum`` is what the epochs of the addresses it was judged by added up to.
    ``last_seen`` is in jiffies, written about once a second; ``timeout`` in seconds. Noted of TCP,
    as often: the segment's sequence number ``seq`` when ``seq_at`` bytes had passed (modulo 2^32)
    and its acknowledgement ``ack``; ``proof`` is what the client must acknowledge to show that it
    has seen the answer. ``packets`` and ``bytes`` count
    this direction's frames with their Ethernet headers, the packet that ``KIND_packet`` looks at
    among them; a GSO frame counts once.
    """

    enters: Hop
    leaves: Hop
    to: Tuple
    last_seen: U32
    epoch_sum: U32
    l4_delta: U32
    port_delta: U32
    l3_delta: U16
    epoch_src: U16
    epoch_dst: U16
    epoch_backend: U16
    flags: U16
    timeout: U32
    ack: U32
    seq: U32
    seq_at: U32
    proof: U32
    state: U8
    packets: U64
    bytes: U64
    area: Area


class FragmentKey(Record):
    """A fragmented datagram: RFC 791 identifies its parts by these."""

    src: Addr
    dst: Addr
    id: U32
    protocol: U8


class FragmentPorts(Record):
    """What its first fragment said, and how much of the datagram has come.

    ``seen`` is in jiffies; fragments that came before ``since`` are of a datagram that had the
    same identity. ``end`` is the length of the datagram's payload in bytes, 0 until its last
    fragment has come. ``came`` sums up, over all fragments, a hash of where one ends less the hash
    of where it begins: once it is the hash of ``end``, nothing is missing and nothing came twice.
    ``host``: the datagram is for the node's own stack.
    """

    sport: Be16
    dport: Be16
    seen: U32
    since: U32
    came: U32
    end: U32
    host: U8


class PortKey(Record):
    """The host side of a pod's veth pair."""

    ifindex: U32


class PortInfo(Record):
    """The address that a pod's port may send from, and the pod's MAC."""

    address: Addr
    mac: Mac


class Uplink(Record):
    """An uplink, by ifindex: the address that packets leave it under, and its MAC."""

    address: Addr
    mac: Mac


class NodeKey(Record):
    """A node's address, as the tunnel's far end."""

    address: Be32


class NodeInfo(Record):
    """A node's podCIDR: inner packets from its tunnel may have no other source."""

    network: Addr
    prefix: U32


class Counter(Record):
    """Packets and bytes."""

    packets: U64
    bytes: U64


class Count(Record):
    """A number of things."""

    count: U32


class Index(Record):
    """The key of an array."""

    index: U32


def epoch_bucket(address: Address) -> int:
    """The index of the epoch that an address belongs to; the same sum as in ``epoch.h``."""
    mixed, raw = 0, address.packed
    for offset in range(0, len(raw), 4):
        mixed ^= int.from_bytes(raw[offset : offset + 4], "little")
    return (mixed * 0x9E3779B1 & 0xFFFFFFFF) >> 20


SHARE_HASH = 4096
"""Counts of pods; behind them as many of other nodes, then one of each port class, then all."""
SHARE_TOTAL = 2 * SHARE_HASH + 4
SHARES = 16_384
"""Counts that there is room for: a power of two, so that an index is easily seen to be in it."""
PORT_SHARE_TOTAL = 65_536
"""Counts of owners' translated ports by destination; behind them 16,384 of destinations."""
PORT_SHARES = 131_072

_GOLDEN = 0x9E3779B1
_MASK64 = (1 << 64) - 1


def pod_share(ifindex: int) -> int:
    """The index of a pod's count, by its port."""
    return (ifindex * _GOLDEN & 0xFFFFFFFF) >> 20


def share_slot(opened: Hop) -> int:
    """The index of the count of whoever opened a flow there; the same sum as in ``share.h``."""
    if opened.port_class == PortClass.POD:
        return pod_share(opened.ifindex)
    if opened.port_class == PortClass.OVERLAY:
        remote = int.from_bytes(opened.remote.to_bytes(4, "big"), "little")
        return SHARE_HASH + ((remote * _GOLDEN & 0xFFFFFFFF) >> 20)
    return 2 * SHARE_HASH + (opened.port_class & 3)


def port_slots(to: Tuple, owner: int) -> tuple[int, int]:
    """The indexes of a destination's counts of translated ports: of all, and of this owner."""
    mixed, raw = 0, to.dst.packed
    for offset in range(0, len(raw), 4):
        mixed ^= int.from_bytes(raw[offset : offset + 4], "little")
    port = int.from_bytes(to.dport.to_bytes(2, "big"), "little")
    value = mixed * 0x9E3779B97F4A7C15 & _MASK64
    value = (value ^ value >> 29 ^ (port << 16 | to.protocol)) * 0xBF58476D1CE4E5B9 & _MASK64
    own = (value ^ value >> 32 ^ owner) * 0x94D049BB133111EB & _MASK64
    return PORT_SHARE_TOTAL + (value >> 50), own >> 48
