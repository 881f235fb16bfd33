"""Keys and values of the policer's maps."""

from __future__ import annotations

import enum

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
    """A planned limit: bits per second, and the bucket's depth as ns of that rate."""

    bits_per_second: U64
    depth_ns: U64


class Bucket(Record):
    """A token bucket of the datapath, and the packets and bytes it has dropped.

    ``used_ns`` is a time on the kernel's monotonic clock: the time since then, up to the rate's
    depth, is available. So all zeros are a full bucket, and a bucket is as full after a change of
    its rate as before. Packets and bytes are those on the wire, Ethernet headers included.
    """

    used_ns: U64
    dropped_packets: U64
    dropped_bytes: U64
