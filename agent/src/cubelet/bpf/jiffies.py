"""The kernel's tick counter, in which programs stamp flows (`bpf_jiffies64`), read from here.

User space has no call for it and none for its rate, so a program of two instructions reads it.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from cubelet.bpf.programs import BpfProgram, load

RATES = (100, 250, 300, 1000)
"""Ticks per second (CONFIG_HZ) that a kernel on our architectures can be built with."""

_MASK = 0xFFFFFFFF
_HELPER_JIFFIES64 = 118
_READ_JIFFIES = struct.pack("=BBhiBBhi", 0x85, 0, 0, _HELPER_JIFFIES64, 0x95, 0, 0, 0)
_FRAME = bytes(64)
_SPANS = (0.05, 0.2, 0.8)
"""Seconds over which the rate is measured, longer each time the outcome is doubtful."""
_TOLERANCE = 0.05


class Clock:
    """The low 32 bits of jiffies, and their rate `hz`. Holds a descriptor; close it."""

    def __init__(self) -> None:
        """Measure the rate, in 50 ms; `RuntimeError` if it is none that a kernel can have."""
        self._program: BpfProgram = load(_READ_JIFFIES, "jiffies")
        try:
            self.hz = measure_rate(self.now)
        except BaseException:
            self.close()
            raise

    def now(self) -> int:
        """Jiffies now, modulo 2**32 (wraps after 49 days at 1000 Hz)."""
        return self._program.test_run(_FRAME).retval

    def age(self, stamp: int) -> float:
        """Seconds since `stamp` (low 32 bits of jiffies); right for 24 days at 1000 Hz.

        Negative for a stamp of the future, as a program on another CPU may have just written it.
        """
        ticks = (self.now() - stamp) & _MASK
        return (ticks - (_MASK + 1 if ticks > _MASK >> 1 else 0)) / self.hz

    def ticks(self, seconds: float) -> int:
        """`seconds` in jiffies, rounded up: a timeout is never shorter than asked."""
        return -int(-seconds * self.hz // 1)

    def close(self) -> None:
        """Close the program."""
        self._program.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def measure_rate(
    now: Callable[[], int],
    monotonic: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """Ticks per second of the counter `now`, one of `RATES`."""
    measured = 0.0
    for span in _SPANS:
        first, started = _edge(now, monotonic)
        sleep(span)
        last, ended = _edge(now, monotonic)
        measured = ((last - first) & _MASK) / (ended - started)
        rate = min(RATES, key=lambda known: abs(known - measured))
        if abs(rate - measured) <= _TOLERANCE * rate:
            return rate
    raise RuntimeError(
        f"the kernel's clock ticks {measured:.1f} times a second, not one of {RATES}"
    )


def _edge(now: Callable[[], int], monotonic: Callable[[], float]) -> tuple[int, float]:
    """Counter and time at its next change."""
    before = now()
    while (count := now()) == before:
        pass
    return count, monotonic()
