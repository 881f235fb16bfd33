"""Keys and values of the cube's maps; the C source describes how they refer to each other."""

from __future__ import annotations

import enum

from cubelet_hooks.records import U8, U32, U64, Addr, Be16, Family, Record


class Direction(enum.IntEnum):
    """Seen from the pod a policy selects; C knows ``FIREWALL_INGRESS`` and ``FIREWALL_EGRESS``."""

    INGRESS = 0
    EGRESS = 1


class IsolatedKey(Record):
    """A pod of this node, and a direction that policies isolate it in."""

    address: Addr
    direction: U8


class Policy(Record):
    """The number of all policies that select the pod, taken together.

    ``peers`` is 1 if they have pods as peers, ``blocks`` if they have CIDRs.
    """

    policy: U64
    peers: U8
    blocks: U8


class IdentityKey(Record):
    """A pod's address, on any node."""

    address: Addr


class Identity(Record):
    """A pod's identity for policies: its namespace with labels, and its own labels and ports."""

    namespace: U64
    pod: U64


HOST_ADDRESSES = 4
"""As many of a host's addresses count."""


class HostKey(Record):
    """The address that a node's host has among its pods, and the number of one it has outside."""

    address: Addr
    index: U8


class Host(Record):
    """An address of a node's host."""

    address: Addr


class PeerKey(Record):
    """Pods as a policy sees them: one identity, a whole namespace, or (policy alone) all."""

    prefixlen: U32
    policy: U64
    namespace: U64
    pod: U64


class BlockKey(Record):
    """A network as a policy sees it; the policy alone stands for every address."""

    prefixlen: U32
    policy: U64
    network: Addr


class PortSet(Record):
    """The allowed ports: 0 none, 1 all, else the number of a set of ports."""

    set: U64


class PortKey(Record):
    """Ports of a set with a common prefix, or (set and protocol alone) the whole protocol."""

    prefixlen: U32
    set: U64
    protocol: U8
    port: Be16


class Present(Record):
    """Says that the key exists; always 1."""

    present: U8


def bits_to(key: type[Record], last: str, family: Family) -> int:
    """The prefix length in bits of an LPM key that is given up to and including ``last``."""
    layout = key.layout(family)
    first, until = layout.fields[0], next(f for f in layout.fields if f.name == last)
    return 8 * (until.offset + until.scalar.size - first.scalar.size)
