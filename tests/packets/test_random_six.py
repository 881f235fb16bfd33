"""Whatever IPv6 arrives: one of the known answers, a reason for each drop, no sum made wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from ipaddress import IPv6Address

import pytest
from scapy.layers.inet6 import IPv6
from scapy.packet import Packet

from cubelet.testkit.twins import in_six, six

from .rig import A, B, Rig
from .test_random import DESTINATIONS, ENTRIES, LONGEST, SEED, SOURCES, configured, ones_sum
from .test_random import conversations as conversations_of_four

FAMILIES = (6,)
ETHERTYPE = b"\x86\xdd"
HEADERS = (0, 43, 44, 60)
"""Extension headers that are walked; others' bodies are opaque."""


@pytest.fixture
def busy(rig: Rig) -> Rig:
    return configured(rig)


def right(frame: bytes) -> bool:
    """Is it whole, and its transport's checksum right? Of chains it reads what can be read."""
    ip = frame[14:]
    if frame[12:14] != ETHERTYPE or len(ip) < 40 or ip[0] >> 4 != 6:
        return False
    total, at, next_header = 40 + int.from_bytes(ip[4:6], "big"), 40, ip[6]
    while next_header in HEADERS:
        if at + 8 > min(total, len(ip)) or (next_header == 44 and ip[at + 2 : at + 4] != b"\0\0"):
            return False
        size = 8 if next_header == 44 else 8 + 8 * ip[at + 1]
        next_header, at = ip[at], at + size
    if next_header not in {6, 17, 58} or not at < total <= len(ip):
        return False
    segment = ip[at:total]
    pseudo = ip[8:40] + len(segment).to_bytes(4, "big") + bytes(3) + bytes([next_header])
    return ones_sum(pseudo + segment) == 0xFFFF


def sane(rig: Rig, frame: bytes, port: str) -> tuple[str, str]:
    """Send it; what must hold of any frame."""
    verdict, reason, left, answered = rig.trial(frame, port)
    where = f"{frame.hex()} by {port}: {verdict}, {reason}"
    assert verdict in {"redirect", "drop", "pass", "keep"}, where
    assert reason not in {"core/jump", "core/helper"}, where
    assert (verdict == "drop") <= (reason != "core/none"), where
    if verdict == "pass":
        assert port == "uplink", where
        assert left == frame, where
    if verdict == "redirect":
        assert right(left) or not (answered or right(frame)), f"{where} -> {left.hex()}"
        if left[12:14] == ETHERTYPE and not answered:
            assert left[14:18] == frame[14:18], f"class and flow label: {where}"
    return verdict, reason


def of_length(length: int, source: str) -> bytes:
    """A frame with a datagram; where even that does not fit, with nothing in it."""
    header = IPv6(src=six(source), dst=six(B), fl=0x12345, nh=17 if length >= 62 else 59)
    header.plen = length - 54
    datagram = b"\0\1\0\2" + (length - 54).to_bytes(2, "big") + bytes(2)
    frame = bytes(12) + ETHERTYPE + bytes(header) + (datagram if length >= 62 else b"")
    return summed(frame.ljust(length, b"\0")) if length >= 62 else frame.ljust(length, b"\0")


def summed(frame: bytes) -> bytes:
    """With the sum of a datagram right behind the IP header put right."""
    blank = frame[:60] + bytes(2) + frame[62:]
    pseudo = blank[22:54] + (len(blank) - 54).to_bytes(4, "big") + bytes([0, 0, 0, 17])
    return (
        blank[:60]
        + (ones_sum(pseudo + blank[54:]) ^ 0xFFFF or 0xFFFF).to_bytes(2, "big")
        + blank[62:]
    )


@pytest.mark.parametrize("port", ENTRIES)
def test_every_length(busy: Rig, port: str) -> None:
    malformed = ("pass", "core/none") if port == "uplink" else ("drop", "core/malformed")
    whole = of_length(LONGEST, SOURCES[port])
    for length in range(54, LONGEST + 1):
        verdict, reason = sane(busy, of_length(length, SOURCES[port]), port)
        # larger than the overlay's MTU, its sender is told
        assert verdict == "redirect" or (port, reason) == ("uplink", "gate/closed"), length
        if length < LONGEST:
            assert sane(busy, whole[:length], port) == malformed, length


def extension(kind: int, following: int, rng: random.Random) -> bytes:
    """An extension header, now and then one that contradicts itself."""
    length = rng.choice([0, 0, 0, 1, 2, 5, 40, 255])
    body = bytearray(rng.randbytes(6) if rng.random() < 0.3 else bytes([1, 4, 0, 0, 0, 0]))
    if kind == 43:
        body[:2] = bytes([rng.choice([0, 2, 3, 4, 255]), rng.choice([0, 0, 1, 9])])
    if kind == 44:
        body[:2] = rng.choice([0, 1, 8, 9, 1480, 0xFFF9]).to_bytes(2, "big")
        return bytes([following, 0]) + bytes(body)
    return bytes([following, length]) + bytes(body) + bytes(8 * length)


def chained(packet: bytes, rng: random.Random) -> bytes:
    """An IPv6 packet with a chain of extension headers put behind its header."""
    following, chain = packet[6], b""
    for _ in range(rng.choice([1, 1, 2, 3, 5, 6, 8])):
        kind = rng.choice(HEADERS)
        chain = extension(kind, following, rng) + chain
        following = kind
    chain = chain[: max(8, 2_500 - len(packet))]  # what a trial run takes
    length = (len(packet) - 40 + len(chain)).to_bytes(2, "big")
    return packet[:4] + length + bytes([following]) + packet[7:40] + chain + packet[40:]


def damaged(frame: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, or an end cut off, or padded."""
    changed = bytearray(frame)
    for _ in range(rng.choice([1, 1, 2, 5])):
        changed[rng.randrange(14, min(len(changed), 120))] = rng.randrange(256)
    cut = changed[: rng.randrange(54, len(changed) + 1)] if rng.random() < 0.3 else changed
    return bytes(cut) + rng.randbytes(rng.choice([0, 0, 0, 6, 40]))


def conversations(port: str, rng: random.Random) -> Iterator[Packet]:
    """The twins of what may come over IPv4, but for its fragments."""
    for packet in conversations_of_four(port, rng):
        if not packet.frag and "MF" not in packet.flags:
            yield in_six(packet)


@pytest.mark.parametrize("port", ENTRIES)
def test_conversations_whole_damaged_and_behind_chains(busy: Rig, port: str) -> None:
    rng = random.Random(SEED)
    seen = set()
    for number in range(100):
        if number % 20 == 19:
            busy.age()
        for packet in conversations(port, rng):
            frame = bytes(busy.framed(packet, port))
            seen.add(sane(busy, frame, port))
            for _ in range(4):
                behind = frame[:14] + chained(frame[14:], rng)
                seen.add(sane(busy, behind, port))
                sane(busy, damaged(behind, rng), port)
                sane(busy, damaged(frame, rng), port)
    assert len(seen) > 5
    assert {"core/extensions", "core/source_route"} <= {reason for _, reason in seen}


@pytest.mark.parametrize("port", ENTRIES)
def test_noise(busy: Rig, port: str) -> None:
    rng = random.Random(SEED)
    for _ in range(600):
        source = six(SOURCES[port])
        addresses = IPv6Address(source).packed + IPv6Address(six(rng.choice(DESTINATIONS))).packed
        header = b"\x60" + rng.randbytes(3) + rng.randrange(0, 120).to_bytes(2, "big")
        following = rng.choice([0, 6, 17, 43, 44, 58, 60, 132, rng.randrange(256)])
        ip = header + bytes([following, 64]) + addresses + rng.randbytes(rng.randrange(120))
        ether = bytes(busy.framed(IPv6(src=six(A)), port))[:12]
        sane(busy, ether + ETHERTYPE + ip, port)
        sane(busy, ether + ETHERTYPE + rng.randbytes(rng.randrange(40, 200)), port)
