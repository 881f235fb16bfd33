"""What cubes are told of flows that end, by real programs (needs root)."""

from __future__ import annotations

from ipaddress import ip_address

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from cubelet.composer.ends import LOST, RING
from cubelet_hooks.flows import Counter, FlowState, Index, PortClass, Tuple

from .test_flow_fields import ROUTER, Fields, Ledger

CLIENT, SERVER = ip_address("10.1.0.2"), ip_address("10.1.0.5")
SMALL = {"core": {"flows": 32}}
"""Of which one connection of each CPU may be closing."""


class Watcher(Ledger):
    """Is told of flows' ends, with its fields."""

    ended = 100


class Deaf(Ledger):
    """Asks for nothing."""


def packet(l4):
    ether = Ether(src="02:00:00:00:01:00", dst=ROUTER)
    return ether / IP(src=str(CLIENT), dst=str(SERVER)) / l4


def answer(l4):
    ether = Ether(src="02:00:00:00:ff:01", dst=ROUTER)
    return ether / IP(src=str(SERVER), dst=str(CLIENT)) / l4


def sends(dp, sport, flags, **numbers):
    assert dp.send(packet(TCP(sport=sport, dport=80, flags=flags, **numbers))).verdict == "redirect"


def answers(dp, sport, flags, **numbers):
    sent = answer(TCP(sport=80, dport=sport, flags=flags, **numbers))
    assert dp.send(sent, pod="default/d").verdict == "redirect"


def connects(dp, sport, closes=True):
    sends(dp, sport, "S")
    answers(dp, sport, "SA", ack=1)
    sends(dp, sport, "A", seq=1, ack=1)
    sends(dp, sport, "A", seq=1, ack=1)
    if closes:
        sends(dp, sport, "FA", seq=1, ack=1)
        answers(dp, sport, "FA", seq=1, ack=2)


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_a_closed_connection_is_told_when_it_makes_room(datapath, mode):
    dp = datapath(stacks={"pod": [Watcher]}, settings=SMALL, mode=mode)
    connects(dp, 1000)
    assert dp.ended("ledger") == []
    connects(dp, 1001)
    (flow,) = dp.ended("ledger")
    assert flow.sent == flow.became == Tuple(CLIENT, SERVER, 1000, 80, 6)
    assert (flow.enters.port_class, flow.leaves.port_class) == (PortClass.POD, PortClass.POD)
    assert flow.enters.ifindex == dp.network.ports["default/a"].ifindex
    assert flow.state == FlowState.CLOSING
    assert (flow.forward, flow.reply) == (Counter(4, 4 * 54), Counter(2, 2 * 54))
    assert flow.fields == Fields(label=1000, packets=4)
    assert flow.reply_fields == Fields(label=1000, packets=2)
    assert dp.ended("ledger") == []


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_a_connection_that_another_one_follows_is_told_once(datapath, mode):
    dp = datapath(stacks={"pod": [Watcher]}, mode=mode)
    connects(dp, 1000)
    sends(dp, 1000, "S", seq=77)
    (flow,) = dp.ended("ledger")
    assert flow.forward.packets == 4
    connects(dp, 1000)
    sends(dp, 1000, "S", seq=99)
    assert len(dp.ended("ledger")) == 1


def test_what_nobody_has_answered_is_not_told(datapath):
    dp = datapath(stacks={"pod": [Watcher]}, settings=SMALL)
    dp.send(packet(UDP(sport=7, dport=53)))
    dp.lose_records()
    for sport in range(40):
        dp.send(packet(UDP(sport=1 + sport, dport=53)))
    assert dp.ended("ledger") == []


def test_what_is_over_the_rate_is_counted_as_lost(datapath):
    many = type("Watcher", (Watcher,), {"ended": 1, "source": Ledger.source})
    dp = datapath(stacks={"pod": [many]})
    for number in range(8):
        connects(dp, 1000)
        sends(dp, 1000, "S", seq=77 + number)
    told = len(dp.ended("ledger"))
    assert 1 <= told < 8
    assert told + dp.table("cubelet", LOST)[Index(0)].lost == 8


def test_where_no_cube_asks_the_programs_are_as_without(datapath):
    dp = datapath(stacks={"pod": [Deaf]})
    assert f"cubelet_{RING}" not in dp.maps
    with pytest.raises(KeyError, match=r"Cube\.ended is 0"):
        dp.ended("ledger")
