"""Lists the BPF objects that this process holds, and the pins under a cube's name."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

from cubelet.bpf.fs import BPFFS, pins

_ID = re.compile(r"^(map|prog|link)_id:\s*(\d+)$", re.MULTILINE)
_AGENTS = "cubelet"
"""Prefix of the folders that agents pin in: their pins are not the check's and are left out."""


def open_descriptors() -> frozenset[str]:
    """The maps, programs and links that this process has open, such as ``map 17``."""
    found = set()
    for each in Path("/proc/self/fdinfo").iterdir():
        with suppress(OSError):  # the folder's own descriptor, closed by now
            match = _ID.search(each.read_text())
            if match:
                found.add(f"{match[1]} {match[2]}")
    return frozenset(found)


def own_pins(kind: str) -> frozenset[str]:
    """The pins outside agents' folders that have the kind in their name."""
    return frozenset(
        str(pin)
        for pin in pins(BPFFS)
        if kind in str(pin) and not pin.relative_to(BPFFS).parts[0].startswith(_AGENTS)
    )
