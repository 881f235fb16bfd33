"""What pods get in a test network: the frames that programs copy to their ports."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from cubelet_hooks.objects import Port

if TYPE_CHECKING:
    from scapy.packet import Packet

_ALL = 0x0003
"""ETH_P_ALL."""
_OUTGOING = 4
"""PACKET_OUTGOING: sent by the device, not received."""
_PATIENCE = 0.2
"""Seconds to wait for a frame."""


class Collector:
    """Takes what arrives at a pod's end of its veth."""

    def __init__(self, tap: socket.socket) -> None:
        self._tap = tap

    def frames(self) -> list[Packet]:
        """The frames that have come since the last call, oldest first."""
        from scapy.layers.l2 import Ether

        found, until = [], time.monotonic() + _PATIENCE
        while time.monotonic() < until:
            try:
                frame, address = self._tap.recvfrom(1 << 17)
            except TimeoutError:
                break
            if address[2] != _OUTGOING:
                found.append(Ether(frame))
        return found


@contextmanager
def collecting(port: Port) -> Iterator[Collector]:
    """Listen where a pod would. ``port`` is one of the test network's."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ALL)) as tap:
        tap.bind((f"{port.host_ifname}p", _ALL))
        tap.settimeout(_PATIENCE)
        yield Collector(tap)
