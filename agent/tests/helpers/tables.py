"""Tables and clocks for tests of what removes records."""

from __future__ import annotations

from collections.abc import Mapping

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.maps import BpfMap


class StandingClock(Clock):
    """Jiffies as a test sets them, with so many a second."""

    def __init__(self, at: int, hz: int) -> None:
        self.at = at
        self.hz = hz

    def now(self) -> int:
        return self.at & 0xFFFFFFFF


class Table(BpfMap):
    """A map in which the datapath may write just before a record is read by its key."""

    refreshed: Mapping[bytes, bytes] = {}

    def lookup(self, key: bytes) -> bytes | None:
        if key in self.refreshed:
            self.update(key, self.refreshed[key])
        return super().lookup(key)
