"""Cubes that see every packet of a flow, not only the one that is judged."""

from __future__ import annotations

from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from cubelet_hooks.cube import Cube, Reason
from cubelet_hooks.flows import Index
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import U64, Record


class Tally(Record):
    """How many packets the meter has seen."""

    packets: U64


class Meter(Cube):
    """Counts what enters or leaves by pods."""

    kind = "meter"
    per_packet = frozenset({"pod"})
    reasons = (Reason("too_long", "a packet above the limit"),)
    maps = (Map("seen", MapType.ARRAY, Index, Tally, 1, planned=False),)

    @classmethod
    def source(cls) -> Path:
        return Path(__file__).parent / "bpf" / "meter.bpf.c"

    def defines(self, view):
        return {"LIMIT": 500}


def frame(size=100, sport=1000):
    packet = Ether(src="02:00:00:00:01:00", dst="02:00:00:00:00:01")
    return packet / IP(src="10.1.0.2", dst="10.1.0.5") / UDP(sport=sport) / Raw(bytes(size))


ANSWER = (
    Ether(src="02:00:00:00:ff:01", dst="02:00:00:00:00:01")
    / IP(src="10.1.0.5", dst="10.1.0.2")
    / UDP(sport=53, dport=1000)
)


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_it_sees_first_later_and_established_packets_of_both_directions(datapath, mode):
    dp = datapath(stacks={"pod": [Meter]}, mode=mode)
    for packet, pod in [(frame(), "default/a"), (ANSWER, "default/d")] * 3:
        assert dp.send(packet, pod=pod).verdict == "redirect"
    assert dp.table("meter", "seen")[Index(index=0)] == Tally(packets=6)


def test_it_drops_one_packet_without_ending_the_flow(datapath):
    dp = datapath(stacks={"pod": [Meter]})
    for packet, pod in [(frame(), "default/a"), (ANSWER, "default/d"), (frame(), "default/a")]:
        dp.send(packet, pod=pod)
    assert dp.send(frame(1000)).reason == "meter/too_long"
    assert dp.send(frame()).verdict == "redirect"


def test_it_stands_only_where_it_is_put(datapath):
    dp = datapath(settings={"outlet": {"leaves": "uplink"}}, stacks={"pod": [Meter]})
    dp.send(frame(sport=7), enters="host")
    assert dp.table("meter", "seen")[Index(index=0)] == Tally(packets=0)
