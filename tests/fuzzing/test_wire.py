"""The fuzzer's packets against those of a library that it does not use."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from fuzz import wire
from fuzz.wire import LATER, Packet

SRC, DST = int(IPv4Address("10.1.0.2")), int(IPv4Address("192.0.2.9"))
MACS = (b"\2\0\0\0\0\1", b"\2\0\0\0\1\0")
HEAD = Ether(dst="02:00:00:00:00:01", src="02:00:00:00:01:00")
ADDRESSES = {"src": "10.1.0.2", "dst": "192.0.2.9", "id": 5}


@pytest.mark.parametrize("data", [b"", b"odd", bytes(range(100))])
@pytest.mark.parametrize("ttl", [1, 64])
def test_built_as_scapy_builds(data: bytes, ttl: int) -> None:
    head = HEAD / IP(**ADDRESSES, ttl=ttl)
    wanted = {
        wire.TCP: head / TCP(sport=9, dport=80, flags="SA", seq=7, ack=8, window=4321) / Raw(data),
        wire.UDP: head / UDP(sport=9, dport=80) / Raw(data),
        wire.ICMP: head / ICMP(type=8, id=9, seq=3) / Raw(data),
    }
    for protocol, packet in wanted.items():
        t = (SRC, DST, 9, 80 if protocol != wire.ICMP else 0, protocol)
        body = wire.transport(t, wire.SYN | wire.ACK, data, 7, 8)
        assert wire.ether(*MACS, wire.ip(SRC, DST, protocol, body, ttl=ttl)) == bytes(packet)
        found = Packet(bytes(packet))
        assert found.kind == "ip"
        assert (found.tuple, found.ttl) == (t, ttl)
        assert (found.header_residue(), found.residue()) == (0, 0)


def test_options_and_fragments() -> None:
    packet = HEAD / IP(**ADDRESSES, options=[IPOption_NOP()] * 4, frag=3, flags="MF", proto=17)
    made = wire.ip(SRC, DST, 17, b"12345", options=b"\1\1\1\1", fragment=0x2003)
    frame = wire.ether(*MACS, made)
    assert frame == bytes(packet / Raw(b"12345"))
    found = Packet(frame)
    assert (found.kind, found.fragment, found.ident, found.sport) == ("ip", LATER, 5, 0)


def test_a_wrong_checksum_shows() -> None:
    frame = bytearray(bytes(HEAD / IP(**ADDRESSES) / UDP(sport=1, dport=2) / Raw(b"x")))
    frame[-1] ^= 1
    assert Packet(bytes(frame)).residue() != 0
    frame[22] -= 1
    assert Packet(bytes(frame)).header_residue() != 0


@pytest.mark.parametrize(
    "changed", [{14: 0x55}, {14: 0x44}, {16: 0, 17: 19}, {17: 255}, {46: 0x40}, {46: 0xF0}]
)
def test_what_contradicts_itself_is_bad(changed: dict[int, int]) -> None:
    frame = bytearray(bytes(HEAD / IP(**ADDRESSES) / TCP()))
    assert Packet(bytes(frame)).kind == "ip"
    for at, value in changed.items():
        frame[at] = value
    assert Packet(bytes(frame)).kind == "bad"


def test_truncated_at_any_length() -> None:
    frame = bytes(HEAD / IP(**ADDRESSES) / TCP())
    assert {Packet(frame[:n]).kind for n in range(14, len(frame))} == {"bad"}
