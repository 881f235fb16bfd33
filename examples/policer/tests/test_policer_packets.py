"""Whole packets through real programs: needs root and BCC.

At 1 kbit/s a byte takes 8 ms: while a test runs, a bucket of some thousand bytes hardly fills, so
that exactly so many packets pass. Other tests say up to when a bucket is used up.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from ipaddress import ip_address
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet_hooks.buckets import TokenBucket
from cubelet_hooks.flows import Tuple
from cubelet_hooks.objects import Pod
from cubelet_policer.bandwidth import ANNOTATIONS
from cubelet_policer.cube import Policer
from cubelet_policer.records import Bucket, Direction, LimitKey

INGRESS, EGRESS = Direction.INGRESS, Direction.EGRESS
STACKS = {"pod": [Policer]}
SECOND = 1_000_000_000
SENDER, RECEIVER = "10.1.0.2", "10.1.0.5"
"""The pods a and d; all packets leave by the port of d, unless a test says otherwise."""
LAST = "default/d"

both_modes = pytest.mark.parametrize("mode", ["fused", "tailcall"])


def udp(size: int = 1000) -> Packet:
    """A frame of ``size`` bytes."""
    head = Ether(src="02:00:00:00:01:00", dst="02:00:00:00:00:01")
    packet = head / IP(src=SENDER, dst=RECEIVER) / UDP(sport=4000, dport=53)
    return packet / Raw(bytes(size - len(packet)))


def limited(name: str = "a", **limits: str) -> Pod:
    named = {ANNOTATIONS[Direction[each.upper()]]: text for each, text in limits.items()}
    return Pod("default", name, annotations=named)


@pytest.fixture
def made(datapath):
    """Makes a datapath whose buckets hold 2,000 bytes, or what a test wants."""

    def make(*pods: Pod, mode: str = "fused", **options: Any):
        policer = {"burst_seconds": 0.001, "min_burst_bytes": 2000, **options.pop("policer", {})}
        outlet = {"leaves": "pod", **options.pop("outlet", {})}
        return datapath(
            stacks=STACKS,
            settings={"policer": policer, "outlet": outlet},
            mode=mode,
            objects=pods,
            **options,
        )

    return make


def key(dp: Any, direction: Direction, pod: str = "default/a") -> LimitKey:
    return LimitKey(dp.network.ports[pod].ifindex, direction)


def reasons(results: Sequence[Any]) -> list[str]:
    assert all((r.verdict == "drop") == (r.reason != "core/none") for r in results), results
    return [each.reason for each in results]


PASSES, SENT, RECEIVED = "core/none", "policer/egress_rate", "policer/ingress_rate"


@both_modes
def test_a_bucket_of_what_is_sent_lets_so_many_bytes_pass(made, mode) -> None:
    dp = made(limited(egress="1k"), mode=mode)
    first = udp()
    results = [dp.send(each) for each in (first, first, udp(100), first)]
    assert reasons(results) == [PASSES, PASSES, SENT, SENT]
    left = first.copy()
    left[Ether].dst, left[Ether].src = "02:00:00:00:ff:01", first[Ether].dst
    left[IP].ttl -= 1
    left[IP].chksum = None
    assert bytes(results[1].packet) == bytes(Ether(bytes(left)))
    bucket = dp.table("policer", "buckets")[key(dp, EGRESS)]
    assert (bucket.dropped_packets, bucket.dropped_bytes) == (2, 1100)
    # Another pod has no limit, and no bucket.
    other = udp()
    other[Ether].src, other[IP].src = dp.network.ports["default/b"].mac, "10.1.0.3"
    assert reasons([dp.send(other, pod="default/b") for _ in range(3)]) == [PASSES] * 3
    assert list(dp.table("policer", "buckets")) == [key(dp, EGRESS)]


@both_modes
@pytest.mark.parametrize("enters", ["pod", "host", "overlay"])
def test_a_bucket_of_what_is_received_does_wherever_it_comes_from(made, mode, enters) -> None:
    dp = made(limited("d", ingress="1k", egress="1k"), mode=mode)
    frame = udp()
    if enters == "host":  # which may send as nobody but itself
        frame[IP].src = str(dp.network.local.gateway)
    results = [dp.send(frame, enters=enters) for _ in range(4)]
    assert reasons(results) == [PASSES, PASSES, RECEIVED, RECEIVED]
    assert list(dp.table("policer", "buckets")) == [key(dp, INGRESS, LAST)]


@pytest.mark.parametrize("leaves", ["host", "overlay", "uplink"])
def test_what_is_sent_is_limited_wherever_it_goes(made, leaves) -> None:
    dp = made(limited(egress="1k", ingress="1k"), outlet={"leaves": leaves})
    assert reasons([dp.send(udp()) for _ in range(3)]) == [PASSES, PASSES, SENT]
    assert list(dp.table("policer", "buckets")) == [key(dp, EGRESS)]


def test_between_two_pods_both_limits_count(made) -> None:
    dp = made(limited(egress="1k"), limited("d", ingress="1k"), policer={"min_burst_bytes": 3000})
    dp.put(
        "policer", "buckets", key(dp, INGRESS, LAST), Bucket(TokenBucket(now() - 9 * SECOND), 0, 0)
    )
    results = [dp.send(udp()) for _ in range(4)]
    assert reasons(results) == [PASSES, RECEIVED, RECEIVED, SENT], "the receiver's is less full"


@both_modes
def test_replies_are_what_the_answering_pod_sends(made, mode) -> None:
    dp = made(limited("d", egress="1k"), mode=mode)
    assert reasons([dp.send(udp()) for _ in range(3)]) == [PASSES] * 3
    answer = udp()
    answer[IP].src, answer[IP].dst = RECEIVER, SENDER
    answer[UDP].sport, answer[UDP].dport = 53, 4000
    results = [dp.send(answer, pod=LAST) for _ in range(3)]
    assert reasons(results) == [PASSES, PASSES, SENT]


def now() -> int:
    """The clock of the buckets."""
    return time.clock_gettime_ns(time.CLOCK_MONOTONIC)


def test_time_fills_a_bucket_no_further_than_its_depth(made) -> None:
    dp = made(limited(egress="1k"))
    place = key(dp, EGRESS)
    # 1,000 bytes take 8 s.
    for idle, passing in ((0, 0), (7.9, 0), (8.1, 1), (15.5, 1), (16.1, 2), (3600, 2)):
        dp.put(
            "policer",
            "buckets",
            place,
            Bucket(TokenBucket(max(0, now() - int(idle * SECOND))), 0, 0),
        )
        results = [dp.send(udp()) for _ in range(3)]
        assert reasons(results) == [PASSES] * passing + [SENT] * (3 - passing), f"after {idle} s"


@pytest.mark.parametrize("size", [42, 60, 1514])
def test_bytes_of_a_frame(made, size: int) -> None:
    assert cost(made, udp(size), 0) == (1, size)


def tcp(payload: int) -> Packet:
    head = Ether(src="02:00:00:00:01:00", dst="02:00:00:00:00:01")
    return head / IP(src=SENDER, dst=RECEIVER) / TCP(flags="A") / Raw(bytes(payload))


@pytest.mark.parametrize(
    ("payload", "packets"), [(2000, 2), (2001, 3), (1500, 2), (1000, 1), (60, 1)]
)
def test_segments_of_a_gso_packet_repeat_their_headers(made, payload: int, packets: int) -> None:
    headers = 14 + 20 + 20
    assert cost(made, tcp(payload), 1000) == (packets, payload + packets * headers)


def test_segments_of_datagrams_repeat_theirs(made) -> None:
    assert cost(made, udp(42 + 2500), 1000) == (3, 2500 + 3 * 42)


def cost(made: Any, frame: Packet, gso_size: int) -> tuple[int, int]:
    """Packets that a frame is dropped as, and bytes that it takes when it passes: at 1 µs each."""
    dp = made(limited(egress="8M"), policer={"min_burst_bytes": 1 << 20})
    dp.lose_records()
    began = now() - SECOND // 2
    dp.put("policer", "buckets", key(dp, EGRESS), Bucket(TokenBucket(began), 0, 0))
    assert dp.send(frame, gso_size=gso_size).verdict == "redirect"
    taken = dp.table("policer", "buckets")[key(dp, EGRESS)].bits.used_ns - began
    assert taken % 1000 == 0
    dp.put("policer", "buckets", key(dp, EGRESS), Bucket(TokenBucket(now() + SECOND), 0, 0))
    assert dp.send(frame, gso_size=gso_size).verdict == "drop"
    bucket = dp.table("policer", "buckets")[key(dp, EGRESS)]
    assert bucket.dropped_bytes * 1000 == taken
    return bucket.dropped_packets, taken // 1000


def test_what_is_larger_than_the_bucket_passes_a_full_one_and_is_paid_for(made) -> None:
    dp = made(limited(egress="1k"), policer={"min_burst_bytes": 1514})
    dp.lose_records()
    began = now()
    large = tcp(3300)
    assert reasons([dp.send(large, gso_size=1000)]) == [PASSES]
    bucket = dp.table("policer", "buckets")[key(dp, EGRESS)]
    # It took 3,516 bytes of the 1,514 there were: what is missing takes 16 s to come.
    assert bucket.bits.used_ns - began == pytest.approx(16.016 * SECOND, abs=SECOND)
    assert reasons([dp.send(udp(60))]) == [SENT]
    after = dp.table("policer", "buckets")[key(dp, EGRESS)]
    assert after.bits.used_ns == bucket.bits.used_ns, "the debt stands"
    dp.put("policer", "buckets", key(dp, EGRESS), Bucket(TokenBucket(now() - 11 * SECOND), 0, 0))
    assert reasons([dp.send(large, gso_size=1000)]) == [SENT], "it is full after 12.1 s"


@both_modes
def test_a_change_takes_effect_at_once_and_keeps_the_bucket(made, mode) -> None:
    dp = made(limited(egress="1k"), mode=mode)
    assert reasons([dp.send(udp()) for _ in range(3)]) == [PASSES, PASSES, SENT]
    before = dp.table("policer", "buckets")
    dp.apply(limited(egress="1G", ingress="1G"))
    assert dp.table("policer", "buckets") == before
    assert reasons([dp.send(udp()) for _ in range(3)]) == [PASSES] * 3
    dp.apply(limited(egress="1k"))
    # A bucket that was half full is half full at the new rate.
    dp.put("policer", "buckets", key(dp, EGRESS), Bucket(TokenBucket(now() - 9 * SECOND), 7, 7))
    assert reasons([dp.send(udp()) for _ in range(2)]) == [PASSES, SENT]
    assert dp.table("policer", "buckets")[key(dp, EGRESS)].dropped_packets == 8
    dp.apply(limited(egress="nonsense"))
    assert reasons([dp.send(udp()) for _ in range(3)]) == [PASSES] * 3
    assert key(dp, EGRESS) not in dp.table("policer", "buckets"), "it goes with its rate"


def test_a_debt_of_a_slow_rate_is_cut_at_a_fast_one(made) -> None:
    dp = made(limited(egress="1G"))  # the largest packet takes 4.2 ms
    dp.put("policer", "buckets", key(dp, EGRESS), Bucket(TokenBucket(now() + 3600 * SECOND), 0, 0))
    assert dp.send(udp()).reason == SENT
    bucket = dp.table("policer", "buckets")[key(dp, EGRESS)]
    assert bucket.bits.used_ns <= now() + SECOND // 200
    time.sleep(0.05)
    assert dp.send(udp()).reason == PASSES


def test_what_is_limited_no_more_takes_its_bucket_along(made) -> None:
    dp = made(limited(egress="1k"), limited("d", ingress="1k"))
    dp.send(udp())
    assert set(dp.table("policer", "buckets")) == {key(dp, EGRESS), key(dp, INGRESS, LAST)}
    dp.apply(limited(egress="2k"))
    assert key(dp, EGRESS) in dp.table("policer", "buckets"), "another rate, and the same bucket"
    dp.delete(limited(egress="2k"))
    assert reasons([dp.send(udp())]) == [PASSES]
    assert list(dp.table("policer", "buckets")) == [key(dp, INGRESS, LAST)]


def test_cpus_at_once_take_no_more_than_there_is(made) -> None:
    """What passed is what was taken, to the nanosecond, although CPUs take at the same time."""
    dp = made(
        limited(egress="8M"),
        policer={"burst_seconds": 60.0},
        outlet={"routed": False},
    )
    place, began, each = key(dp, EGRESS), now() - 10 * SECOND, 100_000
    dp.put("policer", "buckets", place, Bucket(TokenBucket(began), 0, 0))
    dp.send(udp(100))

    def run(cpu: int) -> None:
        os.sched_setaffinity(0, {cpu})
        dp.send(udp(100), repeat=each)

    cpus = os.sched_getaffinity(0)
    threads = [threading.Thread(target=run, args=(cpu,)) for cpu in (min(cpus), max(cpus))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (bucket,) = dp.table("policer", "buckets").values()
    passed = 1 + 2 * each - bucket.dropped_packets
    assert bucket.bits.used_ns - began == passed * 100_000
    assert 100_000 <= passed < 2 * each
    assert bucket.bits.used_ns <= now()
    packets = Tuple(ip_address(SENDER), ip_address(RECEIVER), 4000, 53, 17)
    assert packets in dp.flows()
