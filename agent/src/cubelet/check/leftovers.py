"""Checks that closing the compositions leaves no maps, programs, pins or open descriptors."""

from __future__ import annotations

import time
from collections.abc import Iterator

from cubelet.check.findings import Finding
from cubelet.check.places import at
from cubelet.check.traces import open_descriptors, own_pins
from cubelet.check.workbench import Workbench

_PATIENCE = 2.0
"""Seconds: the kernel frees maps after a grace period."""


def check(bench: Workbench) -> Iterator[Finding]:
    """Close every composition and look for leftovers. This is the last of the checks."""
    for _ in bench.datapaths():
        pass
    bench.close()
    deadline = time.monotonic() + _PATIENCE
    while (left := open_descriptors() - bench.descriptors) and time.monotonic() < deadline:
        time.sleep(0.05)
    if left:
        message = f"left open after the cube is gone: {', '.join(sorted(left))}"
        yield at(bench.cube, "maps", message, "declare maps in Cube.maps, and open none yourself")
    for pin in sorted(own_pins(bench.cube.kind) - bench.pins):
        message = f"left pinned after the cube is gone: {pin}"
        yield at(bench.cube, "maps", message, "pin nothing: the agent does, and removes it")
