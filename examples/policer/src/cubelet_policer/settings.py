"""The settings of the policer."""

from __future__ import annotations

from cubelet_hooks import cube


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Sizes of buckets and maps. Raises ValueError naming a field with a bad value."""

    burst_seconds: float = 0.5
    """Depth of a bucket in seconds of its rate. TCP that has lost all packets under way waits for
    200 ms (Linux' shortest retransmission timeout), often twice as long, and loses the rate of that
    time beyond the depth. 0.1 was seen to leave TCP half of its rate, 0.5 nearly all."""
    min_burst_bytes: int = 131_072
    """Least bytes in a bucket: two GSO packets of 64 KiB, the largest that a stack sends."""
    max_limits: int = 2048
    """Limits on a node: a pod can have one for each direction."""

    def __post_init__(self) -> None:
        """Check constraints beyond the types."""
        if not 0 < self.burst_seconds <= 60:
            raise ValueError(f"burst_seconds must be over 0, to 60, not {self.burst_seconds:g}")
        if not 1514 <= self.min_burst_bytes <= 1 << 30:
            raise ValueError(
                f"min_burst_bytes must be from 1514, a whole frame, to 1 GiB,"
                f" not {self.min_burst_bytes}"
            )
        if self.max_limits < 1:
            raise ValueError(f"max_limits must be at least 1, not {self.max_limits}")
