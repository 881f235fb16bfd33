"""Token buckets that all CPUs of a node share: the records of ``cubelet/bucket.h``.

A bucket is part of a record of the cube's own, in a map that the datapath fills; its rate is
planned. So a changed rate holds at once, and the bucket stays as full as it was.

    class Limit(Record):                   # the value of a planned map
        rate: TokenRate

    class Bucket(Record):                  # the value of a map of the datapath's
        tokens: TokenBucket
        dropped: U64

    Entry("limits", key, Limit(token_rate(10_000_000 / 8, burst=125_000)))    # bytes
"""

from __future__ import annotations

from cubelet_hooks.records import U64, Record

SECOND = 1_000_000_000


class TokenBucket(Record):
    """A time on the kernel's monotonic clock, in ns, up to which the rate is used up.

    The time since then is what may be taken, at most the rate's depth; so all zeros are a full
    bucket.
    """

    used_ns: U64


class TokenRate(Record):
    """Tokens a second, and the bucket's depth as the ns in which the rate fills it.

    Tokens are what the cube counts: packets, bytes, bits. At a rate of 0 nothing is given.
    """

    per_second: U64
    depth_ns: U64


def token_rate(per_second: float, burst: float) -> TokenRate:
    """A rate with a bucket of ``burst`` tokens. Raises ValueError for less than 1 a second."""
    if per_second < 1 or burst < 0:
        raise ValueError(f"a rate of {per_second:g} a second with {burst:g} at once is none")
    return TokenRate(round(per_second), round(burst * SECOND / per_second))
