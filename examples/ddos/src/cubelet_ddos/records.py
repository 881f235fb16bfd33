"""Keys and values of the cube's maps; how packets meet them is told in the C source."""

from __future__ import annotations

import enum

from cubelet_hooks.records import U8, U32, U64, Addr, Family, Network, Record


class Cause(enum.IntEnum):
    """Why a source is dropped: the place of the reason in the cube's list, in C ``DDOS_BY_...``."""

    LISTED = 0
    OPERATOR = 1
    RATE = 2


class Prefix(Record):
    """Sources that have the first ``prefixlen`` bits of ``address``."""

    prefixlen: U32
    address: Addr


class Present(Record):
    """The key is in the set."""

    one: U8


class Source(Record):
    """One address that packets come from."""

    address: Addr


class Block(Record):
    """Until when a source is dropped, in nanoseconds of CLOCK_MONOTONIC; ``packets`` were.

    ``cause`` is ``Cause.OPERATOR`` or ``Cause.RATE``.
    """

    until: U64
    packets: U64
    cause: U8


class Bucket(Record):
    """When the bucket of a source will be empty, in jiffies times the rate."""

    empty: U64


class RateLimit(Record):
    """The rate limit: packets a second, packets at once, and nanoseconds of being blocked."""

    block: U64
    rate: U32
    burst: U32


class Flooder(Record):
    """What the C tells of: a source that it has begun to drop for its rate."""

    source: Addr


class Packets(Record):
    """A number of packets."""

    packets: U64


def bits_of(family: Family) -> int:
    """How many bits an address has."""
    return 32 if family == 4 else 128


def prefix(network: Network) -> Prefix:
    """The key of a network."""
    return Prefix(network.prefixlen, network.network_address)
