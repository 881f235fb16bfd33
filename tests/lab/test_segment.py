"""The pods' Ethernet segment on one node: floods, their limits, and stations that move."""

from __future__ import annotations

import time
from collections.abc import Iterator

import pytest

from . import frames
from .manifests import pod
from .world import Space, World

BURST = 100
"""The bridge's default for floods at once, and a second."""
UNUSED = "192.168.1.200"


@pytest.fixture(scope="module")
def segment(world: World) -> Iterator[Space]:
    """Three pods on one segment and one on another."""
    space = Space(world, "segment")
    names = ("a", "b", "c")
    space.apply(*(pod(name, nodeName="node1") for name in names), pod("far", nodeName="node2"))
    yield space
    space.delete("Pod", *names, "far")


def places(space: Space, *names: str) -> list[str]:
    return [space.at(name) for name in names]


def test_arp_for_an_unknown_address_reaches_the_other_pods(segment: Space) -> None:
    a = segment.at("a")
    source = segment.world.run(a, frames.mac)
    request = frames.who_has(source, segment.ip("a"), UNUSED)
    others = places(segment, "b", "c", "far")
    with frames.heard(*others, ethertype=frames.ETH_P_ARP, contains=request[-4:]) as heard:
        segment.world.run(a, frames.send, request)
    assert [[data for data, _ in heard(i)] for i in range(3)] == [[request], [request], []]


def test_arp_for_a_pod_is_answered_in_place(segment: Space) -> None:
    a, b, c = places(segment, "a", "b", "c")
    source, target = (segment.world.run(place, frames.mac) for place in (a, b))
    request = frames.who_has(source, segment.ip("a"), segment.ip("b"))
    with frames.heard(a, b, c, ethertype=frames.ETH_P_ARP) as heard:
        segment.world.run(a, frames.send, request)
    (answer,) = [data for data, _ in heard(0) if data[:6] == source]
    assert answer[6:12] == answer[22:28] == target
    for others in (1, 2):
        assert request not in [data for data, _ in heard(others)]


def test_floods_are_limited_per_port(segment: Space) -> None:
    time.sleep(1.1)  # for a full bucket
    a, c = places(segment, "a", "c")
    sources = [segment.world.run(place, frames.mac) for place in (a, c)]
    body = b"flood from a"
    with frames.heard(segment.at("b"), contains=body) as heard:
        flood = frames.frame(frames.BROADCAST, sources[0], body)
        segment.world.run(a, frames.send, *[flood] * 10 * BURST)
    assert BURST <= len(heard(0)) < 3 * BURST
    body = b"flood from c"
    with frames.heard(segment.at("b"), contains=body) as heard:
        flood = frames.frame(frames.BROADCAST, sources[1], body)
        segment.world.run(c, frames.send, *[flood] * 10)
    assert len(heard(0)) == 10


@pytest.mark.parametrize("address", ["192.168.1.255", "255.255.255.255"])
def test_ip_broadcasts_reach_every_pod_of_the_segment(segment: Space, address: str) -> None:
    body = f"to all at {address}".encode()
    with frames.heard(*places(segment, "b", "c", "far"), contains=body) as heard:
        segment.world.run(segment.at("a"), frames.broadcast, address, 9999, body)
    assert [len(heard(i)) for i in range(3)] == [1, 1, 0]


def test_multicast_reaches_every_pod_of_the_segment(segment: Space) -> None:
    body = b"to a group"
    with frames.heard(*places(segment, "b", "c", "far"), contains=body) as heard:
        segment.world.run(segment.at("a"), frames.broadcast, "239.1.2.3", 9999, body)
    assert [len(heard(i)) for i in range(3)] == [1, 1, 0]


def test_a_station_is_learned_and_may_move(segment: Space) -> None:
    """An address behind a pod, such as a nested machine's, then behind another."""
    time.sleep(1.1)
    a, b, c = places(segment, "a", "b", "c")
    station = bytes.fromhex("0a0000000707")
    source = segment.world.run(c, frames.mac)
    for number, (home, other) in enumerate(((a, b), (b, a))):
        hello = frames.frame(frames.BROADCAST, station, b"here I am")
        segment.world.run(home, frames.send, hello)
        body = f"to the station {number}".encode()
        with frames.heard(home, other, contains=body) as heard:
            segment.world.run(c, frames.send, frames.frame(station, source, body))
        assert (len(heard(0)), len(heard(1))) == (1, 0), home


def test_a_pods_own_address_cannot_be_taken(segment: Space) -> None:
    a, b, c = places(segment, "a", "b", "c")
    victim, source = (segment.world.run(place, frames.mac) for place in (b, c))
    segment.world.run(a, frames.send, frames.frame(frames.BROADCAST, victim, b"I am b"))
    body = b"for b alone"
    with frames.heard(a, b, contains=body) as heard:
        segment.world.run(c, frames.send, frames.frame(victim, source, body))
    assert (len(heard(0)), len(heard(1))) == (0, 1)
