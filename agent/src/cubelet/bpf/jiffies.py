"""The kernel's tick counter, in which programs stamp flows (`bpf_jiffies64`), read from here.

User space has no call for it, so a program of two instructions reads it. Its rate, CONFIG_HZ, is
the resolution of the coarse clocks, which tick with it (clock_getres(2)).
"""

from __future__ import annotations

import struct
import time
from types import TracebackType
from typing import Self

from cubelet.bpf.programs import BpfProgram, load

_MASK = 0xFFFFFFFF
_HELPER_JIFFIES64 = 118
_READ_JIFFIES = struct.pack("=BBhiBBhi", 0x85, 0, 0, _HELPER_JIFFIES64, 0x95, 0, 0, 0)
_FRAME = bytes(64)
_CLOCK_MONOTONIC_COARSE = 6


class Clock:
    """The low 32 bits of jiffies, and their rate `hz`. Holds a descriptor; close it."""

    def __init__(self) -> None:
        self._program: BpfProgram = load(_READ_JIFFIES, "jiffies")
        self.hz = round(1 / time.clock_getres(_CLOCK_MONOTONIC_COARSE))

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
