"""What cubes keep of flows: where it stands, who can read it, and when it is zero."""

from __future__ import annotations

import dataclasses
from ipaddress import ip_address
from pathlib import Path
from typing import ClassVar

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from cubelet.composer.composition import CompositionError
from cubelet_hooks.cube import Cube, Reason, Settings
from cubelet_hooks.flows import Index, Tuple
from cubelet_hooks.maps import EVERYTHING, Map, MapType
from cubelet_hooks.records import U16, U32, U64, Record

ROUTER = "02:00:00:00:00:01"


class Fields(Record):
    """A label given when the flow was judged, and the direction's packets."""

    packets: U32
    label: U16


class Seen(Record):
    """What a known flow had counted when it was judged again."""

    packets: U64


class LedgerSettings(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    offset: int = 0
    limit: int = 1_000
    denied: int = 0


class Ledger(Cube):
    """Labels flows by their source port plus the setting ``offset``, and counts packets."""

    kind = "ledger"
    inward = frozenset({"pod"})
    per_packet = frozenset({"pod"})
    flow_fields: ClassVar[type[Record] | None] = Fields
    settings_type = LedgerSettings
    settings: LedgerSettings
    reasons = (
        Reason("enough", "more packets than the limit"),
        Reason("denied", "a first packet from the port that the settings deny"),
    )
    maps = (Map("judged", MapType.ARRAY, Index, Seen, 1, planned=False),)

    @classmethod
    def source(cls) -> Path:
        return Path(__file__).parent / "bpf" / "ledger.bpf.c"

    def defines(self, view):
        chosen = self.settings
        return {"OFFSET": chosen.offset, "LIMIT": chosen.limit, "DENIED": chosen.denied}


class WideFields(Fields):
    """As much again, three times."""

    a: U64
    b: U64
    c: U64


class Wide(Ledger):
    """Wants more than there is for two."""

    flow_fields = WideFields


def key(sport=1000, reply=False, protocol=17):
    client, server = ip_address("10.1.0.2"), ip_address("10.1.0.5")
    if reply:
        return Tuple(server, client, sport=53, dport=sport, protocol=protocol)
    return Tuple(client, server, sport=sport, dport=53, protocol=protocol)


def frame(sport=1000, l4=UDP, **fields):
    packet = Ether(src="02:00:00:00:01:00", dst=ROUTER)
    return packet / IP(src="10.1.0.2", dst="10.1.0.5") / l4(sport=sport, dport=53, **fields)


def answer(sport=1000, l4=UDP, **fields):
    packet = Ether(src="02:00:00:00:ff:01", dst=ROUTER)
    return packet / IP(src="10.1.0.5", dst="10.1.0.2") / l4(sport=53, dport=sport, **fields)


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_what_is_written_while_judging_stands_in_both_records(datapath, mode):
    dp = datapath(stacks={"pod": [Ledger]}, mode=mode)
    assert dp.send(frame()).verdict == "redirect"
    assert dp.fields("ledger", key()) == Fields(label=1000, packets=1)
    assert dp.fields("ledger", key(reply=True)) == Fields(label=1000, packets=0)


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_each_direction_keeps_its_own_and_takes_it_along_when_answered(datapath, mode):
    dp = datapath(stacks={"pod": [Ledger]}, mode=mode)
    dp.send(frame())
    dp.send(frame())
    for _ in range(3):
        dp.send(answer(), pod="default/d")
    assert not dp.table("cubelet", "pending")
    assert dp.fields("ledger", key()) == Fields(label=1000, packets=2)
    assert dp.fields("ledger", key(reply=True)) == Fields(label=1000, packets=3)


def test_a_second_flow_begins_at_zero(datapath):
    dp = datapath(stacks={"pod": [Ledger]})
    dp.send(frame(1000))
    dp.send(frame(2000))
    assert dp.fields("ledger", key(2000)) == Fields(label=2000, packets=1)


def test_a_cube_can_decide_by_what_it_has_kept(datapath):
    dp = datapath(stacks={"pod": [Ledger]}, settings={"ledger": {"limit": 2}})
    assert [dp.send(frame()).reason for _ in range(3)] == [
        "core/none",
        "core/none",
        "ledger/enough",
    ]
    assert dp.send(frame(7)).reason == "core/none"


@pytest.mark.parametrize("reply", [False, True])
def test_while_a_known_flow_is_judged_again_writes_are_not_kept(datapath, reply):
    dp = datapath(stacks={"pod": [Ledger]})
    for _ in range(5):
        dp.send(frame())
    dp.send(answer(), pod="default/d")
    raise_all(dp)
    sent = dp.send(answer(), pod="default/d") if reply else dp.send(frame())
    assert sent.verdict == "redirect"
    # It is the forward record's fields that are seen, whichever direction the packet was of.
    assert dp.table("ledger", "judged")[Index(index=0)] == Seen(packets=5)
    assert dp.fields("ledger", key()) == Fields(label=1000, packets=6 - reply)
    assert dp.fields("ledger", key(reply=True)) == Fields(label=1000, packets=1 + reply)


def raise_all(dp):
    dp.context("ledger").judge_again(EVERYTHING)


def older(dp):
    """Make the flow one that was there before the cube."""
    flows = dp.flows()
    for each in (key(), key(reply=True)):
        name = "flows" if dp.table("cubelet", "flows") else "pending"
        dp.put("cubelet", name, each, dataclasses.replace(flows[each], area=bytes(64)))


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
@pytest.mark.parametrize("by_reply", [False, True])
def test_a_flow_older_than_the_cube_gets_its_fields_when_judged(datapath, mode, by_reply):
    dp = datapath(stacks={"pod": [Ledger]}, mode=mode)
    dp.send(frame())
    dp.send(answer(), pod="default/d")
    older(dp)
    dp.send(frame())
    assert dp.fields("ledger", key()) == Fields(label=0, packets=1)
    raise_all(dp)
    sent = dp.send(answer(), pod="default/d") if by_reply else dp.send(frame())
    assert sent.verdict == "redirect"
    assert dp.fields("ledger", key()) == Fields(label=1000, packets=2 - by_reply)
    assert dp.fields("ledger", key(reply=True)) == Fields(label=1000, packets=1 + by_reply)
    raise_all(dp)
    dp.send(frame())
    assert dp.fields("ledger", key()) == Fields(label=1000, packets=3 - by_reply), "once alone"


def test_of_two_cubes_each_joins_by_itself(datapath):
    dp = datapath(
        stacks={"pod": [Ledger, "ledger1"]}, settings={"ledger": {}, "ledger1": {"offset": 7}}
    )
    dp.send(frame())
    slot, flow = dp.composition.slots.held["ledger1"], dp.flows()[key()]
    area = bytearray(flow.area)
    area[slot.offset : slot.end] = bytes(slot.size)
    dp.put("cubelet", "pending", key(), dataclasses.replace(flow, area=bytes(area)))
    raise_all(dp)
    dp.send(frame())
    assert dp.fields("ledger", key()) == Fields(label=1000, packets=2)
    assert dp.fields("ledger1", key()) == Fields(label=1007, packets=1)


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_two_instances_of_a_kind_keep_their_own(datapath, mode):
    dp = datapath(
        stacks={"pod": [Ledger, "ledger1"]},
        settings={"ledger": {}, "ledger1": {"offset": 7}},
        mode=mode,
    )
    for _ in range(2):
        assert dp.send(frame()).verdict == "redirect"
    assert dp.fields("ledger", key()) == Fields(label=1000, packets=2)
    assert dp.fields("ledger1", key()) == Fields(label=1007, packets=2)


def test_bytes_of_another_generation_are_never_read(datapath):
    dp = datapath(stacks={"pod": [Ledger]})
    dp.send(frame())
    dp.send(answer(), pod="default/d")
    slot = dp.composition.slots.held["ledger0"]
    flow = dp.flows()[key()]
    stale = bytearray(b"\xaa" * 64)
    dp.put("cubelet", "flows", key(), dataclasses.replace(flow, area=bytes(stale)))
    assert dp.fields("ledger", key()) == Fields(label=0, packets=0)
    dp.send(frame())
    assert dp.fields("ledger", key()) == Fields(label=0, packets=1)
    # What lies outside the slot is not the instance's.
    assert dp.flows()[key()].area[slot.end :] == stale[slot.end :]


def test_a_record_that_was_evicted_is_made_again_with_what_judging_wrote(datapath):
    dp = datapath(stacks={"pod": [Ledger]})
    dp.send(frame())
    dp.maps["cubelet_pending"].delete(key(reply=True).pack())
    dp.send(frame())
    assert dp.fields("ledger", key(reply=True)).label == 1000


def test_a_reading_that_was_denied_leaves_nothing_to_the_next_one(datapath):
    dp = datapath(stacks={"pod": [Ledger]}, settings={"ledger": {"denied": 53}})
    dp.lose_records()
    # Denied as a first packet, allowed as the answer of a connection that there is no record of.
    assert dp.send(answer(l4=TCP, flags="A"), pod="default/d").verdict == "redirect"
    assert dp.fields("ledger", key(protocol=6)) == Fields(label=1000, packets=0)
    assert dp.fields("ledger", key(reply=True, protocol=6)) == Fields(label=1000, packets=1)


class Labels(Ledger):
    """Writes while judging alone."""

    per_packet = frozenset()


class Nothing(Labels):
    """The same without fields: another source would do nothing with them."""

    flow_fields = None

    @classmethod
    def source(cls) -> Path:
        return Path(__file__).parent / "bpf" / "idle.bpf.c"


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_established_packets_pay_nothing_for_fields_that_only_judging_uses(datapath, mode):
    with_fields, without = (
        datapath(stacks={"pod": [cube]}, mode=mode).compiled.code for cube in (Labels, Nothing)
    )
    for name in ("pod", "host", "overlay", "uplink"):
        assert with_fields[f"cubelet_{name}"] == without[f"cubelet_{name}"]
    assert with_fields.keys() == without.keys()


def test_fields_without_room_are_refused_by_name(datapath):
    with pytest.raises(
        CompositionError, match=r"ledger0 \(40 bytes\), ledger1 \(40 bytes\) need 80"
    ):
        datapath(stacks={"pod": [Wide, "ledger1"]})
