"""What a cube's C tells its Python: events, and whole packets."""

from __future__ import annotations

import os
import time
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from cubelet.bpf.testrun import skb_context
from cubelet.composer.ends import Rate as Filled
from cubelet_hooks.context import Packet
from cubelet_hooks.cube import Cube, Settings
from cubelet_hooks.flows import Index
from cubelet_hooks.records import U32, Addr, Be16, Record

ROUTER = "02:00:00:00:00:01"


class Opened(Record):
    """A flow that was opened: by whom, to which port, where it entered."""

    source: Addr
    port: Be16
    ifindex: U32


class HeraldSettings(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rate: int = 1_000
    packets: int = 100
    waiting: int = 65_536


class Herald(Cube):
    """Tells of each flow; packets to port 9 go to Python."""

    kind = "herald"
    inward = frozenset({"pod", "host"})
    event = Opened
    events_per_second = "rate"
    event_bytes = 4_096
    punts = True
    packets_per_second = "packets"
    packet_bytes = "waiting"
    settings_type = HeraldSettings

    @classmethod
    def source(cls) -> Path:
        return Path(__file__).parent / "bpf" / "herald.bpf.c"

    def defines(self, view):
        return {"PORT": 9}

    def on_packet(self, packet, context):
        context.send(packet.frame[::-1], packet.ifindex)


def frame(sport=1000, dport=53, size=0):
    packet = Ether(src="02:00:00:00:01:00", dst=ROUTER) / IP(src="10.1.0.2", dst="10.1.0.5")
    return packet / UDP(sport=sport, dport=dport) / Raw(bytes(i % 251 for i in range(size)))


def lost(dp, cube="herald", name="event_lost"):
    (found,) = dp.table(cube, name).values()
    return found.lost


class Rate:
    """How many of so many a second may have passed: those at once, and those since."""

    def __init__(self, limit):
        self.limit, self.began = limit, time.monotonic()

    def allows(self, passed):
        return self.limit <= passed <= self.limit * (1 + time.monotonic() - self.began) + 1


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_events_come_in_order_and_once(datapath, mode):
    dp = datapath(stacks={"pod": [Herald]}, mode=mode)
    for sport in (1, 2, 3):
        assert dp.send(frame(sport, dport=100 + sport)).verdict == "redirect"
    pod = dp.network.ports["default/a"].ifindex
    told = [Opened(IPv4Address("10.1.0.2"), 100 + n, pod) for n in (1, 2, 3)]
    assert dp.events("herald") == told
    assert dp.events("herald") == []
    dp.send(frame(3, dport=103))  # a known flow is not judged again
    assert dp.events("herald") == []


def test_events_over_the_rate_are_counted_as_lost(datapath):
    dp = datapath(stacks={"pod": [Herald]}, settings={"herald": {"rate": 3}})
    rate = Rate(3)
    for sport in range(20):
        assert dp.send(frame(1000 + sport)).verdict == "redirect"
    told = len(dp.events("herald"))
    assert rate.allows(told)
    assert told + lost(dp) == 20
    time.sleep(1.05)  # the bucket is full again, and no fuller
    rate = Rate(3)
    for sport in range(20):
        dp.send(frame(2000 + sport))
    again = len(dp.events("herald"))
    assert rate.allows(again)
    assert told + again + lost(dp) == 40


def test_a_rate_is_the_nodes_whatever_cpu_sends(datapath):
    """One CPU uses up what another one then lacks."""
    cpus = sorted(os.sched_getaffinity(0))
    dp = datapath(stacks={"pod": [Herald]}, settings={"herald": {"rate": 4}})
    rate, entry = Rate(4), dp.programs.entries["pod"]
    context = skb_context(ifindex=dp.network.ports["default/a"].ifindex)
    try:
        for sport in range(12 * len(cpus)):
            os.sched_setaffinity(0, {cpus[sport % len(cpus)]})
            entry.test_run(bytes(frame(1000 + sport)), 1, context)
    finally:
        os.sched_setaffinity(0, cpus)
    assert rate.allows(len(dp.events("herald")))


def test_a_rate_of_zero_lets_nothing_pass(datapath):
    dp = datapath(stacks={"pod": [Herald]}, settings={"herald": {"rate": 0}})
    for sport in range(3):
        dp.send(frame(1000 + sport))
    assert dp.events("herald") == []
    assert lost(dp) == 3


def test_a_bucket_that_was_filled_under_another_rate_is_begun_anew(datapath):
    dp = datapath(stacks={"pod": [Herald]}, settings={"herald": {"rate": 3}})
    dp.put("herald", "event_rate", Index(0), Filled((1 << 64) - 5))
    dp.send(frame(1))
    dp.put("herald", "event_rate", Index(0), Filled(1 << 62))
    dp.send(frame(2))
    assert len(dp.events("herald")) == 2


def test_events_for_which_there_is_no_room_are_counted_as_lost(datapath):
    dp = datapath(stacks={"pod": [Herald]}, settings={"herald": {"rate": 100_000}})
    for sport in range(200):
        dp.send(frame(1000 + sport))
    told = len(dp.events("herald"))
    assert 0 < told < 200  # 24 bytes each, in a ring of a page
    assert told + lost(dp) == 200


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
@pytest.mark.parametrize("size", [0, 1, 1000, 2048 - 42])
def test_a_packet_is_handed_over_whole(datapath, mode, size):
    dp = datapath(stacks={"pod": [Herald]}, mode=mode)
    sent = frame(dport=9, size=size)
    result = dp.send(sent)
    assert (result.verdict, result.reason, result.hop) == ("punt", "core/none", None)
    pod = dp.network.ports["default/a"].ifindex
    assert dp.punted("herald") == [Packet(bytes(sent), "pod", pod, "herald0")]
    assert dp.punted("herald") == []
    assert not dp.flows()
    assert dp.events("herald") == []
    assert all(not drops.packets for drops in dp.table("cubelet", "drops").values())


def test_where_a_packet_entered_is_told(datapath):
    dp = datapath(stacks={"host": [Herald]})
    own = Ether(src="02:00:00:00:00:02", dst=ROUTER) / IP(src="172.18.0.2", dst="10.1.0.5")
    assert dp.send(own / UDP(sport=1, dport=9), enters="host").verdict == "punt"
    (packet,) = dp.punted("herald")
    assert (packet.port_class, packet.ifindex) == ("host", dp.network.local.datapath_ifindex)


def test_a_frame_that_is_too_long_is_dropped_for_that(datapath):
    dp = datapath(stacks={"pod": [Herald]})
    result = dp.send(frame(dport=9, size=2048 - 41))
    assert (result.verdict, result.reason) == ("drop", "core/punt_too_long")
    assert dp.punted("herald") == []


def test_packets_over_the_rate_are_dropped_for_that(datapath):
    dp = datapath(stacks={"pod": [Herald]}, settings={"herald": {"packets": 2}})
    rate = Rate(2)
    reasons = [dp.send(frame(dport=9)).reason for _ in range(12)]
    assert reasons[:2] == ["core/none", "core/none"]
    passed = reasons.count("core/none")
    assert rate.allows(passed)
    assert reasons.count("core/rate_limited") == 12 - passed
    assert len(dp.punted("herald")) == passed
    assert lost(dp, name="packet_lost") == 12 - passed
    time.sleep(1.05)
    assert dp.send(frame(dport=9)).verdict == "punt"


def test_packets_for_which_there_is_no_room_are_dropped(datapath):
    dp = datapath(stacks={"pod": [Herald]}, settings={"herald": {"waiting": 5_000}})
    verdicts = [dp.send(frame(dport=9)).verdict for _ in range(6)]
    # The ring has a power of two of bytes, 8,192 here, of which a packet takes 2,064.
    assert verdicts == ["punt"] * 3 + ["drop"] * 3
    assert len(dp.punted("herald")) == 3
    assert lost(dp, name="packet_lost") == 3


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_two_instances_of_a_kind_tell_for_themselves(datapath, mode):
    dp = datapath(
        stacks={"pod": [Herald, "herald1"]},
        settings={"herald": {}, "herald1": {"rate": 0}},
        mode=mode,
    )
    dp.send(frame())
    assert (len(dp.events("herald")), lost(dp)) == (1, 0)
    assert (len(dp.events("herald1")), lost(dp, "herald1")) == (0, 1)
    dp.send(frame(dport=9))
    assert [len(dp.punted(each)) for each in ("herald", "herald1")] == [1, 0]


def test_callbacks_can_be_tried_on_what_programs_told(datapath):
    dp = datapath(stacks={"pod": [Herald]})
    dp.send(frame(dport=9))
    (packet,) = dp.punted("herald")
    context = dp.context("herald")
    dp.composition.cubes[0].on_packet(packet, context)
    assert dp.sent == [(packet.frame[::-1], packet.ifindex)]
    assert context.view is dp.state
    assert dp.context("herald") is context
