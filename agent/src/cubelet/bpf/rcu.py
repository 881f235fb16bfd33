"""Waiting until no running program can still use a map entry that was replaced."""

from __future__ import annotations

import os
import time

from cubelet.bpf.syscalls import membarrier

_MEMBARRIER_CMD_GLOBAL = 1
_LONG_ENOUGH = 0.1
"""Seconds. Programs run for microseconds; the longest grace periods seen are tens of ms."""


def synchronize() -> None:
    """Return when every program that ran at the call has ended (an RCU grace period).

    After it, entries that a map write made unreachable (a policy under an old id) can be removed.
    It waits some 10 ms: membarrier(2) runs the kernel's own wait, but skips it on a single CPU and
    refuses it on nohz_full machines, where this sleeps instead.
    """
    if os.cpu_count() == 1:
        time.sleep(_LONG_ENOUGH)
        return
    try:
        membarrier(_MEMBARRIER_CMD_GLOBAL)
    except OSError:
        time.sleep(_LONG_ENOUGH)
