"""The bridge's map keys and values. Each becomes a C struct ``bridge_NAME``."""

from __future__ import annotations

from cubelet_hooks.records import U16, U32, Addr, Mac, Record


class NeighborKey(Record):
    """An address on the segment."""

    address: Addr


class Neighbor(Record):
    """The pod that owns an address: its MAC, the host side of its veth, its MTU in bytes."""

    mac: Mac
    mtu: U16
    ifindex: U32


class FdbKey(Record):
    """A MAC address on a segment. Segments are VLAN IDs; 0 is the pods' own, untagged."""

    mac: Mac
    segment: U16


class FdbEntry(Record):
    """The port of a configured FDB entry: a pod's."""

    ifindex: U32


class LearnedEntry(Record):
    """The port on which a MAC was last seen as source, and when, in jiffies."""

    ifindex: U32
    seen: U32


class FloodPort(Record):
    """A pod port that floods of its segment reach. ``ifindex`` 0 ends the list."""

    ifindex: U32
    address: Addr
    segment: U16


class FloodRateKey(Record):
    """The port that a flood comes from."""

    ifindex: U32


class FloodRate(Record):
    """A port's token bucket: its tokens at the last use, and the time of that in jiffies.

    A packet costs as many tokens as a second has jiffies, so whole numbers are exact enough.
    """

    tokens: U32
    seen: U32
