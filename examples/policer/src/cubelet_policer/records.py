"""Keys and values of the policer's maps."""

from __future__ import annotations

import enum

from cubelet_hooks.buckets import TokenBucket, TokenRate
from cubelet_hooks.records import U8, U32, U64, Record


class Direction(enum.IntEnum):
    """A pod's traffic as Kubernetes names it: ingress is what the pod receives."""

    INGRESS = 0
    EGRESS = 1


class LimitKey(Record):
    """One direction of the pod behind a port, by the port's ifindex on the host."""

    ifindex: U32
    direction: U8


class Rate(Record):
    """A planned limit in bits: so many a second, and a bucket of so much."""

    bits: TokenRate


class BucketBefore(Record):
    """A :class:`Bucket` as it was laid out before: what is saved up outlives an upgrade."""

    used_ns: U64
    dropped_packets: U64
    dropped_bytes: U64


class Bucket(Record):
    """A token bucket of the datapath, and the packets and bytes it has dropped.

    A bucket is as full after a change of its rate as before. Packets and bytes are those on the
    wire, Ethernet headers included.
    """

    bits: TokenBucket
    dropped_packets: U64
    dropped_bytes: U64
