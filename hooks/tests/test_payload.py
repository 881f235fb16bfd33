"""What cubes read of a packet's payload, by real programs (needs root)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.layers.sctp import SCTP
from scapy.packet import Raw

from cubelet.testkit.datapath import Datapath
from cubelet_hooks.cube import Cube, Settings
from cubelet_hooks.records import U32, Length, Record

MOST = 128
TEXT = bytes(range(1, 201))
Make = Callable[..., Datapath]


class Seen(Record):
    """How many bytes were read, and which."""

    many: U32
    seen: Annotated[bytes, Length(MOST)]


class PeekSettings(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """From where on it reads."""

    offset: int = 0


class Peek(Cube):
    """Tells what it reads."""

    kind = "peek"
    per_packet = frozenset({"pod"})
    event = Seen
    settings_type = PeekSettings

    @classmethod
    def source(cls) -> Path:
        """Beside the tests."""
        return Path(__file__).parent / "bpf" / "peek.bpf.c"

    def defines(self, view: object) -> dict[str, int]:
        """Where it begins."""
        return {"OFFSET": self.settings.offset}


def frame(l4: Any, **ip: Any) -> Any:
    packet = Ether(src="02:00:00:00:01:00", dst="02:00:00:00:00:01")
    return packet / IP(src="10.1.0.2", dst="10.1.0.5", **ip) / l4


def read(dp: Datapath, packet: Any) -> bytes:
    """What was read of a packet; what was not is zero."""
    assert dp.send(packet).verdict == "redirect"
    (seen,) = dp.events("peek")
    assert not any(seen.seen[seen.many :])
    return bytes(seen.seen[: seen.many])


def udp(many: int) -> Any:
    return frame(UDP(sport=1000, dport=53) / Raw(TEXT[:many]))


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_as_much_as_there_is_is_read(datapath: Make, mode: str) -> None:
    dp = datapath(stacks={"pod": [Peek]}, mode=mode)
    for many in (0, 1, 64, MOST - 1, MOST, MOST + 1, 200):
        assert read(dp, udp(many)) == TEXT[: min(many, MOST)], many
    options = [("MSS", 1460), ("NOP", None), ("WScale", 7)]
    heads = (TCP(sport=1, dport=2, flags="S"), TCP(sport=1, dport=3, flags="S", options=options))
    for head in (*heads, ICMP(id=7), SCTP(sport=1, dport=2)):
        body = TEXT[:9] if not isinstance(head, SCTP) else TEXT[:12]
        assert read(dp, frame(head / Raw(body))) == body, head


def test_padding_of_short_frames_is_no_payload(datapath: Make) -> None:
    dp = datapath(stacks={"pod": [Peek]})
    assert read(dp, Ether(bytes(udp(3)) + b"\xff" * 15)) == TEXT[:3]


def test_a_first_fragment_has_its_own_and_later_ones_nothing(datapath: Make) -> None:
    dp = datapath(stacks={"pod": [Peek]})
    first, later = fragment(udp(100), 64)
    assert read(dp, first) == TEXT[:56]
    assert read(dp, later) == b""


def test_a_header_that_claims_too_much_has_no_payload(datapath: Make) -> None:
    dp = datapath(stacks={"pod": [Peek]})
    head = TCP(sport=1, dport=2, flags="S", dataofs=15)
    assert dp.send(frame(head / Raw(TEXT[:9]))).verdict != "pass"
    assert all(not each.many for each in dp.events("peek"))


@pytest.mark.parametrize(
    ("offset", "wanted"), [(12, TEXT[12:50]), (49, TEXT[49:50]), (50, b""), (1 << 31, b"")]
)
def test_it_begins_where_it_is_told_to(datapath: Make, offset: int, wanted: bytes) -> None:
    dp = datapath(stacks={"pod": [Peek]}, settings={"peek": {"offset": offset}})
    assert read(dp, udp(50)) == wanted
