"""What the policer can be told."""

from __future__ import annotations

from cubelet_hooks import cube


class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How big buckets are. Raises ValueError naming the field that makes no sense."""

    burst_seconds: float = 0.5
    """For how long a pod may save up its rate. TCP that has lost all that was under way waits for
    200 ms (the shortest retransmission timeout of Linux), often twice as long: what a bucket cannot
    hold of that time is lost to it. 0.1 was seen to leave TCP half of its rate, 0.5 nearly all."""
    min_burst_bytes: int = 131_072
    """The least that a bucket holds: two of the 64 KiB that a stack sends in one piece (GSO)."""
    max_limits: int = 2048
    """Limits on a node: a pod can have one for each direction."""

    def __post_init__(self) -> None:
        """Check what the types do not say."""
        if not 0 < self.burst_seconds <= 60:
            raise ValueError(f"burst_seconds must be over 0, to 60, not {self.burst_seconds:g}")
        if not 1514 <= self.min_burst_bytes <= 1 << 30:
            raise ValueError(
                f"min_burst_bytes must be from 1514, a whole frame, to 1 GiB,"
                f" not {self.min_burst_bytes}"
            )
        if self.max_limits < 1:
            raise ValueError(f"max_limits must be at least 1, not {self.max_limits}")
