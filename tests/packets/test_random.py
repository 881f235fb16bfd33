"""Whatever arrives: an answer of the known ones, and a reason for each drop."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator

import pytest
from scapy.layers.inet import IP
from scapy.layers.l2 import Ether

from cubelet_hooks.testing import Result

from .cubes import Way
from .rig import GATEWAY, NODE, OUTSIDE, REMOTE, VIP, A, B, C, Rig
from .shapes import SHAPES, Ends

ENTRIES = ("a", "host", "overlay", "uplink")
ADDRESSES = (A, B, C, VIP, NODE, GATEWAY, REMOTE, OUTSIDE, "255.255.255.255", "0.0.0.0")
SEED = 20250


@pytest.fixture
def busy(rig: Rig) -> Rig:
    """Everything configured, so that packets find their way to every corner."""
    rig.vip(VIP, 80, B, 8080)
    rig.vip(NODE, 30001, A, 80)
    rig.vip(VIP, 0, B, 0)
    rig.masquerade(A, "uplink", NODE)
    rig.masquerade(REMOTE, "pod", GATEWAY)
    rig.close_gate(A, C, Way.REFUSE)
    rig.close_gate(OUTSIDE, B, Way.REJECT)
    return rig


def sane(result: Result, sent: bytes) -> None:
    assert result.verdict in {"redirect", "drop", "pass"}
    if result.verdict == "drop":
        assert result.reason != "core/none", sent.hex()
    else:
        assert result.reason != "core/jump"
    if result.verdict == "pass":
        assert bytes(result.packet) == sent


def run(rig: Rig, frames: Iterator[bytes]) -> None:
    for number, frame in enumerate(frames):
        sane(rig.send(Ether(frame), ENTRIES[number % 4]), frame)
