"""IP options: carried, unless they name the routers to pass."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, UDP, IPOption, fragment
from scapy.packet import Packet, Raw

from .rig import OUTSIDE, REMOTE, A, B, Rig, arrives, kept
from .shapes import Ends, Peer, direct, hopped, udp

CLIENT, SERVER = Peer("a", A, 1000), Peer("b", B, 8080)
ENDS = CLIENT.to(SERVER)
ROUTE = b"\x07\x04" + bytes([192, 0, 2, 77])
"""An option's length, pointer and one router."""


def optioned(options: bytes, ends: Ends = ENDS, size: int = 10) -> Packet:
    """A datagram with these bytes of options, filled up with ends of the list."""
    padded = options + bytes(-len(options) % 4)
    packet = IP(
        src=ends.src, dst=ends.dst, id=5, options=[IPOption(padded)], ihl=5 + len(padded) // 4
    )
    return packet / UDP(sport=ends.sport, dport=ends.dport) / Raw(bytes(size))


ROUTED = {
    "loose": b"\x83" + ROUTE,
    "strict": b"\x89" + ROUTE,
    "after fillers": bytes([1] * 33) + b"\x83" + ROUTE[:6],
    "after another": b"\x44\x04\x05\x00" + b"\x89" + ROUTE,
    "alone": bytes([1] * 39) + b"\x83",
}
routed = pytest.mark.parametrize("options", ROUTED.values(), ids=ROUTED.keys())


@routed
@pytest.mark.parametrize("known", [False, True], ids=["first packet", "established"])
@pytest.mark.parametrize("port", ["a", "host", "overlay", "uplink"])
def test_the_sender_does_not_choose_the_way(
    rig: Rig, options: bytes, known: bool, port: str
) -> None:
    source = {"a": A, "host": "10.1.0.1", "overlay": REMOTE, "uplink": OUTSIDE}[port]
    client = Peer(port, source, 1000)
    if known:
        direct(client, SERVER, udp).established(rig)
    before = rig.dp.flows()
    kept(rig.send(optioned(options, client.to(SERVER)), port), "core/source_route")
    assert rig.dp.flows() == before


@routed
def test_nor_for_fragments(fused: Rig, options: bytes) -> None:
    for part in fragment(IP(bytes(optioned(options, size=200))), 64):
        raw = IP(bytes(part))
        kept(fused.send(raw), "core/source_route")


@pytest.mark.parametrize(
    "options",
    [b"\x07\x00", b"\x07\x01\x04\x00", b"\x5e\x09\x04", bytes([1] * 39) + b"\x07"],
    ids=["no length", "too short", "too long", "cut off"],
)
def test_options_that_contradict_themselves(rig: Rig, options: bytes) -> None:
    kept(rig.send(optioned(options)), "core/malformed")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(b"\x94\x04\x00\x00", id="router alert"),
        pytest.param(b"\x07\x07\x04" + bytes(4), id="record route"),
        pytest.param(b"\x01\x01\x01\x00\x83\x07\x04\x00", id="behind the end of the list"),
        pytest.param(bytes([1] * 40), id="fillers"),
    ],
)
def test_others_pass(rig: Rig, options: bytes) -> None:
    for _ in range(3):
        sent = optioned(options)
        arrives(rig.send(sent), "b", hopped(sent))


@pytest.mark.parametrize(("version", "ihl"), [(6, 5), (0, 5), (5, 5), (15, 5), (4, 0), (4, 4)])
def test_what_is_no_ip_header(rig: Rig, version: int, ihl: int) -> None:
    raw = bytearray(bytes(udp(CLIENT.to(SERVER))))
    raw[0] = version << 4 | ihl
    frame = rig.framed(Raw(bytes(raw)), "a")
    frame.type = 0x0800
    kept(rig.send(frame), "core/malformed")


def test_a_header_longer_than_its_packet(rig: Rig) -> None:
    raw = bytearray(bytes(udp(CLIENT.to(SERVER), b"")))
    raw[0] = 0x4F
    frame = rig.framed(Raw(bytes(raw)), "a")
    frame.type = 0x0800
    kept(rig.send(frame), "core/malformed")
