"""Copies of packets that cubes describe, by real programs (needs root)."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address

import pytest
from msgspec import structs
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from cubelet_hooks.cube import Cube, Reason
from cubelet_hooks.flows import Count, Counter, Index, Tuple
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import U32, Record

ROUTER = "02:00:00:00:00:01"
SENDER, RECEIVER = ip_address("10.1.0.2"), ip_address("10.1.0.5")
LIMIT = {"core": {"mirrored_per_second": 5}}


class Fields(Record):
    """How many targets found no room."""

    left_out: U32


class Spy(Cube):
    """Copies all that pods send to the ports in its map."""

    kind = "spy"
    inward = per_packet = frozenset({"pod"})
    mirrors = True
    flow_fields = Fields
    reasons = (Reason("refused", "of no interest"),)
    maps = (Map("targets", MapType.ARRAY, Index, Count, 5, planned=False),)


class Deaf(Spy):
    """Calls what it has not asked for."""

    mirrors = False


def packet(port=80, data=b"", **fields):
    ip = IP(src=str(SENDER), dst=str(RECEIVER), **fields)
    return Ether(src="02:00:00:00:01:00", dst=ROUTER) / ip / UDP(sport=4000, dport=port) / Raw(data)


@pytest.fixture
def made(datapath):
    """Makes a datapath that copies to these ports."""

    def make(*targets, mode="fused", settings=None, stacks=None):
        dp = datapath(stacks=stacks or {"pod": [Spy]}, mode=mode, settings=settings)
        for number, target in enumerate(targets):
            ports = dp.network.ports
            port = target if isinstance(target, int) else ports[f"default/{target}"].ifindex
            dp.put("spy", "targets", Index(number), Count(port))
        return dp

    return make


def counts(dp):
    """Copies sent, and not sent."""
    spec = dp.maps["cubelet_mirrored"]
    each = Counter.layout().size
    found = []
    for slot in range(2):
        raw = spec.lookup(Index(slot).pack())
        cpus = (Counter.unpack(raw[at : at + each]) for at in range(0, len(raw), each))
        found.append(sum(one.packets for one in cpus))
    return found


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_a_flow_has_four_copies_at_most_and_each_pod_one(made, mode):
    dp = made("b", "b", "c", 4_000, 4_001, mode=mode)
    dp.put("spy", "targets", Index(1), Count(4_002))
    with ExitStack() as stack:
        collectors = [stack.enter_context(dp.collector(f"default/{name}")) for name in "bcd"]
        assert dp.send(packet()).verdict == "redirect"
        assert [len(each.frames()) for each in collectors] == [1, 1, 0]
    key = Tuple(SENDER, RECEIVER, 4000, 80, 17)
    assert dp.fields("spy", key).left_out == 1
    assert counts(dp) == [2, 2], "what is no pod's port gets nothing"


def test_a_target_named_twice_gets_one_copy(made):
    dp = made("b", "b")
    with dp.collector("default/b") as collector:
        dp.send(packet())
        assert len(collector.frames()) == 1


def test_what_is_no_pods_port_gets_no_copy(made):
    """The host, the uplink and the overlay have devices, too."""
    local = made().network.local
    others = (local.gateway_ifindex, local.uplink_ifindex, local.overlay_ifindex)
    dp = made(*others)
    dp.send(packet())
    assert counts(dp) == [0, 3]


def test_what_is_dropped_is_not_copied(made):
    dp = made("b")
    with dp.collector("default/b") as collector:
        assert [dp.send(packet(port)).reason for port in (81, 82)] == ["spy/refused"] * 2
        big = packet(data=bytes(1600), flags="DF")
        assert dp.send(big).reason == "core/too_big"
        assert dp.send(packet(ttl=1)).reason == "core/ttl"
        assert collector.frames() == []


def test_the_node_makes_so_many_copies_in_a_second(made):
    dp = made("b", settings=LIMIT)
    with dp.collector("default/b") as collector:
        results = [dp.send(packet()).verdict for _ in range(20)]
        assert results == ["redirect"] * 20, "no packet pays for its copy"
        copied = len(collector.frames())
    assert 5 <= copied <= 7
    assert counts(dp) == [copied, 20 - copied]


def test_later_fragments_are_copied_with_their_first(made):
    dp = made("b")
    with dp.collector("default/b") as collector:
        whole = packet(data=bytes(1000))
        first, later = whole.copy(), whole.copy()
        payload = bytes(whole[IP].payload)
        for part, offset, more in ((first, 0, "MF"), (later, 64, 0)):
            part[IP].remove_payload()
            part[IP].flags, part[IP].frag, part[IP].id = more, offset, 77
        first, later = first / Raw(payload[:512]), later / Raw(payload[512:])
        first[IP].proto = later[IP].proto = 17
        assert [dp.send(each).verdict for each in (first, later)] == ["redirect"] * 2
        assert [each[IP].frag for each in collector.frames()] == [0, 64]


def test_targets_of_an_earlier_judging_count_for_nothing(made):
    """As records have them that no cube has judged since it was composed in once more."""
    dp = made("b")
    key = Tuple(SENDER, RECEIVER, 4000, 80, 17)
    with dp.collector("default/b") as collector:
        dp.send(packet())
        before = dp.flows()[key]
        dp.put("spy", "targets", Index(0), Count(0))
        dp.send(packet())
        assert len(collector.frames()) == 2, "what has been judged holds"
        sender = dp.network.ports["default/a"]
        dp.apply(structs.replace(sender, mac="02:00:00:00:09:09"))
        dp.send(packet())
        now = dp.flows()[key]
        assert collector.frames() == [], "judged again, without a target"
        assert now.epoch_sum != before.epoch_sum
        dp.put("cubelet", "pending", key, replace(now, area=before.area))
        dp.send(packet())
        assert collector.frames() == []


def test_who_has_not_asked_cannot_call_it(made):
    with pytest.raises(Exception, match="spy0_mirror"):
        made(stacks={"pod": [Deaf]})


def test_without_a_mirror_nothing_of_it_is_composed(datapath):
    dp = datapath(stacks={"pod": []})
    assert not [name for name in dp.maps if "mirror" in name]
