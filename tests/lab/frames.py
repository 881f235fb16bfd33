"""Raw frames of a pod's device: what is sent into a segment, and what is heard of it."""

from __future__ import annotations

import multiprocessing
import socket
import struct
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from cubelet.lab import netns

T = TypeVar("T")

BROADCAST = b"\xff" * 6
ETH_P_ALL = 3
ETH_P_ARP = 0x0806
EXPERIMENT = 0x88B5
"""IEEE 802's local experimental ethertype 1."""

_SOL_PACKET = 263
_PACKET_AUXDATA = 8
_NOT_READY = 8
"""TP_STATUS_CSUMNOTREADY: the frame's checksum is left to hardware."""
_DEVICE = "eth0"


def mac() -> bytes:
    """The device's MAC address."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((_DEVICE, 0))
        found: bytes = raw.getsockname()[4]
    return found


def send(*frames: bytes) -> None:
    """Send frames as they are."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((_DEVICE, 0))
        for frame in frames:
            raw.send(frame)


def frame(to: bytes, source: bytes, body: bytes) -> bytes:
    """A frame of the experimental ethertype."""
    return to + source + struct.pack("!H", EXPERIMENT) + body.ljust(46, b"\0")


def who_has(source: bytes, sender: str, target: str) -> bytes:
    """An ARP request for an address."""
    packet = struct.pack("!HHBBH", 1, 0x0800, 6, 4, 1)
    packet += source + socket.inet_aton(sender) + bytes(6) + socket.inet_aton(target)
    return BROADCAST + source + struct.pack("!H", ETH_P_ARP) + packet


def broadcast(address: str, port: int, data: bytes) -> None:
    """Send a UDP datagram to a broadcast address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        client.sendto(data, (address, port))


def capture(opened: Any, stop: Any, ethertype: int, contains: bytes) -> list[tuple[bytes, bool]]:
    """The incoming frames with these bytes until the end, and whether each is CHECKSUM_PARTIAL."""
    found: list[tuple[bytes, bool]] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ethertype)) as raw:
        raw.bind((_DEVICE, ethertype))
        raw.setsockopt(_SOL_PACKET, _PACKET_AUXDATA, 1)
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        raw.settimeout(0.05)
        opened.set()
        while True:
            try:
                data, ancillary, _, address = raw.recvmsg(70000, 256)
            except TimeoutError:
                if stop.is_set():
                    return found
                continue
            if address[2] != socket.PACKET_OUTGOING and contains in data:
                (status,) = struct.unpack_from("=I", ancillary[0][2]) if ancillary else (0,)
                found.append((data, bool(status & _NOT_READY)))


@contextmanager
def heard(
    *places: str, ethertype: int = ETH_P_ALL, contains: bytes = b""
) -> Iterator[Callable[[int], list[tuple[bytes, bool]]]]:
    """Listen in the namespaces; what the n-th one heard is known once the block has been left."""
    fork = multiprocessing.get_context("fork")
    stop = fork.Event()
    opened = [fork.Event() for _ in places]
    with ThreadPoolExecutor(len(places)) as pool:
        results: list[Future[list[tuple[bytes, bool]]]] = [
            pool.submit(netns.run, place, capture, each, stop, ethertype, contains)
            for place, each in zip(places, opened, strict=True)
        ]
        for each in opened:
            assert each.wait(10)
        try:
            yield lambda number: results[number].result()
        finally:
            time.sleep(0.1)
            stop.set()
