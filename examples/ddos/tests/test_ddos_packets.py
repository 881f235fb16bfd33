"""Whole packets through real programs, both ways: needs root and BCC."""

from __future__ import annotations

import time
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from cubelet_ddos.cube import Ddos
from cubelet_ddos.records import Block, Bucket, Cause, Source
from cubelet_hooks.command import AgentError
from cubelet_hooks.objects import Custom, Node

from .early import NODE, STRANGER, WAYS, Uplink, frame

BOTS = "203.0.113.9"
SECOND = 1_000_000_000

Make = Callable[..., Uplink]


@pytest.fixture(params=WAYS)
def uplink(request: pytest.FixtureRequest, datapath: Callable[..., Any]) -> Make:
    return lambda **settings: Uplink(datapath, request.param, **settings)


def blocklist(name: str, *prefixes: str) -> Custom:
    return Custom("Blocklist", "", name, spec={"prefixes": prefixes})


def test_sources_in_the_setting_are_dropped_whatever_they_send(uplink: Make) -> None:
    up = uplink(block=["203.0.113.0/24", "192.0.2.1"])
    listed = [
        frame(BOTS),
        frame(BOTS, TCP(dport=80, flags="S")),
        frame(BOTS, TCP(dport=80, flags="A")),
        frame(BOTS, ICMP()),
        frame(BOTS, Raw(bytes(32)), proto=17, frag=8),
        frame(BOTS, options=b"\x01" * 8),
        frame(BOTS, Raw(b""), proto=47),
        frame(BOTS, Raw(b""), proto=6),
        frame("192.0.2.1"),
    ]
    assert [up.ask(each) for each in listed] == ["listed"] * len(listed)
    others = [
        frame("203.0.114.1"),
        frame("192.0.2.2"),
        frame(STRANGER),
        Ether() / ARP(psrc=BOTS, pdst=NODE),
    ]
    assert [up.ask(each) for each in others] == ["pass"] * len(others)


def test_other_ports_are_not_looked_at(datapath: Callable[..., Any]) -> None:
    dp = datapath(stacks={"uplink": [Ddos]}, settings={"ddos": {"block": ["0.0.0.0/0"]}})
    packet = Ether(src="02:00:00:00:01:00") / IP(src="10.1.0.2", dst=NODE) / UDP(dport=53)
    assert not dp.send(packet, enters="pod").reason.startswith("ddos/")


def test_blocklists_come_change_and_go_while_programs_stay(uplink: Make) -> None:
    up = uplink()
    programs = up.dp.programs
    assert up.ask(frame(BOTS)) == "pass"
    up.dp.apply(blocklist("bots", "203.0.113.0/24"), blocklist("more", "203.0.113.0/24"))
    assert up.ask(frame(BOTS)) == "listed"
    up.dp.apply(blocklist("bots", "203.0.113.0/29"))
    assert up.ask(frame(BOTS)) == "listed", "the other list names it"
    up.dp.delete(blocklist("more"))
    assert up.ask(frame(BOTS)) == "pass"
    assert up.ask(frame("203.0.113.7")) == "listed"
    up.dp.delete(blocklist("bots"))
    assert up.ask(frame("203.0.113.7")) == "pass"
    assert up.dp.programs is programs


def test_nothing_cuts_off_the_clusters_nodes(uplink: Make) -> None:
    up = uplink(block=["0.0.0.0/0"], allow=["198.51.100.0/28"])
    other = Node("node2", addresses=(ip_address("172.18.0.3"),))
    assert up.ask(frame("172.18.0.3")) == "listed"
    up.dp.apply(other)
    assert up.ask(frame("172.18.0.3")) == "pass"
    assert up.ask(frame(NODE)) == "pass"
    assert up.ask(frame(STRANGER)) == "pass", "the setting allows it"
    assert up.ask(frame("198.51.100.16")) == "listed"
    spared = {Cause(key.index): value.packets for key, value in up.read("spared").items()}
    assert spared == {Cause.LISTED: 3}
    up.dp.delete(other)
    assert up.ask(frame("172.18.0.3")) == "listed"
    # Its own it knows without a Node.
    up.dp.delete(Node("node1"))
    assert up.ask(frame(NODE)) == "pass"
    with pytest.raises(AgentError, match="an address of this node"):
        up.call("block", address=NODE, seconds=1)


def test_who_sends_too_much_is_dropped_for_a_time_and_others_are_not(uplink: Make) -> None:
    # So slow a rate that no packet's worth of time passes in the test.
    up = uplink(rate=1, burst=5, block_seconds=30)
    assert up.burst(BOTS, 7) == ["pass"] * 5 + ["rate"] * 2
    assert up.burst(STRANGER, 5) == ["pass"] * 5
    (held,) = up.read("blocked").items()
    assert (held[0].address, held[1].packets, held[1].cause) == (ip_address(BOTS), 2, Cause.RATE)
    left = held[1].until - time.monotonic_ns()
    assert 25 * SECOND < left <= 30 * SECOND
    assert [event.source for event in up.dp.events("ddos")] == [ip_address(BOTS)]


def test_without_a_rate_nobody_is_watched(uplink: Make) -> None:
    up = uplink()
    assert up.ask(frame(BOTS), repeat=1000) == "pass"
    assert not up.read("buckets")


def test_a_bucket_empties_at_the_rate(uplink: Make) -> None:
    up = uplink(rate=100, burst=10)
    assert up.ask(frame(BOTS), repeat=10) == "pass"
    time.sleep(0.07)
    # Seven packets' worth of time, and what the test itself takes.
    assert up.ask(frame(BOTS), repeat=6) == "pass"
    assert up.ask(frame(BOTS), repeat=1000) == "rate"


def test_allowed_sources_may_send_any_amount(uplink: Make) -> None:
    up = uplink(rate=1, allow=[STRANGER])
    assert up.ask(frame(STRANGER), repeat=5) == "pass"
    assert up.ask(frame(NODE), repeat=5) == "pass"
    assert not up.read("blocked")
    assert [packets.packets for packets in up.read("spared").values()] == [8]


@pytest.mark.parametrize("empty", [0, 1 << 50], ids=["long ago", "under another rate"])
def test_an_old_bucket_neither_locks_out_nor_saves_up(uplink: Make, empty: int) -> None:
    up = uplink(rate=1, burst=5)
    up.dp.put("ddos", "buckets", Source(ip_address(BOTS)), Bucket(empty))
    assert up.burst(BOTS, 6) == ["pass"] * 5 + ["rate"]


def test_a_block_ends_with_its_time_and_is_gone(uplink: Make) -> None:
    up = uplink(rate=1, burst=2)
    key = Source(ip_address(BOTS))
    up.dp.put("ddos", "blocked", key, Block(time.monotonic_ns() + SECOND // 5, 0, Cause.RATE))
    assert up.ask(frame(BOTS)) == "rate"
    time.sleep(0.25)
    assert up.call("list") == []
    assert up.ask(frame(BOTS)) == "pass"
    assert key not in up.read("blocked")


def test_operators_block_for_a_time_and_unblock(uplink: Make) -> None:
    up = uplink()
    assert up.call("block", address=BOTS, seconds=60) == {"source": BOTS, "seconds": 60}
    assert [up.ask(frame(BOTS)), up.ask(frame("203.0.113.10"))] == ["blocked", "pass"]
    assert up.call("list") == [{"source": BOTS, "cause": "operator", "seconds": 60, "packets": 1}]
    up.call("unblock", address=BOTS)
    assert up.ask(frame(BOTS)) == "pass"
    assert up.call("list") == []
    up.call("block", address=BOTS, seconds=1)
    assert up.ask(frame(BOTS)) == "blocked"
    time.sleep(1.02)
    assert up.ask(frame(BOTS)) == "pass"


def test_who_is_unblocked_may_send_again(uplink: Make) -> None:
    up = uplink(rate=1, burst=2)
    assert up.burst(BOTS, 3) == ["pass", "pass", "rate"]
    up.call("unblock", address=BOTS)
    assert up.burst(BOTS, 3) == ["pass", "pass", "rate"]


@pytest.mark.parametrize(
    ("method", "params", "message", "details"),
    [
        ("block", {"address": NODE, "seconds": 1}, "an address of node node1", "172.18.0.2/32"),
        ("block", {"address": "192.0.2.1", "seconds": 1}, "in the setting allow", "192.0.2.0/24"),
        ("block", {"address": "203.0.113.0/24", "seconds": 1}, "is no address", "Blocklist"),
        ("block", {"address": BOTS, "seconds": 0}, "--seconds 0: from 1 to", "Blocklist"),
        ("block", {"address": BOTS}, "--seconds None", "Blocklist"),
        ("block", {"address": "2001:db8::1", "seconds": 1}, "IPv6", "IPv4"),
        ("unblock", {"address": BOTS}, f"{BOTS} is not blocked for a time", "it is in: bots"),
        ("unblock", {"address": STRANGER}, "is not blocked for a time", "cubelet ddos list"),
        ("shout", {}, "no method", ""),
    ],
)
def test_what_an_operator_got_wrong_is_told(datapath, method, params, message, details) -> None:
    up = Uplink(datapath, "fused", allow=["192.0.2.0/24"])
    up.dp.apply(blocklist("bots", "203.0.113.0/24"))
    with pytest.raises(AgentError) as caught:
        up.call(method, **params)
    assert message in caught.value.message
    assert details in caught.value.details
    assert up.call("list") == []
