"""The records of connection tracking, shared by the C headers and by whoever reads the maps.

A connection is two records, one per direction, each found by the tuple that its packets arrive
with. The reply's record is the forward one inverted: it enters where the forward one leaves.
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
    """Life of a connection; PENDING records live in the small LRU table."""

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


class Tuple(Record):
    """Addresses and ports of one direction. ICMP echo: the identifier is the requester's port."""

    src: Addr
    dst: Addr
    sport: Be16
    dport: Be16
    protocol: U8


class Hop(Record):
    """Where packets enter or leave, with what a frame needs to be sent there.

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
    ``last_seen`` is in jiffies, written about once a second; ``timeout`` in seconds; ``ack`` is
    the last TCP acknowledgement seen when the record was last refreshed, ``proof`` what the
    client must acknowledge to show that it has seen the answer. ``packets`` and ``bytes`` count
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
    timeout: U16
    state: U8
    flags: U8
    ack: U32
    proof: U32
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
    """What its first fragment said; ``seen`` in jiffies."""

    sport: Be16
    dport: Be16
    seen: U32


class PortKey(Record):
    """A device that pods are attached by."""

    ifindex: U32


class PortInfo(Record):
    """The address that a pod's port may send from, and the pod's MAC."""

    address: Addr
    mac: Mac


class NodeKey(Record):
    """A node's address, as the tunnel's far end."""

    address: Be32


class NodeInfo(Record):
    """A node's podCIDR: the only inner sources that its tunnel may carry."""

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
