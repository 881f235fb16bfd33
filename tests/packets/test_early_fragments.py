"""Fragments that come before their first: kept, and sent when that one is.

A trial run puts what was kept into the test network's devices once more. No program is attached
there, so the tests take it off the device and send it in themselves.
"""

from __future__ import annotations

import random
import socket
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from itertools import permutations

import pytest
from scapy.layers.inet import IP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.testrun import skb_context
from cubelet.composer.core import KeptFragment
from cubelet.composer.exposed import ExposedAddress, ExposedKey
from cubelet.datapath.drops import drop_rows
from cubelet.testkit import Result

from .conftest import MakeRig
from .rig import NODE, OUTSIDE, REMOTE, VIP, A, B, C, Rig, arrives, kept
from .shapes import Ends, Peer, Shape, hopped
from .test_fragments import AWAY, CLIENT, SERVER, long_echo, long_tcp, long_udp, parts, shapes

ALL_PACKETS = 3
PLACES = 64
"""Of each owner: the setting ``kept_per_port``."""


@contextmanager
def entering(rig: Rig, port: str) -> Iterator[Callable[[], list[Packet]]]:
    """What enters a device while this runs, as a function that takes it."""
    host = rig.dp.network.local.datapath_ifindex
    name = socket.if_indextoname(host if port == "host" else rig.ifindex(port))
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ALL_PACKETS)) as tap:
        tap.bind((name, ALL_PACKETS))
        tap.setblocking(False)

        def taken() -> list[Packet]:
            frames = []
            while True:
                try:
                    frames.append(Ether(tap.recv(4096)))
                except BlockingIOError:
                    return frames

        yield taken


def lost(rig: Rig) -> dict[tuple[str, str], int]:
    """Drops so far, by reason and class."""
    rows = drop_rows(rig.dp.maps, rig.dp.reasons)
    return {(f"{row['cube']}/{row['reason']}", row["class"]): row["packets"] for row in rows}


@dataclass
class Way:
    """From one port to another, as fragments: as they are sent and as they arrive."""

    rig: Rig
    port: str
    leaves: str
    sent: Sequence[Packet]
    wanted: Sequence[Packet]

    def in_order(self, order: Sequence[int]) -> None:
        """Those before the first wait; all arrive, each once, and nothing is dropped."""
        before, waiting, arrived = lost(self.rig), list[int](), Counter[int]()
        with entering(self.rig, self.port) as taken:
            for number in order:
                result = self.rig.send(self.sent[number], self.port)
                if number and not arrived[0]:
                    assert result.verdict == ("pass" if self.to_own else "keep")
                    waiting.append(number)
                    continue
                self._arrives(result, number)
                arrived[number] += 1
                again = taken()
                assert [bytes(each) for each in again] == [
                    bytes(self.rig.framed(self.sent[n], self.port)) for n in waiting
                ]
                for frame, kept_one in zip(again, waiting, strict=True):
                    self._arrives(self.rig.send(frame, self.port), kept_one)
                    arrived[kept_one] += 1
                waiting = []
            assert not taken()
        assert arrived == Counter(order)
        assert lost(self.rig) == before

    def _arrives(self, result: Result, number: int) -> None:
        arrives(result, self.leaves, hopped(self.wanted[number]))

    @property
    def to_own(self) -> bool:
        return self.port == "uplink" and self.sent[0][IP].dst == NODE


ORDERS = [*permutations(range(3)), (2, 2, 0, 1), (1, 0, 0, 2), (0, 2, 2, 1), (1, 0, 1, 2)]
"""Of three fragments; some come twice, but none once all have come: it would wait in vain."""


def way(rig: Rig, sent: Packet, wanted: Packet, port: str, leaves: str) -> Way:
    return Way(rig, port, leaves, parts(sent), parts(wanted))


def in_any_order(rig: Rig, sent: Packet, wanted: Packet, port: str, leaves: str) -> None:
    """Datagrams with identities of their own, because what came twice completes none."""
    for number, order in enumerate(ORDERS):
        sent.id = wanted.id = 100 + number
        way(rig, sent, wanted, port, leaves).in_order(order)


@shapes
def test_in_any_order_between_pods(rig: Rig, shape: Shape) -> None:
    in_any_order(rig, shape(CLIENT.to(SERVER)), shape(CLIENT.to(SERVER)), "a", "b")
    back = shape(SERVER.to(CLIENT, back=True))
    in_any_order(rig, back, back, "b", "a")


@shapes
def test_in_any_order_through_a_service(rig: Rig, shape: Shape) -> None:
    rig.vip(VIP, 80, B, 8080)
    rig.vip(VIP, 0, B, 0)
    ports = (0, 0) if shape is long_echo else (80, 8080)
    service, server = Peer("", VIP, ports[0]), Peer("b", B, ports[1])
    in_any_order(rig, shape(CLIENT.to(service)), shape(CLIENT.to(server)), "a", "b")
    sent, wanted = (shape(each.to(CLIENT, back=True)) for each in (server, service))
    in_any_order(rig, sent, wanted, "b", "a")


@shapes
def test_replies_in_any_order_to_a_translated_source(rig: Rig, shape: Shape) -> None:
    """They are to the node's own address: its stack gets those that may be its own, too."""
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    seen = Peer("", NODE, 20001)
    in_any_order(rig, shape(CLIENT.to(AWAY)), shape(seen.to(AWAY)), "a", "uplink")
    sent, wanted = (shape(AWAY.to(each, back=True)) for each in (seen, CLIENT))
    in_any_order(rig, sent, wanted, "uplink", "a")


@pytest.mark.parametrize(
    ("port", "source"), [("host", NODE), ("overlay", REMOTE), ("uplink", OUTSIDE)]
)
def test_in_any_order_from_every_port(rig: Rig, port: str, source: str) -> None:
    packet = long_udp(Ends(source, 1000, B, 53))
    in_any_order(rig, packet, packet, port, "b")


@pytest.mark.parametrize("own", [True, False])
def test_in_any_order_to_exposed_addresses(rig: Rig, own: bool) -> None:
    """A node port, and a Service's own address, of which nothing is the host's."""
    address, port = (NODE, 30001) if own else ("203.0.113.1", 80)
    rig.vip(address, port, B, 8080)
    if not own:
        key = ExposedKey(address=IPv4Address(address))
        rig.dp.put("cubelet", "exposed", key, ExposedAddress(own=0, every=1))
    sent, wanted = (long_udp(Ends(OUTSIDE, 4000, *to)) for to in ((address, port), (B, 8080)))
    in_any_order(rig, sent, wanted, "uplink", "b")


@pytest.mark.parametrize("seed", range(8))
def test_a_large_datagram_in_random_order(rig: Rig, seed: int) -> None:
    """64 kB are 45 fragments of 1,500 bytes."""
    rng = random.Random(seed)
    packet = long_udp(CLIENT.to(SERVER))
    packet[IP].payload.payload.load = rng.randbytes(65_000)
    every = list(fragment(IP(bytes(packet)), 1480))
    assert len(every) == 44
    order = rng.sample(range(len(every)), len(every))
    Way(rig, "a", "b", every, every).in_order(order)


def test_once_complete_a_datagram_is_forgotten(rig: Rig) -> None:
    """So the next one with its identity, of another flow, need not be in order either."""
    for sport in range(1000, 1010):
        packet = long_udp(Ends(A, sport, B, 8080))
        way(rig, packet, packet, "a", "b").in_order((2, 1, 0))
        assert not rig.dp.table("cubelet", "fragments")
        assert not rig.dp.table("cubelet", "kept")


@pytest.mark.parametrize("order", [(0, 1, 1, 3, 2), (0, 3, 1, 1, 2), (0, 3, 3, 0, 1, 2)])
def test_what_came_twice_completes_no_datagram(rig: Rig, order: tuple[int, ...]) -> None:
    """Of four fragments as long as each other, so that one could stand for another."""
    packet = long_udp(CLIENT.to(SERVER))
    packet[IP].payload.payload.load = bytes(1592)
    every = parts(packet)
    assert {len(part) for part in every} == {420}
    for number in order:
        arrives(rig.send(every[number]), "b", hopped(every[number]))


def test_the_newest_first_fragment_counts(rig: Rig) -> None:
    """An identity that is used again, before the datagram that had it was whole."""
    old = parts(long_udp(CLIENT.to(SERVER)))
    new = parts(long_udp(Ends(A, 2000, B, 9090)))
    rig.vip(B, 9090, C, 9090)
    arrives(rig.send(old[0]), "b", hopped(old[0]))
    for number, expected in enumerate(parts(long_udp(Ends(A, 2000, C, 9090)))):
        arrives(rig.send(new[number]), "c", hopped(expected))


def test_what_waited_for_another_datagram_does_not_go_with_the_next(rig: Rig) -> None:
    """The first of these is refused, and what waited for it is not let through by another's."""
    refused, passed = (parts(long_udp(Ends(A, sport, B, 53))) for sport in (1000, 2000))
    rig.send(refused[2])
    rig.close_gate(A, B)
    kept(rig.send(refused[0]), "gate/closed")
    rig.open_gates()
    with entering(rig, "a") as taken:
        arrives(rig.send(passed[0]), "b", hopped(passed[0]))
        assert not taken()


def test_followers_of_a_refused_first_fragment_are_refused(rig: Rig) -> None:
    first, middle, last = parts(long_udp(CLIENT.to(SERVER)))
    rig.close_gate(A, B)
    rig.send(last)
    with entering(rig, "a") as taken:
        kept(rig.send(first), "gate/closed")
        assert not taken()
    kept(rig.send(middle), "gate/closed")


def test_one_that_expires_takes_its_followers_along(rig: Rig) -> None:
    every = parts(long_udp(CLIENT.to(SERVER)))
    for part in every:
        part.ttl = 1
        del part.chksum
    rig.send(every[1])
    with entering(rig, "a") as taken:
        result = rig.send(every[0])
        assert (result.reason, result.answered) == ("core/ttl", True)
        for frame in taken():
            kept(rig.send(frame), "core/ttl")


@pytest.mark.parametrize(
    ("port", "source", "reason"),
    [("c", A, "spoofed"), ("host", OUTSIDE, "spoofed"), ("uplink", A, "martian")],
)
def test_who_may_not_send_from_there_keeps_nothing(
    rig: Rig, port: str, source: str, reason: str
) -> None:
    for part in parts(long_udp(Ends(source, 1000, B, 53)))[1:]:
        kept(rig.send(part, port), f"core/{reason}")
    assert not rig.dp.table("cubelet", "kept")


def test_another_ports_first_fragment_frees_nothing(rig: Rig) -> None:
    first, middle, _ = parts(long_udp(CLIENT.to(SERVER)))
    rig.send(middle)
    with entering(rig, "a") as own, entering(rig, "c") as other:
        kept(rig.send(first, "c"), "core/spoofed")
        assert not own()
        assert not other()
    assert len(rig.dp.table("cubelet", "kept")) == 1


def numbered(count: int, src: str = A) -> Iterator[list[Packet]]:
    """Datagrams with identities of their own."""
    for number in range(count):
        packet = long_udp(Ends(src, 1000, B, 53))
        packet.id = 1000 + number
        yield parts(packet)


def came_again(rig: Rig, first: Packet, port: str) -> int:
    """How many had waited for a first fragment."""
    with entering(rig, port) as taken:
        assert rig.send(first, port).verdict == "redirect"
        return len(taken())


def test_who_needs_more_loses_the_oldest_of_their_own(rig: Rig) -> None:
    before, other = lost(rig), parts(long_udp(Ends(C, 1000, B, 53)))
    rig.send(other[1], "c")
    datagrams = list(numbered(PLACES + 10))
    for each in datagrams:
        assert rig.send(each[1]).verdict == "keep"
    assert len(rig.dp.table("cubelet", "kept")) == PLACES + 1
    assert (
        lost(rig)["core/fragment_store", "pod"]
        == before.get(("core/fragment_store", "pod"), 0) + 10
    )
    again = [came_again(rig, each[0], "a") for each in datagrams]
    assert again == [0] * 10 + [1] * PLACES
    assert came_again(rig, other[0], "c") == 1


@pytest.mark.parametrize("port", ["overlay", "uplink"])
def test_sources_beyond_the_node_have_shares(rig: Rig, port: str) -> None:
    """Who fills one of 16 buckets leaves others' alone."""
    prefix = "10.1.7" if port == "overlay" else "192.0.2"
    quiet = [parts(long_udp(Ends(f"{prefix}.{n}", 1000, B, 53))) for n in range(100, 108)]
    for each in quiet:
        rig.send(each[1], port)
    for each in numbered(PLACES * 2, f"{prefix}.9"):
        rig.send(each[1], port)
    assert sum(came_again(rig, each[0], port) for each in quiet) >= 6


def test_who_begins_many_datagrams_forgets_the_oldest_of_their_own(make_rig: MakeRig) -> None:
    each = 10
    rig = make_rig(fragments=160 * each)
    other = parts(long_udp(Ends(C, 1000, B, 53)))
    assert rig.send(other[0], "c").verdict == "redirect"
    begun = list(numbered(200 * each))
    for first, *_ in begun:
        assert rig.send(first).verdict == "redirect"
    assert len(rig.dp.table("cubelet", "fragments")) == each + 1
    assert rig.send(other[1], "c").verdict == "redirect"
    verdicts = [rig.send(later).verdict for _, later, *_ in begun[-each - 1 :]]
    assert verdicts == ["keep"] + ["redirect"] * each


def test_all_owners_together_have_a_limit(make_rig: MakeRig) -> None:
    rig = make_rig(kept_fragments=3)
    datagrams = list(numbered(5))
    verdicts = [rig.send(each[1]) for each in datagrams]
    for result in verdicts[3:]:
        kept(result, "core/fragment_store")
    assert [came_again(rig, each[0], "a") for each in datagrams] == [1, 1, 1, 0, 0]
    assert rig.send(next(numbered(1))[1]).verdict != "drop"


def test_half_a_minute_is_waited(rig: Rig) -> None:
    before = lost(rig)
    datagrams = list(numbered(2))
    for age, (each, again) in zip((29, 31), zip(datagrams, (1, 0), strict=True), strict=True):
        rig.send(each[1])
        backdated(rig, age)
        assert came_again(rig, each[0], "a") == again
    assert len(rig.dp.table("cubelet", "kept")) == 1
    for each in numbered(PLACES + 2):
        rig.send(each[2])  # takes the place of what was late
    assert lost(rig)["core/fragment", "pod"] == before.get(("core/fragment", "pod"), 0) + 1


def test_what_waited_too_long_does_not_go_with_a_first_that_comes_again(rig: Rig) -> None:
    first, middle, _ = parts(long_udp(CLIENT.to(SERVER)))
    rig.send(middle)
    backdated(rig, 31)
    assert came_again(rig, first, "a") == 0
    ((key, known),) = rig.dp.table("cubelet", "fragments").items()
    rig.dp.put("cubelet", "fragments", key, replace(known, since=(known.since - 9000) % (1 << 32)))
    assert came_again(rig, first, "a") == 0


def backdated(rig: Rig, seconds: int) -> None:
    """Everything kept has been so for longer."""
    for key, value in rig.dp.table("cubelet", "kept").items():
        with Clock() as clock:
            seen = (clock.now() - seconds * clock.hz) % (1 << 32)
        rig.dp.put("cubelet", "kept", key, replace(value, seen=seen))


def test_frames_that_are_too_long_do_not_wait(rig: Rig) -> None:
    packet = long_udp(CLIENT.to(SERVER))
    packet[IP].payload.payload.load = bytes(6000)
    longest = KeptFragment.layout().size - 32 - 14 - 20
    _, fits = fragment(IP(bytes(packet)), longest // 8 * 8)[:2]
    _, longer = fragment(IP(bytes(packet)), longest // 8 * 8 + 8)[:2]
    assert rig.send(fits).verdict == "keep"
    kept(rig.send(longer), "core/fragment")


def test_the_hosts_own_datagrams_pass(rig: Rig) -> None:
    """Whatever their order; and none of them enters again."""
    for order in ORDERS:
        every = parts(long_udp(Ends(OUTSIDE, 4000, NODE, 53)))
        with entering(rig, "uplink") as taken:
            for number in order:
                frame = rig.framed(every[number], "uplink")
                result = rig.send(frame, "uplink")
                assert (result.verdict, result.reason) == ("pass", "core/none")
                assert bytes(result.packet) == bytes(frame)
            assert not taken()
    assert not rig.dp.flows()


def test_the_hosts_own_are_not_copied_in_order(rig: Rig) -> None:
    for part in parts(long_udp(Ends(OUTSIDE, 4000, NODE, 53))):
        assert rig.send(part, "uplink").verdict == "pass"
    assert not rig.dp.table("cubelet", "kept")
    assert not rig.dp.table("cubelet", "fragments")


def test_outsiders_say_nothing_about_pods_datagrams(rig: Rig) -> None:
    """A first fragment to the host that claims to be a pod's."""
    rig.send(parts(long_udp(Ends(A, 4000, NODE, 53)))[0], "uplink")
    assert not rig.dp.table("cubelet", "fragments")


def test_copies_of_what_passed_are_not_counted_as_lost(rig: Rig) -> None:
    before = lost(rig)
    for number in range(PLACES + 10):
        packet = long_udp(Ends(OUTSIDE, 4000, NODE, 53))
        packet.id = number + 1
        assert rig.send(parts(packet)[1], "uplink").verdict == "pass"
    assert lost(rig) == before


def test_by_loopback_in_any_order(fused: Rig) -> None:
    """The node to a port of its own address: what comes early waits where the host's do."""
    fused.vip(NODE, 30001, B, 8080)
    sent, wanted = (parts(long_udp(Ends(NODE, 4000, *to))) for to in ((NODE, 30001), (B, 8080)))
    local = fused.dp.programs.entries["local"]
    with entering(fused, "host") as taken:
        for part in (sent[2], sent[1], sent[0]):
            frame = bytes(Ether(src="00:00:00:00:00:00", dst="00:00:00:00:00:00") / part)
            run = local.test_run(frame, 1, skb_context(ifindex=1))
            assert run.retval == (7 if part is sent[0] else 0xFFFFFFFF)
        arrives(fused.send(Ether(run.packet), "host"), "b", hopped(wanted[0]))
        again = taken()
    for frame, expected in zip(again, (wanted[2], wanted[1]), strict=True):
        arrives(fused.send(frame, "host"), "b", hopped(expected))


def test_segments_before_their_syn(fused: Rig) -> None:
    """Even TCP's first segment may be cut."""
    syn = long_tcp(CLIENT.to(SERVER, "S"))
    way(fused, syn, syn, "a", "b").in_order((2, 1, 0))
