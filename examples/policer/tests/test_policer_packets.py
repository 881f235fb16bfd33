"""Whole packets through real programs: needs root and BCC."""

from __future__ import annotations

import msgspec
import pytest
from cubelet_hooks.flows import Counter, Index
from cubelet_hooks.objects import Pod
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet_policer.cube import ANNOTATION, PolicerCube

STACKS = {port: [PolicerCube] for port in ["pod"]}
OUTLET = {"outlet": {"leaves": "pod"}}
"""Stands for the bridge and the router: all packets leave by one port."""

both_modes = pytest.mark.parametrize("mode", ["fused", "tailcall"])


def frame(dscp: int) -> Packet:
    ether = Ether(src="02:00:00:00:01:00", dst="02:00:00:00:00:01")
    return ether / IP(src="10.1.0.2", dst="10.1.0.5", tos=dscp << 2) / UDP(dport=53) / Raw(b"?")


def left(packet: Packet) -> Packet:
    """The packet as it leaves: one hop less to live, for the next one, checksums right."""
    copy = packet.copy()
    copy[Ether].dst, copy[Ether].src = "02:00:00:00:ff:01", packet[Ether].dst
    copy[IP].ttl -= 1
    return Ether(bytes(copy))


@both_modes
def test_packets_are_counted_by_code_point(datapath, mode) -> None:
    dp = datapath(stacks=STACKS, settings=OUTLET, mode=mode)
    sent = frame(46)
    results = [dp.send(sent), dp.send(sent), dp.send(frame(0))]
    assert [(each.verdict, each.reason) for each in results] == [("redirect", "core/none")] * 3
    assert bytes(results[0].packet) == bytes(left(sent))
    counters = dp.table("policer", "seen")
    assert counters[Index(46)] == Counter(packets=2, bytes=2 * len(sent[IP]))
    assert counters[Index(0)].packets == 1


@both_modes
def test_what_is_above_the_limit_is_dropped_with_the_reason(datapath, mode) -> None:
    settings = {"policer": {"max_dscp": 10}, **OUTLET}
    dp = datapath(stacks=STACKS, settings=settings, mode=mode)
    assert dp.send(frame(10)).verdict == "redirect"
    dropped = dp.send(frame(11))
    assert (dropped.verdict, dropped.reason) == ("drop", "policer/marked")


def test_a_pod_may_have_a_limit_of_its_own(datapath) -> None:
    dp = datapath(stacks=STACKS, settings=OUTLET)
    pod = Pod("default", "a", annotations={ANNOTATION: "8"})
    dp.apply(pod)
    assert dp.send(frame(9)).reason == "policer/marked"
    dp.apply(msgspec.structs.replace(pod, annotations={}))
    assert dp.send(frame(9)).verdict == "redirect"
