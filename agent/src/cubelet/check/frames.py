"""Frames for trial runs: whole, of every length, damaged, random. Every run makes the same ones."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address

from cubelet.testkit.network import TestNetwork
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC, pod_mac

SEED = 1978
LONGEST = 1518
SHORTEST_IP = 34
"""Bytes of an Ethernet and an IPv4 header: a trial run refuses a shorter IPv4 frame."""
_PORTS = (0, 53, 80, 8080, 30001, 65535)
_OTHERS = ("10.1.0.3", "10.1.0.1", "10.1.0.255", "10.96.0.1", "172.18.0.2", "192.0.2.9")
_UPSTREAM_MAC = "02:00:00:00:00:fe"


@dataclass(frozen=True)
class Entry:
    """Where frames enter: a port class, its device, and the addresses that send there."""

    port_class: str
    ifindex: int
    mac: str
    address: str


def entries(network: TestNetwork) -> tuple[Entry, ...]:
    """One for each port class."""
    local = network.local
    pod = network.ports["default/a"]
    return (
        Entry("pod", pod.ifindex, pod_mac(0), str(pod.addresses[0])),
        Entry("host", local.datapath_ifindex, GATEWAY_MAC, str(local.gateway)),
        Entry("overlay", local.overlay_ifindex, _UPSTREAM_MAC, "10.1.7.7"),
        Entry("uplink", local.uplink_ifindex, _UPSTREAM_MAC, "192.0.2.9"),
    )


def frames(entry: Entry) -> Iterator[bytes]:
    """A few thousand frames such as may arrive by an entry."""
    rng = random.Random(SEED)
    ethernet = _ethernet(entry.mac)
    for length in range(SHORTEST_IP, LONGEST + 1):
        whole = ethernet + packet(entry.address, _OTHERS[0], 17, _datagram(length - SHORTEST_IP))
        yield whole[:length].ljust(length, b"\0")
        yield (ethernet + packet(entry.address, _OTHERS[0], 6, _segment(rng, 1484)))[:length]
    for length in range(14, SHORTEST_IP):
        yield ethernet[:12] + b"\x08\x06" + bytes(length - 14)
    for _ in range(300):
        protocol = rng.choice([1, 6, 17, 132, rng.randrange(256)])
        payload = {
            6: _segment(rng, rng.randrange(60)),
            17: _datagram(8 + rng.randrange(60), rng),
        }.get(protocol, rng.randbytes(rng.randrange(4, 80)))
        whole = ethernet + packet(entry.address, rng.choice(_OTHERS), protocol, payload, rng)
        yield whole
        yield mended(_damaged(whole, rng))
        yield _damaged(whole, rng)
        yield rng.randbytes(rng.randrange(SHORTEST_IP, 200))


def packet(
    source: str, target: str, protocol: int, payload: bytes, rng: random.Random | None = None
) -> bytes:
    """An IPv4 packet with a right header; with ``rng`` its TOS, TTL and fragment vary."""
    tos, ttl, fragment = 0, 64, 0
    if rng is not None:
        tos, ttl = rng.randrange(256), rng.choice([0, 1, 2, 64, 255])
        fragment = rng.choice([0, 0, 0, 0x4000, 0x2000, 0x2001, 3])
    addresses = IPv4Address(source).packed + IPv4Address(target).packed
    header = (0x45, tos, 20 + len(payload), 7, fragment, ttl, protocol, 0)
    return mended(bytes(14) + struct.pack("!BBHHHBBH", *header) + addresses + payload)[14:]


def mended(frame: bytes) -> bytes:
    """The frame with a valid IPv4 header checksum, so that parsing does not end there."""
    length = (frame[14] & 15) * 4 if len(frame) > 14 else 0
    if length < 20 or len(frame) < 14 + length:
        return frame
    words = struct.unpack(f"!{length // 2}H", frame[14:24] + bytes(2) + frame[26 : 14 + length])
    total: int = sum(words)
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return frame[:24] + (total ^ 0xFFFF).to_bytes(2, "big") + frame[26:]


def _ethernet(source: str) -> bytes:
    target, sender = (bytes.fromhex(each.replace(":", "")) for each in (ROUTER_MAC, source))
    return target + sender + b"\x08\x00"


def _datagram(length: int, rng: random.Random | None = None) -> bytes:
    ports = (rng.choice(_PORTS), rng.choice(_PORTS)) if rng else (1000, 53)
    return struct.pack("!HHHH", *ports, max(length, 8), 0).ljust(length, b"x")


def _segment(rng: random.Random, length: int) -> bytes:
    flags = rng.choice([0x02, 0x12, 0x10, 0x18, 0x11, 0x04, 0])
    ports = (rng.choice(_PORTS), rng.choice(_PORTS))
    head = struct.pack("!HHIIBBHHH", *ports, 1, 1, 5 << 4, flags, 1000, 0, 0)
    return head + bytes(length)


def _damaged(frame: bytes, rng: random.Random) -> bytes:
    """Some bytes changed, an end cut off or something added; still longer than a header."""
    changed = bytearray(frame)
    for _ in range(rng.choice([1, 1, 2, 5])):
        changed[rng.randrange(14, min(len(changed), 80))] = rng.randrange(256)
    kept = rng.randrange(SHORTEST_IP, len(changed) + 1) if rng.random() < 0.3 else len(changed)
    return bytes(changed[:kept]) + rng.randbytes(rng.choice([0, 0, 6, 40]))
