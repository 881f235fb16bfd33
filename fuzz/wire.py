"""Packets as bytes: made from templates, read back into the few fields that decide their way."""

from __future__ import annotations

import struct

ICMP, TCP, UDP, SCTP = 1, 6, 17, 132
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
ERRORS = frozenset({3, 4, 5, 11, 12})
"""ICMP's types that quote a packet (RFC 792)."""
WHOLE, FIRST, LATER = 0, 1, 2
NO_IDENTIFIER = (1, 1)
"""Instead of ports in the tuples of ICMP messages that are no echoes; an echo's has a 0."""

Tuple = tuple[int, int, int, int, int]
"""Source, destination, source port, destination port, protocol."""

_IP = struct.Struct("!BBHHHBBHII")
_TCP = struct.Struct("!HHIIBBHHH")
_FOUR = struct.Struct("!HHHH")
_PSEUDO = struct.Struct("!IIBBH")
_ETHER = struct.Struct("!6s6sH")


def ones(data: bytes) -> int:
    """The one's complement sum, modulo 65,535: zero where a right checksum is included."""
    return int.from_bytes(data if len(data) % 2 == 0 else data + b"\0") % 65535


def checksum(data: bytes) -> int:
    """RFC 1071, of data in which the checksum's own field is zero."""
    total = ones(data)
    return 0xFFFF - total if total else 0


def identify(kind: int, ident: int) -> tuple[int, int]:
    """What stands for an ICMP message's ports: an echo's identifier is the asker's."""
    return {8: (ident, 0), 0: (0, ident)}.get(kind, NO_IDENTIFIER)


def inverse(t: Tuple) -> Tuple:
    """The tuple that answers have."""
    return (t[1], t[0], t[3], t[2], t[4])


def ether(dst: bytes, src: bytes, payload: bytes, ethertype: int = 0x0800) -> bytes:
    """A frame."""
    return _ETHER.pack(dst, src, ethertype) + payload


def ip(
    src: int,
    dst: int,
    protocol: int,
    payload: bytes,
    *,
    ttl: int = 64,
    ident: int = 5,
    fragment: int = 0,
    options: bytes = b"",
) -> bytes:
    """An IPv4 packet; ``fragment`` is the whole field: flags and offset. Options: of 4 n bytes."""
    words = 5 + len(options) // 4
    size = 4 * words + len(payload)
    fields = (0x40 | words, 0, size, ident, fragment, ttl, protocol)
    total = checksum(_IP.pack(*fields, 0, src, dst) + options)
    return _IP.pack(*fields, total, src, dst) + options + payload


def pseudo(src: int, dst: int, protocol: int, size: int) -> bytes:
    """What transport checksums cover of the addresses."""
    return _PSEUDO.pack(src, dst, 0, protocol, size)


def tcp(
    t: Tuple, flags: int, data: bytes = b"", seq: int = 1, ack: int = 0, options: bytes = b""
) -> bytes:
    """A segment."""
    offset = (5 + len(options) // 4) << 4
    head = (t[2], t[3], seq, ack, offset, flags, 4321)
    rest = options + data
    total = checksum(pseudo(t[0], t[1], TCP, 20 + len(rest)) + _TCP.pack(*head, 0, 0) + rest)
    return _TCP.pack(*head, total, 0) + rest


def udp(t: Tuple, data: bytes = b"", checked: bool = True) -> bytes:
    """A datagram; without a checksum its field is zero."""
    size = 8 + len(data)
    total = 0
    if checked:
        covered = pseudo(t[0], t[1], UDP, size) + _FOUR.pack(t[2], t[3], size, 0) + data
        total = checksum(covered) or 0xFFFF
    return _FOUR.pack(t[2], t[3], size, total) + data


def icmp(kind: int, code: int, rest: int, data: bytes = b"") -> bytes:
    """A message; ``rest`` are the four bytes after the checksum."""
    head = struct.pack("!BBHI", kind, code, 0, rest)
    return struct.pack("!BBHI", kind, code, checksum(head + data), rest) + data


def transport(
    t: Tuple, flags: int, data: bytes = b"", seq: int = 1, ack: int = 0, reply: bool = False
) -> bytes:
    """What a conversation sends, in its protocol; an echo's identifier is the asker's port."""
    if t[4] == TCP:
        return tcp(t, flags, data, seq, ack)
    if t[4] == UDP:
        return udp(t, data)
    if t[4] == ICMP:
        return icmp(0 if reply else 8, 0, (t[3] if reply else t[2]) << 16 | 3, data)
    return struct.pack("!HHII", t[2], t[3], 1, 0) + data if t[4] == SCTP else data


class Packet:
    """A frame that was read: ``kind`` is ``ip``, ``link`` (no IPv4) or ``bad`` (contradictory).

    A later fragment's ports are zero. ``error``: an ICMP message that quotes another packet.
    """

    __slots__ = (
        *("frame", "kind", "ethertype", "l4", "total", "ttl", "df", "fragment", "ident"),
        *("src", "dst", "protocol", "sport", "dport", "flags", "type", "error"),
    )

    def __init__(self, frame: bytes) -> None:
        self.frame = frame
        self.ethertype = frame[12] << 8 | frame[13]
        self.sport = self.dport = self.flags = 0
        self.type = -1
        self.error = False
        self.kind = "link" if self.ethertype != 0x0800 else "ip"
        if self.kind == "ip" and not (self._read_ip() and self._read_l4()):
            self.kind = "bad"

    def _read_ip(self) -> bool:
        frame = self.frame
        self.fragment = self.protocol = self.src = self.dst = 0
        if len(frame) < 34:
            return False
        first: int
        first, _, self.total, self.ident, field, self.ttl, self.protocol, _, self.src, self.dst = (
            _IP.unpack_from(frame, 14)
        )
        size = (first & 15) * 4
        self.l4 = 14 + size
        self.df = bool(field & 0x4000)
        if field & 0x3FFF:
            self.fragment = LATER if field & 0x1FFF else FIRST
        return first >> 4 == 4 and 20 <= size <= self.total <= len(frame) - 14

    def _read_l4(self) -> bool:
        frame, l4 = self.frame, self.l4
        if self.fragment == LATER or self.protocol not in {ICMP, TCP, UDP, SCTP}:
            return True
        left: int = self.total + 14 - l4
        if left < (20 if self.protocol == TCP else 8):
            return False
        if self.protocol == ICMP:
            self.type = frame[l4]
            self.error = self.type in ERRORS
            self.sport, self.dport = identify(self.type, frame[l4 + 4] << 8 | frame[l4 + 5])
            return True
        self.sport = frame[l4] << 8 | frame[l4 + 1]
        self.dport = frame[l4 + 2] << 8 | frame[l4 + 3]
        if self.protocol == TCP:
            self.flags = frame[l4 + 13]
            return 20 <= (frame[l4 + 12] >> 4) * 4 <= left
        return True

    @property
    def tuple(self) -> Tuple:
        """By which its flow is found."""
        return (self.src, self.dst, self.sport, self.dport, self.protocol)

    def header_residue(self) -> int:
        """Zero where the header's checksum is right; the same before and after a rewrite."""
        return ones(self.frame[14 : self.l4])

    def residue(self) -> int | None:
        """The same of the transport's checksum, None where there is none."""
        segment = self.frame[self.l4 : 14 + self.total]
        if self.fragment == LATER or self.protocol not in {ICMP, TCP, UDP}:
            return None
        if self.protocol == ICMP:
            return ones(segment)
        if self.protocol == UDP and segment[6:8] == b"\0\0":
            return None
        return ones(pseudo(self.src, self.dst, self.protocol, len(segment)) + segment)


_SUMS = {TCP: 16, UDP: 6, ICMP: 2}


def rewritable(p: Packet) -> list[tuple[int, int]]:
    """Which bytes of a frame forwarding may change: MACs, TTL, checksums, addresses, ports."""
    fields = [(0, 12), (22, 23), (24, 34)]
    if p.fragment == LATER or p.protocol not in _SUMS:
        return fields
    at = p.l4 + _SUMS[p.protocol]
    fields.append((at, at + 2))
    if p.protocol != ICMP:
        fields.append((p.l4, p.l4 + 4))
    elif p.type in {0, 8}:
        fields.append((p.l4 + 4, p.l4 + 6))
    return fields


def same_but(before: bytes, after: bytes, fields: list[tuple[int, int]]) -> bool:
    """Do the frames differ in no other bytes?"""
    if len(before) != len(after):
        return False
    mended = bytearray(after)
    for start, end in fields:
        mended[start:end] = before[start:end]
    return bytes(mended) == before
