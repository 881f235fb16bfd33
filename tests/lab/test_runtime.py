"""A cube of somebody else in a running agent: told of flows, and answering packets itself."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from cubelet.lab import traffic

from .foreign import NODE, command, install, start
from .manifests import pod
from .world import Space, World, eventually

NOWHERE = "203.0.113.9"
"""An address that nobody has: only the cube answers for it."""

DESK_CUBE = '''
import struct

from cubelet_hooks.cube import Cube, Placement
from cubelet_hooks.flows import Index
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import Addr, Be16, U32, U64, Record


class Opened(Record):
    """A flow."""
    target: Addr
    port: Be16


class Target(Record):
    """Who was asked."""
    address: Addr


class Times(Record):
    """How often."""
    times: U64


class Traffic(Record):
    """Packets of one direction of a flow."""
    packets: U32


class Desk(Cube):
    """Counts who is asked, and answers datagrams to port 9."""
    kind = "desk"
    inward = per_packet = frozenset({"pod"})
    placement = (Placement("pod"),)
    flow_fields = Traffic
    event = Opened
    punts = True
    maps = (
        Map("asked", MapType.HASH, Target, Times, 64, planned=False),
        Map("most", MapType.ARRAY, Index, Times, 1, planned=False),
    )
    shows = {"targets": "asked", "records": "most"}

    def on_event(self, event, context):
        table = context.table("asked")
        target = Target(event.target)
        before = table.get(target, Times(0))
        table[target] = Times(before.times + 1)
        if event.port == 666:
            raise RuntimeError("no such port")

    def on_packet(self, packet, context):
        frame = bytearray(packet.frame)
        frame[0:6], frame[6:12] = frame[6:12], frame[0:6]
        frame[26:30], frame[30:34] = frame[30:34], frame[26:30]
        frame[34:36], frame[36:38] = frame[36:38], frame[34:36]
        frame[40:42] = bytes(2)  # UDP without a checksum
        data = bytes(frame[42:]).upper()
        context.log.info("answered", port_class=packet.port_class, data=data.decode())
        context.send(bytes(frame[:42]) + data, packet.ifindex)


@hookimpl
def cubelet_cubes():
    return [Desk]
'''
DESK_C = """
#include "cubelet.h"

static __always_inline int desk_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	struct desk_event event = {};

	if (pkt->orig.protocol == IPPROTO_UDP && pkt->orig.dport == bpf_htons(9))
		return desk_punt(skb, pkt);
	if (cubelet_rejudging(pkt)) /* told already: something around the flow has changed */
		return cubelet_next(pkt);
	event.target = pkt->orig.dst;
	event.port = pkt->orig.dport;
	desk_emit(&event);
	return cubelet_next(pkt);
}

static __always_inline __u16 desk_packet(struct __sk_buff *skb,
	const struct cubelet_headers *h, struct cubelet_flow *flow)
{
	struct desk_flow_fields *fields = desk_fields(flow);
	__u32 zero = 0;
	struct desk_times *most = cubelet_lookup(desk_most, &zero);

	fields->packets++;
	if (most && fields->packets > most->times)
		most->times = fields->packets;
	return 0;
}
"""


@pytest.fixture
def desk(small: World, tmp_path: Path) -> Iterator[World]:
    """The small lab with the cube installed; without it again afterwards."""
    small.stop(NODE)
    install(tmp_path, "desk", DESK_CUBE, DESK_C)
    start(small, command(small), tmp_path)
    yield small
    small.stop(NODE)
    small.start(NODE)
    assert small.call(NODE, "status")["problems"] == []


def asked(world: World) -> dict[str, int]:
    rows = world.call(NODE, "get", noun="targets")
    return {row["address"]: row["times"] for row in rows}


def test_a_cube_is_told_of_flows_and_answers_packets(desk: World, small_space: Space) -> None:
    small_space.apply(pod("a"), pod("b", ("TCP", 7), ("UDP", 53)))
    a, b = small_space.at("a"), small_space.ip("b")
    for _ in range(3):
        assert small_space.who(a, b, 7) == "b"
    eventually(lambda: asked(desk).get(b) == 3, 5)

    answer = desk.run(a, traffic.udp, NOWHERE, 9, b"is anybody there")
    assert (answer.outcome, answer.data) == ("answered", b"IS ANYBODY THERE")
    assert NOWHERE not in asked(desk)

    # What it raises stops nobody; what it keeps of flows grows with their packets.
    desk.run(a, traffic.udp, b, 666, b"x", 0.1)
    assert small_space.who(a, b, 7) == "b"
    eventually(lambda: asked(desk).get(b) == 5, 5)
    assert desk.run(a, traffic.transfer, b, 7, 1 << 20).answered
    (row,) = desk.call(NODE, "get", noun="records")
    assert row["times"] > 20
    assert desk.call(NODE, "status")["problems"] == []
    shown = {row["name"]: row for row in desk.call(NODE, "get", noun="cubes")}
    assert shown["desk0"]["events"] == 6
    assert shown["desk0"]["packets"] == 1
    assert shown["desk0"]["lost"] == 0
    assert shown["desk0"]["failures"] == 1
