"""The test kit itself, on an empty stack: what every cube's packet tests stand on."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Raw

from cubelet_hooks.flows import FlowFlag, FlowState

A, B = "02:00:00:00:01:00", "02:00:00:00:01:01"
ROUTER = "02:00:00:00:00:01"


def frame(**fields):
    ip = {"src": "10.1.0.2", "dst": "10.1.0.5", "ttl": 64} | fields
    return Ether(src=A, dst=ROUTER) / IP(**ip) / UDP(sport=1000, dport=53) / Raw(b"question")


def rebuilt(packet):
    """The packet with its checksums worked out anew."""
    copy = packet.copy()
    for layer in (IP, TCP, UDP, ICMP):
        if layer in copy:
            copy[layer].chksum = None
    return Ether(bytes(copy))


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_a_packet_is_routed_and_makes_two_records(datapath, mode):
    dp = datapath(mode=mode)
    result = dp.send(frame())
    assert (result.verdict, result.leaves, result.reason) == ("redirect", "pod", "core/none")
    assert result.packet[IP].ttl == 63
    assert bytes(result.packet) == bytes(rebuilt(result.packet))
    flows = dp.flows()
    assert len(flows) == 2
    assert {flow.state for flow in flows.values()} == {FlowState.PENDING}
    assert sorted(flow.packets for flow in flows.values()) == [0, 1]


def test_a_packet_after_the_reply_moves_the_flow_to_the_table_of_replied_flows(datapath):
    dp = datapath()
    dp.send(frame())
    reply = (
        Ether(src="02:00:00:00:ff:01", dst=ROUTER)
        / IP(src="10.1.0.5", dst="10.1.0.2")
        / UDP(sport=53, dport=1000)
        / Raw(b"answer")
    )
    result = dp.send(reply, pod="default/d")
    assert (result.verdict, result.hop.ifindex) == (
        "redirect",
        dp.network.ports["default/a"].ifindex,
    )
    assert not dp.table("cubelet", "flows"), "one exchange, as with DNS: it ends soon"
    assert dp.send(frame()).verdict == "redirect"
    assert dp.send(reply, pod="default/d").packet[Ether].dst == A
    established = dp.table("cubelet", "flows")
    assert [flow.state for flow in established.values()] == [FlowState.ESTABLISHED] * 2
    assert not dp.table("cubelet", "pending")
    assert sum(f.packets for f in dp.flows().values() if f.flags & FlowFlag.REPLY) == 2


def test_another_pod_cannot_use_the_flow_or_the_address(datapath):
    dp = datapath()
    assert dp.send(frame()).verdict == "redirect"
    assert dp.send(frame(), pod="default/b").reason == "core/wrong_port"
    assert dp.send(frame(src="10.1.0.9"), pod="default/b").reason == "core/spoofed"


def test_an_expired_packet_is_answered_and_quoted_as_sent(datapath):
    dp = datapath()
    sent = frame(ttl=1)
    result = dp.send(sent)
    assert (result.verdict, result.answered, result.reason) == ("redirect", True, "core/ttl")
    assert (result.packet[IP].src, result.packet[IP].dst) == ("10.1.0.1", "10.1.0.2")
    assert (result.packet[ICMP].type, result.packet[ICMP].code) == (11, 0)
    assert bytes(result.packet[ICMP].payload).startswith(bytes(sent[IP]))
    assert bytes(result.packet) == bytes(rebuilt(result.packet))
    assert not dp.flows()


def test_too_big_a_packet_that_may_not_be_fragmented_is_answered_with_the_mtu(datapath):
    dp = datapath(settings={"outlet": {"mtu": 1000}})
    big = Ether(src=A, dst=ROUTER) / IP(src="10.1.0.2", dst="10.1.0.5", flags="DF") / UDP()
    result = dp.send(big / Raw(bytes(1200)))
    assert (result.answered, result.reason) == (True, "core/too_big")
    assert (result.packet[ICMP].type, result.packet[ICMP].code) == (3, 4)
    assert result.packet[ICMP].nexthopmtu == 1000
    assert bytes(result.packet) == bytes(rebuilt(result.packet))


def test_truncated_frames_are_dropped_with_a_reason(datapath):
    dp = datapath()
    whole = bytes(frame())
    for length in range(34, 42):
        assert dp.send(Ether(whole[:length])).reason == "core/malformed"
