"""Whatever arrives: one of the known answers, a reason for each drop, no checksum made wrong."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from scapy.layers.inet import ICMP, IP, IPOption_RR, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from .cubes import Way
from .rig import GATEWAY, NODE, OUTSIDE, REMOTE, VIP, A, B, C, Rig
from .shapes import SHAPES, Ends, echo, tcp, udp

ENTRIES = ("a", "host", "overlay", "uplink")
SOURCES = {"a": A, "host": GATEWAY, "overlay": REMOTE, "uplink": OUTSIDE}
DESTINATIONS = (B, C, VIP, NODE, GATEWAY, REMOTE, OUTSIDE, A, "255.255.255.255")
PORTS = (0, 80, 8080, 20005, 30001, 4789)
SEED = 20250
LONGEST = 1518


@pytest.fixture
def busy(rig: Rig) -> Rig:
    return configured(rig)


def configured(rig: Rig) -> Rig:
    """With much of everything, so that packets find their way into every corner."""
    rig.vip(VIP, 80, B, 8080)
    rig.vip(NODE, 30001, A, 80)
    rig.vip(VIP, 0, B, 0)
    rig.masquerade(A, "uplink", NODE)
    rig.masquerade(REMOTE, "pod", GATEWAY)
    rig.close_gate(A, C, Way.REFUSE)
    rig.close_gate(OUTSIDE, B, Way.REJECT)
    rig.close_gate(GATEWAY, C, Way.DROP)
    return rig


def ones_sum(data: bytes) -> int:
    """Folded one's complement sum; 0xffff where a right checksum is included."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total


def right(frame: bytes) -> tuple[bool, bool]:
    """Are the IP header's and the transport's checksums right? The latter of whole packets only."""
    ip = frame[14:]
    if frame[12:14] != b"\x08\x00" or len(ip) < 20 or ip[0] >> 4 != 4:
        return False, False
    length, total = (ip[0] & 15) * 4, int.from_bytes(ip[2:4], "big")
    header = length >= 20 and len(ip) >= length and ones_sum(ip[:length]) == 0xFFFF
    if int.from_bytes(ip[6:8], "big") & 0x3FFF or not length <= total <= len(ip):
        return header, False
    segment, protocol = ip[length:total], ip[9]
    if protocol == 1:
        return header, ones_sum(segment) == 0xFFFF
    if protocol == 17 and segment[6:8] == b"\0\0":
        return header, True
    pseudo = ip[12:20] + bytes([0, protocol]) + len(segment).to_bytes(2, "big")
    return header, protocol in {6, 17} and ones_sum(pseudo + segment) == 0xFFFF


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
        before, after = right(frame), right(left)
        kept = all(a or not b for b, a in zip(before, after, strict=True))
        assert all(after) if answered else kept, f"{where} -> {left.hex()}"
    return verdict, reason


def of_length(length: int, source: str) -> bytes:
    """A frame with an unchecked datagram; where even that does not fit, with nothing in it."""
    addresses = IPv4Address(source).packed + IPv4Address(B).packed
    protocol = 17 if length >= 42 else 99
    ip = struct.pack("!BBHHHBBH8s", 0x45, 0, length - 14, 5, 0, 64, protocol, 0, addresses)
    datagram = struct.pack("!HHHH", 1, 2, length - 34, 0) if protocol == 17 else b""
    return mended((bytes(12) + b"\x08\x00" + ip + datagram).ljust(length, b"\0"))


@pytest.mark.parametrize("port", ENTRIES)
def test_every_length(fused: Rig, port: str) -> None:
    """However cubes are joined, the entries are the same."""
    busy = configured(fused)
    whole = bytes(busy.framed(tcp(Ends(SOURCES[port], 1, B, 2, "S"), bytes(LONGEST - 54)), port))
    assert len(whole) == LONGEST
    for length in range(34, LONGEST + 1):
        verdict, reason = sane(busy, of_length(length, SOURCES[port]), port)
        # larger than the MTU, it may be fragmented
        assert verdict == "redirect" or (port, reason) == ("uplink", "gate/closed"), length
        if length < LONGEST:
            malformed = ("pass", "core/none") if port == "uplink" else ("drop", "core/malformed")
            assert sane(busy, whole[:length], port) == malformed, length


@pytest.mark.parametrize("port", ENTRIES)
@pytest.mark.parametrize("ethertype", [0x0806, 0x88CC, 0x8100, 0x0026])
def test_frames_too_short_for_ip(busy: Rig, port: str, ethertype: int) -> None:
    """Of protocols other than IP, since the kernel tries no IP packet without its header."""
    for length in range(14, 34):
        frame = (bytes(Ether(src=bytes(6), dst=bytes(6), type=ethertype)) + bytes(20))[:length]
        verdict, reason = sane(busy, frame, port)
        if port == "uplink":
            assert verdict == "pass"
        else:
            expected = "core/unsupported" if port == "overlay" else "core/no_path"
            assert (verdict, reason) == ("drop", expected)


def conversations(port: str, rng: random.Random) -> Iterator[Packet]:
    """Packets as they may really come by the port."""
    ends = Ends(
        SOURCES[port],
        rng.choice(PORTS),
        rng.choice(DESTINATIONS),
        rng.choice(PORTS),
        rng.choice(["S", "SA", "A", "PA", "FA", "R", "RA", ""]),
        rng.random() < 0.5,
    )
    packet = rng.choice(list(SHAPES.values()))(ends)
    packet.ttl = rng.choice([0, 1, 2, 64, 255])
    packet.flags = rng.choice(["", "DF"])
    yield packet
    other = Ends(ends.dst, ends.dport, ends.src, ends.sport, "A")
    quoted = bytes(rng.choice([tcp, udp, echo])(other))
    error = ICMP(type=rng.choice([3, 4, 5, 11, 12]), code=rng.randrange(5))
    yield IP(src=ends.src, dst=ends.dst) / error / Raw(quoted[: rng.randrange(len(quoted) + 1)])
    options = [IPOption_RR(length=rng.choice([7, 11, 39]))]
    yield IP(src=ends.src, dst=ends.dst, options=options) / rng.randbytes(rng.randrange(60))
    parts = fragment(IP(bytes(udp(ends, rng.randbytes(700)))), 256)
    yield from rng.sample(parts, len(parts))


def damaged(frame: bytes, rng: random.Random) -> bytes:
    """Some bytes of the headers changed, or an end cut off, or padded."""
    changed = bytearray(frame)
    for _ in range(rng.choice([1, 1, 2, 5])):
        changed[rng.randrange(14, min(len(changed), 80))] = rng.randrange(256)
    cut = changed[: rng.randrange(34, len(changed) + 1)] if rng.random() < 0.3 else changed
    return bytes(cut) + rng.randbytes(rng.choice([0, 0, 0, 6, 40]))


@pytest.mark.parametrize("port", ENTRIES)
def test_conversations_whole_and_damaged(busy: Rig, port: str) -> None:
    rng = random.Random(SEED)
    seen = set()
    for number in range(100):
        if number % 20 == 19:
            busy.age()
        for packet in conversations(port, rng):
            frame = bytes(busy.framed(packet, port))
            seen.add(sane(busy, frame, port))
            for _ in range(2):
                broken = damaged(frame, rng)
                sane(busy, broken, port)
                sane(busy, mended(broken), port)
    assert len(seen) > 3


def mended(frame: bytes) -> bytes:
    """With the IP header's checksum right again, so that more of it is believed."""
    length = (frame[14] & 15) * 4
    if len(frame) < 14 + max(length, 20) or length < 20:
        return frame
    blank = frame[14:24] + bytes(2) + frame[26 : 14 + length]
    total = ones_sum(blank) ^ 0xFFFF
    return frame[:24] + total.to_bytes(2, "big") + frame[26:]


@pytest.mark.parametrize("port", ENTRIES)
def test_noise(busy: Rig, port: str) -> None:
    rng = random.Random(SEED)
    for _ in range(400):
        sane(busy, rng.randbytes(rng.randrange(15, 200)), port)
        addresses = IP(src=SOURCES[port], dst=rng.choice(DESTINATIONS))
        noise = bytes(addresses)[12:20]
        header = b"\x45" + rng.randbytes(1) + rng.randrange(20, 80).to_bytes(2, "big")
        protocol = rng.choice([1, 6, 17, 132, rng.randrange(256)])
        middle = rng.randbytes(2) + rng.choice([0, 0x4000, 0x2000, 3]).to_bytes(2, "big")
        ip = header + middle + bytes([64, protocol, 0, 0]) + noise + rng.randbytes(60)
        frame = bytes(busy.framed(Raw(), port))[:12] + b"\x08\x00" + ip
        sane(busy, mended(frame), port)
