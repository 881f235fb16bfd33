"""Waiting for what a thread does."""

from __future__ import annotations

import time
from collections.abc import Callable


def eventually(holds: Callable[[], bool], seconds: float = 5) -> None:
    """Return once a condition holds, at most so many seconds from now."""
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, f"not so within {seconds} s"
        time.sleep(0.01)
