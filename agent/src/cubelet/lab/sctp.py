"""A minimal SCTP (RFC 9260) on raw packets: requests for an association, and answers to them.

Kernels often have no SCTP, so a lab's pods and probes implement it: an INIT is answered by INIT ACK
if the port is served, else by ABORT. Packets start at the SCTP header.
"""

from __future__ import annotations

import struct
from collections.abc import Container
from dataclasses import dataclass
from typing import Final

PROTOCOL: Final = 132
INIT: Final = 1
INIT_ACK: Final = 2
ABORT: Final = 6

_HEADER: Final = struct.Struct("!HHI4s")  # source, destination, verification tag, checksum
_CHUNK: Final = struct.Struct("!BBH")  # type, flags, length with these four bytes
_INIT: Final = struct.Struct("!IIHHI")  # tag, window, outbound and inbound streams, first TSN
_COOKIE: Final = struct.pack("!HH8s", 7, 12, b"cubelet ")  # a state cookie, mandatory in INIT ACK
_WINDOW: Final = 65536
_TAG: Final = 0x6375_6265  # the server's only tag: it keeps no associations


def _table() -> tuple[int, ...]:
    rows = []
    for byte in range(256):
        row = byte
        for _ in range(8):
            row = row >> 1 ^ (0x82F6_3B78 if row & 1 else 0)  # CRC32c, reflected
        rows.append(row)
    return tuple(rows)


_CRC_TABLE: Final = _table()


@dataclass(frozen=True)
class Packet:
    """The header and the first chunk of a packet; `init_tag` is 0 but in INIT and INIT ACK."""

    source: int
    destination: int
    tag: int
    chunk: int
    init_tag: int = 0


def crc32c(data: bytes) -> int:
    """The checksum of RFC 9260 appendix A, as a number that is sent in little-endian order."""
    crc = 0xFFFF_FFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFF_FFFF


def build(packet: Packet) -> bytes:
    """The bytes of a packet with its checksum."""
    body = b""
    if packet.chunk in (INIT, INIT_ACK):
        body = _INIT.pack(packet.init_tag, _WINDOW, 1, 1, packet.init_tag)
        body += _COOKIE if packet.chunk == INIT_ACK else b""
    chunk = _CHUNK.pack(packet.chunk, 0, _CHUNK.size + len(body)) + body
    ports = (packet.source, packet.destination, packet.tag)
    checksum = crc32c(_HEADER.pack(*ports, bytes(4)) + chunk)
    return _HEADER.pack(*ports, checksum.to_bytes(4, "little")) + chunk


def parse(data: bytes) -> Packet | None:
    """Read a packet; None if it is cut short or its checksum is wrong."""
    if len(data) < _HEADER.size + _CHUNK.size:
        return None
    source, destination, tag, checksum = _HEADER.unpack_from(data)
    if crc32c(data[:8] + bytes(4) + data[12:]).to_bytes(4, "little") != checksum:
        return None
    chunk, _, length = _CHUNK.unpack_from(data, _HEADER.size)
    init_tag = 0
    if chunk in (INIT, INIT_ACK):
        if length < _CHUNK.size + _INIT.size or len(data) < _HEADER.size + length:
            return None
        init_tag = _INIT.unpack_from(data, _HEADER.size + _CHUNK.size)[0]
    return Packet(source, destination, tag, chunk, init_tag)


def init(source: int, destination: int, tag: int) -> bytes:
    """The packet that asks for an association; answers carry `tag` (not 0)."""
    return build(Packet(source, destination, 0, INIT, tag))


def answer(packet: Packet, served: Container[int]) -> bytes | None:
    """The answer of a host that serves these ports; None if it stays silent."""
    if packet.chunk != INIT:
        return None
    accepted = packet.destination in served
    return build(
        Packet(
            packet.destination,
            packet.source,
            packet.init_tag,
            INIT_ACK if accepted else ABORT,
            _TAG if accepted else 0,
        )
    )


def answers(request: Packet, datagram: bytes) -> int:
    """The chunk type of a raw socket's packet if it answers the INIT `request`, else 0."""
    packet = parse(payload(datagram))
    if packet is None:
        return 0
    expected = (request.destination, request.source, request.init_tag)
    return packet.chunk if (packet.source, packet.destination, packet.tag) == expected else 0


def payload(datagram: bytes) -> bytes:
    """The bytes after the IPv4 header of a packet read from a raw socket."""
    return datagram[(datagram[0] & 0x0F) * 4 :]
