"""The bridge's packets: each case is a whole frame in, and what became of it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.tcx import Direction, TcxLink
from cubelet.composer.core import Trace
from cubelet.testkit import Datapath, Result
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC
from cubelet_bridge.cube import Bridge
from cubelet_bridge.records import FdbKey, FloodRate, FloodRateKey, LearnedEntry
from cubelet_hooks.flows import Flow, FlowFlag

if TYPE_CHECKING:
    from cubelet.testkit.network import TestNetwork

MAC_A, MAC_B, MAC_C = (f"02:00:00:00:01:0{n}" for n in range(3))
IP_A, IP_B, IP_C = "10.1.0.2", "10.1.0.3", "10.1.0.4"
GATEWAY, UNUSED = "10.1.0.1", "10.1.0.99"
NESTED = "06:00:00:00:00:07"
"""A station inside a pod, with a MAC address of its own."""
BROADCAST = "ff:ff:ff:ff:ff:ff"
TEST_TYPE = 0x88B5  # IEEE 802: for local experiments
ETH_P_ALL = 3

Compose = Callable[..., Datapath]


@pytest.fixture(params=["fused", "tailcall"])
def bridge(datapath: Compose, request: pytest.FixtureRequest) -> Datapath:
    return datapath(core=[Bridge], mode=request.param)


@pytest.fixture(params=["fused", "tailcall"])
def tagging(datapath: Compose, request: pytest.FixtureRequest) -> Datapath:
    """A bridge that is told to let tagged frames pass."""
    return datapath(core=[Bridge], mode=request.param, settings={"bridge": {"vlans": True}})


@pytest.fixture(scope="module")
def jiffies() -> int:
    """How many there are in a second."""
    with Clock() as clock:
        return clock.hz


def frame(dst: str, src: str = MAC_A) -> Packet:
    return Ether(dst=dst, src=src, type=TEST_TYPE) / bytes(range(46))


def udp(dst_mac: str, dst: str, src_mac: str = MAC_A, src: str = IP_A) -> Packet:
    return Ether(dst=dst_mac, src=src_mac) / IP(src=src, dst=dst) / UDP(sport=1000, dport=53) / b"q"


def asks(target: str, sender: str = IP_A, dst: str = BROADCAST, op: str = "who-has") -> Packet:
    return Ether(dst=dst, src=MAC_A) / ARP(op=op, hwsrc=MAC_A, psrc=sender, pdst=target)


def ifindex(network: TestNetwork, pod: str) -> int:
    return network.ports[f"default/{pod}"].ifindex


def outcome(result: Result) -> tuple[str, str]:
    return result.verdict, result.reason


def forward(bridge: Datapath) -> Flow:
    """The record of the only flow's forward direction."""
    (found,) = [flow for flow in bridge.flows().values() if not flow.flags & FlowFlag.REPLY]
    return found


@contextmanager
def heard(network: TestNetwork) -> Iterator[Callable[[Packet], str]]:
    """Listens at the pods' ends; the function says which of them got a frame, as letters."""
    with ExitStack() as stack:
        ends = {}
        for port in network.ports.values():
            end = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            end.bind((f"{port.host_ifname}p", ETH_P_ALL))
            end.setblocking(False)
            ends[port.name] = end
        yield lambda sent: "".join(name for name, end in ends.items() if _got(end, bytes(sent)))


def _got(end: socket.socket, wanted: bytes) -> bool:
    """Whether exactly one such frame has arrived."""
    found = 0
    while True:
        try:
            found += end.recv(2048) == wanted
        except BlockingIOError:
            assert found <= 1, f"{found} copies"
            return bool(found)


@pytest.mark.parametrize("sender", [IP_A, "0.0.0.0"], ids=["question", "probe"])
@pytest.mark.parametrize(
    ("target", "mac"),
    [(IP_B, MAC_B), (GATEWAY, ROUTER_MAC)],
    ids=["of a pod", "of the gateway"],
)
def test_arp_is_answered(bridge: Datapath, sender: str, target: str, mac: str) -> None:
    result = bridge.send(asks(target, sender))
    answer = Ether(dst=MAC_A, src=mac) / ARP(
        op="is-at", hwsrc=mac, psrc=target, hwdst=MAC_A, pdst=sender
    )
    assert outcome(result) == ("redirect", "core/none")
    assert result.answered
    assert result.packet == Ether(bytes(answer))


def test_arp_of_the_host_is_answered(bridge: Datapath) -> None:
    question = Ether(dst=BROADCAST, src=GATEWAY_MAC) / ARP(
        hwsrc=GATEWAY_MAC, psrc=GATEWAY, pdst=IP_B
    )
    answer = Ether(dst=GATEWAY_MAC, src=MAC_B) / ARP(
        op="is-at", hwsrc=MAC_B, psrc=IP_B, hwdst=GATEWAY_MAC, pdst=GATEWAY
    )
    result = bridge.send(question, enters="host")
    assert result.answered
    assert result.packet == Ether(bytes(answer))


def test_padding_of_a_question_is_kept(bridge: Datapath) -> None:
    result = bridge.send(asks(IP_B) / bytes(18))
    assert result.answered
    assert len(bytes(result.packet)) == 60


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(asks(IP_A, "0.0.0.0"), id="probe for its own address (RFC 5227)"),
        pytest.param(asks(IP_A), id="announcement"),
        pytest.param(asks(UNUSED), id="unknown address"),
        pytest.param(asks(IP_B, op="is-at"), id="broadcast answer"),
        pytest.param(frame(BROADCAST), id="broadcast"),
        pytest.param(frame("01:00:5e:00:00:fb"), id="multicast"),
        pytest.param(frame(NESTED), id="unknown station"),
        pytest.param(udp("01:00:5e:00:00:fb", "224.0.0.251"), id="IP multicast"),
        pytest.param(udp(BROADCAST, "10.1.0.255"), id="IP broadcast"),
    ],
)
def test_floods_reach_all_other_pods(
    bridge: Datapath, cubelet_network: TestNetwork, packet: Packet
) -> None:
    with heard(cubelet_network) as by:
        assert outcome(bridge.send(packet)) == ("drop", "core/none")
        assert by(packet) == "bcd"
    assert not bridge.flows()


def test_floods_of_the_host_reach_all_pods(bridge: Datapath, cubelet_network: TestNetwork) -> None:
    packet = frame(BROADCAST, src=GATEWAY_MAC)
    with heard(cubelet_network) as by:
        bridge.send(packet, enters="host")
        assert by(packet) == "abcd"


def test_a_pod_that_is_gone_gets_no_floods(bridge: Datapath, cubelet_network: TestNetwork) -> None:
    bridge.delete(cubelet_network.ports["default/b"])
    packet = frame(BROADCAST)
    with heard(cubelet_network) as by:
        bridge.send(packet)
        assert by(packet) == "cd"


REFUSED = {
    "from another pod's address": (frame(MAC_B, src=MAC_C), "bridge/mac_spoofed"),
    "from the router's address": (frame(MAC_B, src=ROUTER_MAC), "bridge/mac_spoofed"),
    "from the gateway's address": (frame(MAC_B, src=GATEWAY_MAC), "bridge/mac_spoofed"),
    "from a group": (frame(MAC_B, src="03:00:00:00:00:01"), "bridge/mac_spoofed"),
    "IP from another pod": (udp(ROUTER_MAC, "192.0.2.1", src_mac=MAC_C), "bridge/mac_spoofed"),
    "ARP as another pod": (asks(UNUSED, IP_B), "bridge/arp_spoofed"),
    "announcement of another pod": (asks(IP_B, IP_B), "bridge/arp_spoofed"),
    "ARP as the gateway": (asks(IP_B, GATEWAY, dst=MAC_B, op="is-at"), "bridge/arp_spoofed"),
    "truncated ARP": (Ether(bytes(asks(IP_B))[:41]), "bridge/malformed_arp"),
    "ARP of another hardware": (
        Ether(dst=BROADCAST, src=MAC_A) / ARP(hwtype=6, pdst=IP_B),
        "bridge/malformed_arp",
    ),
    "LLDP": (frame("01:80:c2:00:00:0e"), "bridge/reserved"),
    "to itself": (frame(MAC_A), "bridge/same_port"),
    "IP to itself": (udp(MAC_A, IP_A), "bridge/same_port"),
    "IP to the wrong pod": (udp(MAC_B, IP_C), "bridge/wrong_address"),
    "IP through a pod": (udp(MAC_B, "192.0.2.1"), "bridge/wrong_address"),
    "no IP to the router": (frame(ROUTER_MAC), "bridge/not_routed"),
    "IPv6": (Ether(dst=MAC_B, src=MAC_A, type=0x86DD) / bytes(60), "bridge/unfiltered_ip"),
    "second tag": (Ether(dst=MAC_B, src=MAC_A, type=0x8100) / bytes(60), "bridge/unfiltered_ip"),
    "service tag": (Ether(dst=MAC_B, src=MAC_A, type=0x88A8) / bytes(60), "bridge/unfiltered_ip"),
    "IP to an unknown station": (udp(NESTED, IP_B), "bridge/unknown_neighbor"),
    "IP to everybody": (udp(BROADCAST, IP_B), "bridge/unknown_neighbor"),
    "ARP as the node": (asks(IP_B, "172.18.0.2", dst=MAC_B, op="is-at"), "bridge/arp_spoofed"),
    "left to the router": (udp(ROUTER_MAC, IP_B), "core/no_path"),
}


@pytest.mark.parametrize(("packet", "reason"), REFUSED.values(), ids=REFUSED)
def test_frames_that_are_not_forwarded(bridge: Datapath, packet: Packet, reason: str) -> None:
    assert outcome(bridge.send(packet)) == ("drop", reason)
    assert not bridge.flows()


def test_frames_of_no_ip_go_to_their_station(
    bridge: Datapath, cubelet_network: TestNetwork
) -> None:
    result = bridge.send(frame(MAC_B))
    assert outcome(result) == ("redirect", "core/none")
    assert result.hop is not None
    assert result.hop.ifindex == ifindex(cubelet_network, "b")
    assert result.packet == Ether(bytes(frame(MAC_B)))
    assert not bridge.flows()


def test_ip_is_forwarded_untouched_and_remembered(
    bridge: Datapath, cubelet_network: TestNetwork
) -> None:
    question, answer = udp(MAC_B, IP_B), udp(MAC_A, IP_A, src_mac=MAC_B, src=IP_B)
    answer[UDP].sport, answer[UDP].dport = 53, 1000
    for packet, pod, peer in ((question, "a", "b"), (answer, "b", "a"), (question, "a", "b")):
        result = bridge.send(packet, pod=f"default/{pod}")
        assert outcome(result) == ("redirect", "core/none")
        assert result.hop is not None
        assert result.hop.ifindex == ifindex(cubelet_network, peer)
        assert result.packet == Ether(bytes(packet))
    assert not forward(bridge).flags & FlowFlag.ROUTED


def test_a_flow_follows_its_address_to_another_pod(
    bridge: Datapath, cubelet_network: TestNetwork
) -> None:
    """A client's ARP cache outlives a pod; its successor may have another MAC address."""
    bridge.send(udp(MAC_B, IP_B))
    port = cubelet_network.ports["default/b"]
    bridge.apply(msgspec.structs.replace(port, mac=NESTED))
    result = bridge.send(udp(MAC_B, IP_B))
    assert result.packet == Ether(bytes(udp(NESTED, IP_B)))
    assert forward(bridge).leaves.dst_mac == NESTED


def test_a_flow_to_a_pod_that_is_gone_ends(bridge: Datapath, cubelet_network: TestNetwork) -> None:
    bridge.send(udp(MAC_B, IP_B))
    bridge.delete(cubelet_network.ports["default/b"])
    for _ in range(2):
        result = bridge.send(udp(MAC_B, IP_B))
        assert outcome(result) == ("redirect", "bridge/unknown_neighbor")
        assert result.answered
        assert (result.packet[ICMP].type, result.packet[ICMP].code) == (3, 1)


def test_a_connection_to_a_pod_that_is_gone_is_reset(
    bridge: Datapath, cubelet_network: TestNetwork
) -> None:
    def segment(flags: str) -> Packet:
        ends = Ether(dst=MAC_B, src=MAC_A) / IP(src=IP_A, dst=IP_B)
        return ends / TCP(sport=1000, dport=53, flags=flags, seq=7, ack=9)

    bridge.send(segment("S"))
    bridge.delete(cubelet_network.ports["default/b"])
    for _ in range(2):
        result = bridge.send(segment("A"))
        assert outcome(result) == ("redirect", "bridge/unknown_neighbor")
        assert (result.packet[TCP].flags, result.packet[TCP].seq) == ("R", 9)


def epoch(bridge: Datapath) -> int:
    """The epoch that programs raise: the second word of the map's only value."""
    raw = bridge.maps["cubelet_epochs"].lookup(bytes(4))
    assert raw is not None
    return int.from_bytes(raw[4:8], "little")


def test_a_station_is_learned_and_moves(bridge: Datapath, cubelet_network: TestNetwork) -> None:
    a, c = (ifindex(cubelet_network, pod) for pod in "ac")
    before = epoch(bridge)
    bridge.send(frame(MAC_B, src=NESTED), pod="default/a")
    assert bridge.table("bridge", "learned")[FdbKey(NESTED, 0)].ifindex == a
    assert outcome(bridge.send(frame(NESTED), pod="default/a")) == ("drop", "bridge/same_port")
    result = bridge.send(frame(NESTED, src=MAC_B), pod="default/b")
    assert result.hop is not None
    assert result.hop.ifindex == a
    bridge.send(frame(MAC_B, src=NESTED), pod="default/a")
    assert epoch(bridge) == before
    bridge.send(frame(MAC_B, src=NESTED), pod="default/c")
    assert epoch(bridge) == before + 1
    result = bridge.send(frame(NESTED, src=MAC_B), pod="default/b")
    assert result.hop is not None
    assert result.hop.ifindex == c


def test_ip_to_a_learned_station_needs_its_pods_address(bridge: Datapath) -> None:
    bridge.send(frame(MAC_A, src=NESTED), pod="default/b")
    assert outcome(bridge.send(udp(NESTED, IP_C))) == ("drop", "bridge/wrong_address")
    assert outcome(bridge.send(udp(NESTED, IP_B))) == ("redirect", "core/none")
    assert forward(bridge).leaves.dst_mac == NESTED


@pytest.mark.parametrize(("seconds", "known"), [(299, True), (301, False)])
def test_a_silent_station_is_forgotten(
    bridge: Datapath, jiffies: int, seconds: int, known: bool
) -> None:
    bridge.send(frame(MAC_B, src=NESTED), pod="default/a")
    key = FdbKey(NESTED, 0)
    learned = bridge.table("bridge", "learned")[key]
    long_ago = (learned.seen - seconds * jiffies) % 2**32
    bridge.put("bridge", "learned", key, LearnedEntry(learned.ifindex, long_ago))
    result = bridge.send(frame(NESTED, src=MAC_B), pod="default/b")
    assert (result.verdict == "redirect") == known
    bridge.send(frame(MAC_B, src=NESTED), pod="default/a")
    assert bridge.send(frame(NESTED, src=MAC_B), pod="default/b").verdict == "redirect"


def test_pods_are_not_learned(bridge: Datapath) -> None:
    for packet in (frame(MAC_B), udp(MAC_B, IP_B), asks(UNUSED)):
        bridge.send(packet)
    assert not bridge.table("bridge", "learned")


LIMITED = {"bridge": {"flood_packets_per_second": 1, "flood_burst": 3}}


def test_floods_are_limited_by_source_port(
    datapath: Compose, cubelet_network: TestNetwork, jiffies: int
) -> None:
    bridge = datapath(core=[Bridge], settings=LIMITED)
    seen = [
        bridge.send(packet).reason for packet in (frame(BROADCAST), frame(NESTED), asks(UNUSED))
    ]
    assert seen == ["core/none"] * 3
    assert outcome(bridge.send(frame(BROADCAST))) == ("drop", "bridge/flood_limited")
    assert bridge.send(frame(BROADCAST, src=MAC_B), pod="default/b").reason == "core/none"
    assert bridge.send(frame(MAC_B)).verdict == "redirect"
    key = FloodRateKey(ifindex(cubelet_network, "a"))
    rate = bridge.table("bridge", "flood_rates")[key]
    earlier = FloodRate(rate.tokens, (rate.seen - jiffies) % 2**32)
    bridge.put("bridge", "flood_rates", key, earlier)
    seen = [bridge.send(frame(BROADCAST)).reason for _ in range(2)]
    assert seen == ["core/none", "bridge/flood_limited"]


def test_moves_are_limited_too(datapath: Compose, cubelet_network: TestNetwork) -> None:
    bridge = datapath(core=[Bridge], settings=LIMITED)
    moving = frame(MAC_C, src=NESTED)
    seen = [bridge.send(moving, pod=f"default/{pod}").reason for pod in "ab" * 5]
    # the first frame is no move; then each port has three tokens, after which it stays with a
    limited = "bridge/flood_limited"
    assert seen == ["core/none"] * 7 + [limited, "core/none", limited]
    assert epoch(bridge) == 6


@contextmanager
def received(bridge: Datapath, network: TestNetwork) -> Iterator[Callable[[Packet, str], int]]:
    """Frames over real devices, for tags: a trial run's frames cannot have any.

    The function sends a frame from a pod's end and says where it was redirected to.
    """
    with ExitStack() as stack:
        for port in network.ports.values():
            link = TcxLink.create(port.ifindex, bridge.programs.entries["pod"], Direction.INGRESS)
            stack.enter_context(link)

        def send(packet: Packet, pod: str) -> int:
            bridge.maps["cubelet_trace"].update(bytes(4), bytes(Trace.layout().size))
            with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as end:
                end.bind((f"{network.ports[f'default/{pod}'].host_ifname}p", 0))
                end.send(bytes(packet))
            for _ in range(20):  # a busy kernel receives later
                trace = Trace.unpack(bridge.maps["cubelet_trace"].lookup(bytes(4)) or b"")
                if trace.sent or trace.reason:
                    break
                time.sleep(0.001)
            return trace.hop.ifindex if trace.sent else -trace.reason

        yield send


def tagged(dst: str, vlan: int, src: str = MAC_A) -> Packet:
    return Ether(dst=dst, src=src) / Dot1Q(vlan=vlan, type=TEST_TYPE) / bytes(range(46))


def test_segments_are_apart(tagging: Datapath, cubelet_network: TestNetwork) -> None:
    b = ifindex(cubelet_network, "b")
    with received(tagging, cubelet_network) as send:
        assert send(tagged(BROADCAST, 5, src=NESTED), "b") == 0
        assert set(tagging.table("bridge", "learned")) == {FdbKey(NESTED, 5)}
        assert send(tagged(NESTED, 5), "a") == b
        assert send(tagged(NESTED, 6), "a") == 0
        assert send(frame(NESTED), "a") == 0
        # a pod's own address is configured for the untagged segment, and learned elsewhere
        assert send(tagged(MAC_B, 5), "a") == 0
        assert send(tagged(MAC_A, 5, src=MAC_B), "b") == ifindex(cubelet_network, "a")
        assert send(tagged(MAC_B, 5), "a") == b


def test_a_tag_does_not_hide_a_spoofed_address(
    tagging: Datapath, cubelet_network: TestNetwork
) -> None:
    with received(tagging, cubelet_network) as send:
        spoofed = tagging.reasons[-send(tagged(BROADCAST, 5, src=MAC_B), "a")]
        assert spoofed.name == "mac_spoofed"
    assert not tagging.table("bridge", "learned")


def test_tagged_frames_are_dropped_unless_allowed(
    bridge: Datapath, cubelet_network: TestNetwork
) -> None:
    """NetworkPolicy does not see what they carry."""
    with received(bridge, cubelet_network) as send:
        assert bridge.reasons[-send(tagged(MAC_B, 5), "a")].name == "tagged"
        assert bridge.reasons[-send(tagged(BROADCAST, 5, src=NESTED), "b")].name == "tagged"
    assert not bridge.table("bridge", "learned")


def test_a_tag_does_not_hide_ip(tagging: Datapath, cubelet_network: TestNetwork) -> None:
    """Linux takes a frame of VLAN 0 as untagged: that would pass by NetworkPolicy."""
    packet = Ether(dst=MAC_B, src=MAC_A) / Dot1Q(vlan=0) / IP(src=IP_A, dst=IP_B) / UDP()
    twice = Ether(dst=MAC_B, src=MAC_A) / Dot1Q(vlan=0) / packet[Dot1Q]
    with received(tagging, cubelet_network) as send:
        for each in (packet, twice):
            assert tagging.reasons[-send(each, "a")].name == "unfiltered_ip"
