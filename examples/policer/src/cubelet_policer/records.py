"""What the policer's maps hold."""

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
    """What is planned: bits per second, and for how long, in ns, a pod may save them up."""

    bits_per_second: U64
    depth_ns: U64


class Bucket(Record):
    """What the datapath keeps: up to when the allowance is used up, and what was dropped.

    ``used_ns`` is on the kernel's monotonic clock: what lies between it and now is free, up to the
    rate's depth. So all zeros are a full bucket, and a bucket is as full after a change of its rate
    as it was before. Packets and bytes are those on the wire, Ethernet headers included.
    """

    used_ns: U64
    dropped_packets: U64
    dropped_bytes: U64
