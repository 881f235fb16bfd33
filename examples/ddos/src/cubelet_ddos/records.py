"""Keys and values of the cube's maps; the C source describes how packets use them."""

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
    """A source address of packets."""

    address: Addr


class Block(Record):
    """A source is dropped until ``until``, in ns of CLOCK_MONOTONIC; ``packets`` were so far.

    ``cause`` is ``Cause.OPERATOR`` or ``Cause.RATE``.
    """

    until: U64
    packets: U64
    cause: U8


class Bucket(Record):
    """The time at which a source's bucket will be empty, in jiffies times the rate."""

    empty: U64


class RateLimit(Record):
    """The rate limit: nanoseconds of a block, packets per second, and packets at once."""

    block: U64
    rate: U32
    burst: U32


class Flooder(Record):
    """The event of the C: a source that it has begun to drop for its rate."""

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
