"""Datagrams cut into fragments by hand, and sent in an order of one's own."""

from __future__ import annotations

import os
import random
import socket
import struct
import time
from collections.abc import Iterable, Sequence
from typing import Any

ETH_P_IP = 0x0800
PIECE = 1200
"""Bytes of a datagram in one fragment: they fit all the lab's ways."""
Address = tuple[str, int]
ORDERS = ("in", "dup", "swap", "reverse", "random")


def checksum(data: bytes) -> int:
    """RFC 1071."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def datagram(source: Address, to: Address, data: bytes) -> bytes:
    """A UDP datagram with its checksum, without an IP header."""
    ends = socket.inet_aton(source[0]) + socket.inet_aton(to[0])
    head = struct.pack("!HHHH", source[1], to[1], len(data) + 8, 0)
    total = checksum(ends + struct.pack("!BBH", 0, 17, len(data) + 8) + head + data)
    return head[:6] + struct.pack("!H", total or 0xFFFF) + data


def cut(source: str, to: str, whole: bytes, number: int, piece: int = PIECE) -> list[bytes]:
    """The IP packets that carry a datagram, in order."""
    packets = []
    for begin in range(0, len(whole), piece):
        part = whole[begin : begin + piece]
        more = 0x2000 if begin + piece < len(whole) else 0
        ends = socket.inet_aton(source) + socket.inet_aton(to)
        shape = struct.pack("!BBHHHBB", 0x45, 0, 20 + len(part), number, more | begin // 8, 64, 17)
        head = shape + struct.pack("!H", checksum(shape + bytes(2) + ends)) + ends
        packets.append(head + part)
    return packets


def arranged(packets: Sequence[bytes], order: str) -> list[bytes]:
    """One of ORDERS; ``dup`` has the first twice."""
    first, *rest = packets
    if order == "dup":
        return [first, first, *rest]
    if order == "swap":
        return [rest[0], first, *rest[1:]]
    if order == "reverse":
        return [*packets][::-1]
    return random.sample(packets, len(packets)) if order == "random" else [*packets]


def send(packets: Iterable[bytes], to: str, pause: float = 0.002) -> None:
    """Send IP packets as they are."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for packet in packets:
            raw.sendto(packet, (to, 0))
            time.sleep(pause)


def exchange(address: str, port: int, sizes: Sequence[int], repeat: int = 2) -> list[str]:
    """What was not echoed intact, of datagrams of each size in each order.

    ``repeat`` of them are of one flow.
    """
    failures = []
    for order in ORDERS:
        for size in sizes:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.settimeout(2)
                client.connect((address, port))
                for count in range(repeat):
                    said = _echoed(client, random.randbytes(size), order)
                    if said:
                        failures.append(f"{order} {size} ({count}): {said}")
    return failures


def _echoed(client: socket.socket, data: bytes, order: str) -> str:
    source, to = client.getsockname(), client.getpeername()
    packets = cut(source[0], to[0], datagram(source, to, data), random.randrange(1, 65536))
    send(arranged(packets, order), to[0])
    try:
        answer = client.recv(65536)
    except TimeoutError:
        return "lost"
    return "" if answer == data else f"{len(answer)} bytes of something else"


def answer(server: socket.socket, order: str, size: int) -> bytes:
    """Answer one datagram by another, cut and in an order; what that said."""
    _, peer = server.recvfrom(65536)
    own, data = server.getsockname(), random.randbytes(size)
    packets = cut(own[0], peer[0], datagram(own, peer, data), random.randrange(1, 65536))
    send(arranged(packets, order), peer[0])
    return data


def raced(ends: tuple[Address, Address], count: int, turn: Any) -> list[int]:
    """Which of so many datagrams that two others send (``race``) were not echoed.

    ``turn`` is a number in memory that all three share: whose turn it is, from 1.
    """
    lost = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(ends[0])
        client.connect(ends[1])
        client.settimeout(3)
        for number in range(1, count + 1):
            turn.value = number
            try:
                while int.from_bytes(client.recv(65536)[:4], "big") != number:
                    pass  # an answer that was given up
            except TimeoutError:
                lost.append(number)
    return lost


def race(which: int, ends: tuple[Address, Address], count: int, turn: Any) -> list[int]:
    """Send one of each datagram's two fragments, as soon as it is its turn, from a CPU of one's
    own."""
    cpus = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(0, {cpus[which % len(cpus)]})
    source, to = ends
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for number in range(1, count + 1):
            whole = datagram(source, to, number.to_bytes(4, "big") * 500)
            packet = cut(source[0], to[0], whole, number)[which]
            while turn.value < number:
                pass  # to sleep is to come late
            raw.sendto(packet, (to[0], 0))
    return []


class Counted:
    """Counts the IP packets that a namespace's device has received, while it is open."""

    def __init__(self, device: str) -> None:
        self._tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_IP))
        self._tap.bind((device, ETH_P_IP))
        self._tap.settimeout(0.3)

    def fragments(self, source: str) -> int:
        """Fragments of a source, until none has come for a moment."""
        count = 0
        while True:
            try:
                frame, address = self._tap.recvfrom(65536)
            except TimeoutError:
                return count
            incoming = address[2] != socket.PACKET_OUTGOING
            later = struct.unpack_from("!H", frame, 20)[0] & 0x3FFF
            count += bool(incoming and later and frame[26:30] == socket.inet_aton(source))

    def close(self) -> None:
        """Count no more."""
        self._tap.close()
