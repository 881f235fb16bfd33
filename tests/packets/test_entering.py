"""Where packets may enter: a flow's own port, a pod's own address, and what is ours at all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address

import msgspec
import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from cubelet.composer.exposed import ExposedAddress, ExposedKey
from cubelet_hooks.objects import HostPort, Protocol

from .rig import GATEWAY, NODE, OUTSIDE, REMOTE, VIP, A, B, Rig, arrives, kept, mac_of
from .shapes import Ends, Peer, direct, echo, hopped, tcp, through, udp

CLIENT, SERVER = Peer("a", A, 1000), Peer("b", B, 8080)
AWAY, FAR, HOST = (
    Peer("uplink", OUTSIDE, 443),
    Peer("overlay", REMOTE, 443),
    Peer("host", GATEWAY, 7),
)
PEERS = {"pod": SERVER, "uplink": AWAY, "overlay": FAR, "host": HOST}
UNKNOWN = "192.0.2.77"


@pytest.mark.parametrize("replied", [False, True])
@pytest.mark.parametrize("port", ["c", "host", "overlay", "uplink"])
def test_a_flows_packets_enter_where_it_enters(rig: Rig, port: str, replied: bool) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(rig)
    if replied:
        talk.back(rig)
    before = rig.dp.flows()
    for packet in (talk.first, talk.answer):
        kept(rig.send(packet, port), "core/wrong_port")
    assert rig.dp.flows() == before


def test_a_reply_does_not_enter_by_its_flows_first_port(rig: Rig) -> None:
    talk = direct(CLIENT, SERVER, udp)
    talk.opened(rig)
    kept(rig.send(talk.answer, "a"), "core/wrong_port")
    assert rig.table("pending")


@pytest.mark.parametrize("source", [B, GATEWAY, NODE, OUTSIDE, "0.0.0.0"])
def test_a_pod_sends_from_its_own_address(rig: Rig, source: str) -> None:
    for shape in (tcp, udp, echo):
        kept(rig.send(shape(Ends(source, 1, B, 2, "S"))), "core/spoofed")
    assert not rig.dp.flows()


def test_our_pods_are_not_beyond_the_uplink(rig: Rig) -> None:
    kept(rig.send(udp(CLIENT.to(SERVER)), "uplink"), "core/martian")
    assert not rig.dp.flows()


@pytest.mark.parametrize("client", PEERS.values(), ids=PEERS.keys())
def test_from_every_class_to_a_pod_and_back(rig: Rig, client: Peer) -> None:
    rig.path(A, "c")  # so that a pod's client is another
    direct(client, Peer("c", A, 80)).whole(rig)


@pytest.mark.parametrize("server", PEERS.values(), ids=PEERS.keys())
def test_from_a_pod_to_every_class_and_back(rig: Rig, server: Peer) -> None:
    direct(CLIENT, server).whole(rig)


def test_a_node_port(rig: Rig) -> None:
    rig.vip(NODE, 30001, A, 80)
    talk = direct(AWAY, Peer("a", A, 80))
    through(talk, Peer("", NODE, 30001)).whole(rig)


@pytest.mark.parametrize(
    ("own", "every", "port", "ours"),
    [
        (0, 1, 80, True),
        (0, 0, 80, False),
        (0, 0, 30001, True),
        (1, 0, 80, False),
        (1, 0, 30001, True),
        (1, 0, 20001, True),
    ],
)
def test_an_exposed_address(rig: Rig, own: int, every: int, port: int, ours: bool) -> None:
    """All of a Service's is ours; of others' and the node's addresses, the ports that we use."""
    address = "203.0.113.5"
    rig.vip(address, port, A, 80)
    talk = through(direct(AWAY, Peer("a", A, 80)), Peer("", address, port))
    assert rig.send(talk.first, "uplink").verdict == "pass"
    key = ExposedKey(address=IPv4Address(address))
    rig.dp.put("cubelet", "exposed", key, ExposedAddress(own=own, every=every))
    if ours:
        talk.whole(rig)
    else:
        assert rig.send(talk.first, "uplink").verdict == "pass"
        assert not rig.dp.flows()


def asking(rig: Rig, *host_ports: HostPort) -> None:
    """Pod a asks for these host ports, or for none."""
    port = rig.dp.network.ports["default/a"]
    rig.dp.apply(msgspec.structs.replace(port, host_ports=host_ports))


@pytest.mark.parametrize(("shape", "protocol"), [(tcp, "TCP"), (udp, "UDP")], ids=["tcp", "udp"])
@pytest.mark.parametrize("number", [1, 63, 64, 443, 65535])
def test_a_host_port_of_its_protocol(
    rig: Rig, shape: Callable[..., Packet], protocol: Protocol, number: int
) -> None:
    """Let in at the node's own addresses, whatever the pod's port; its neighbours are not."""
    rig.vip(NODE, number, A, 80)
    talk = through(direct(AWAY, Peer("a", A, 80), shape), Peer("", NODE, number))
    assert rig.send(talk.first, "uplink").verdict == "pass"
    others: tuple[Protocol, ...] = ("TCP", "UDP", "SCTP")
    asking(rig, *(HostPort(number, 80, each) for each in others if each != protocol))
    assert rig.send(talk.first, "uplink").verdict == "pass"
    near = (each for each in (number - 1, number + 1, number ^ 64) if 0 < each < 65536)
    asking(rig, *(HostPort(each, 80, protocol) for each in near))
    assert rig.send(talk.first, "uplink").verdict == "pass"
    assert not rig.dp.flows()
    asking(rig, HostPort(number, 80, protocol))
    talk.whole(rig)
    asking(rig)


@pytest.mark.parametrize("flags", ["S", "A", "FA", "R", "SA"])
def test_what_a_host_process_serves_on_a_host_ports_number_is_left_to_it(
    rig: Rig, flags: str
) -> None:
    """On another address of the node's than the pod's: no cube translates it."""
    asking(rig, HostPort(443, 80))
    for packet in (
        IP(src=OUTSIDE, dst=NODE) / TCP(sport=5, dport=443, flags=flags),
        IP(src=OUTSIDE, dst=NODE) / UDP(sport=5, dport=443) / Raw(b"x"),
    ):
        frame = rig.framed(packet, "uplink")
        result = rig.send(frame, "uplink")
        assert (result.verdict, result.reason) == ("pass", "core/none")
        assert bytes(result.packet) == bytes(frame)
    assert not rig.dp.flows()
    asking(rig)


def test_a_reply_through_the_uplink_goes_to_its_next_hop(fused: Rig) -> None:
    """The test network's default route: 172.18.0.254."""
    talk = direct(AWAY, Peer("a", A, 80))
    talk.opened(fused)
    flow = fused.flow(talk.answer)
    assert flow is not None
    assert flow.leaves.remote == 0xAC1200FE


later = fragment(IP(src=OUTSIDE, dst=NODE, id=9) / UDP(dport=53) / Raw(bytes(100)), 64)[1]
NOT_OURS: dict[str, Packet] = {
    "tcp": IP(src=OUTSIDE, dst=NODE) / TCP(dport=22, flags="S"),
    "tcp reset": IP(src=OUTSIDE, dst=NODE) / TCP(dport=6443, flags="R"),
    "vxlan": IP(src="172.18.0.3", dst=NODE) / UDP(sport=40000, dport=4789) / Raw(bytes(60)),
    "echo": IP(src=OUTSIDE, dst=NODE) / ICMP(id=15000) / Raw(b"ping"),
    "echo reply": IP(src=OUTSIDE, dst=NODE) / ICMP(type=0, id=15000) / Raw(b"ping"),
    "high port": IP(src=OUTSIDE, dst=NODE) / TCP(dport=45000, flags="SA"),
    "unused port": IP(src=OUTSIDE, dst=NODE) / UDP(dport=30123) / Raw(b"x"),
    "unused tcp port": IP(src=OUTSIDE, dst=NODE) / TCP(dport=12001, flags="A"),
    "later fragment": later,
    "esp": IP(src=OUTSIDE, dst=NODE, proto=50) / Raw(bytes(40)),
    "multicast": IP(src=OUTSIDE, dst="224.0.0.5", proto=89, ttl=1) / Raw(bytes(44)),
    "elsewhere": IP(src=OUTSIDE, dst=UNKNOWN) / TCP(dport=80),
    "no icmp error of ours": IP(src=OUTSIDE, dst=NODE)
    / ICMP(type=3, code=3)
    / (IP(src=NODE, dst=OUTSIDE) / UDP(sport=45000, dport=53)),
    "malformed": IP(src=OUTSIDE, dst=NODE, ihl=4) / TCP(dport=30001),
    "ttl one": IP(src=OUTSIDE, dst=NODE, ttl=1) / UDP(dport=30001) / Raw(b"x"),
}


@pytest.mark.parametrize("packet", NOT_OURS.values(), ids=NOT_OURS.keys())
def test_what_is_not_ours_passes_untouched(rig: Rig, packet: Packet) -> None:
    frame = rig.framed(packet, "uplink")
    result = rig.send(frame, "uplink")
    assert (result.verdict, result.reason) == ("pass", "core/none")
    assert bytes(result.packet) == bytes(frame)
    assert not rig.dp.flows()


@pytest.mark.parametrize(
    "payload",
    [ARP(psrc=OUTSIDE, pdst=NODE), IPv6(dst="ff02::1") / Raw(bytes(20)), Dot1Q(vlan=5) / IP()],
    ids=["arp", "ipv6", "vlan"],
)
def test_frames_of_other_protocols(rig: Rig, payload: Packet) -> None:
    """The uplink's are the node's own; the overlay carries none; others are for the core."""
    frame = Ether(src=mac_of("uplink"), dst="ff:ff:ff:ff:ff:ff") / payload
    result = rig.send(frame, "uplink")
    assert (result.verdict, bytes(result.packet)) == ("pass", bytes(frame))
    kept(rig.send(frame, "overlay"), "core/unsupported")
    assert not rig.dp.flows()


def test_a_first_fragment_to_the_node_takes_its_later_ones_with_it(rig: Rig) -> None:
    sent = IP(src=OUTSIDE, dst=NODE, id=9) / UDP(sport=5, dport=30123) / Raw(bytes(100))
    for part in fragment(sent, 64):
        frame = rig.framed(part, "uplink")
        result = rig.send(frame, "uplink")
        assert (result.verdict, bytes(result.packet)) == ("pass", bytes(frame))


def test_what_the_stack_is_sent_by_others_goes_through_the_gateway(rig: Rig) -> None:
    arrives(
        rig.send(tcp(Ends(A, 1, NODE, 22, "S"))), "host", hopped(tcp(Ends(A, 1, NODE, 22, "S")))
    )


def test_what_is_translated_to_the_node_goes_through_the_gateway(rig: Rig) -> None:
    """It cannot be left to the stack untouched."""
    rig.vip(VIP, 80, NODE, 6443)
    rig.vip(NODE, 30001, NODE, 6443)
    talk = direct(AWAY, Peer("host", NODE, 6443))
    through(talk, Peer("", NODE, 30001)).whole(rig)


def test_a_reply_to_a_pods_ping_is_the_nodes_too_whatever_becomes_of_the_pods(rig: Rig) -> None:
    """They may have the same identifier: the frame goes to the node as it came."""
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    away = Peer("uplink", OUTSIDE, 0)
    talk = replace(direct(Peer("a", A, 20001), away, echo), seen=Peer("", NODE, 20001))
    talk.whole(rig)
    expiring = talk.answer
    expiring.ttl = 1
    rig.close_gate(A, OUTSIDE)
    for answer in (expiring, talk.answer):
        frame = rig.framed(answer, "uplink")
        result = rig.dp.send(frame, "uplink")
        assert (result.verdict, result.hop, bytes(result.packet)) == ("pass", None, bytes(frame))
        rig.age(A)


def test_parts_of_a_large_reply_to_a_ping_are_the_nodes_too(rig: Rig) -> None:
    rig.masquerade(A, "uplink", NODE, 20001, 1)
    rig.send(echo(Ends(A, 20001, OUTSIDE, 0)))
    whole = IP(src=OUTSIDE, dst=NODE, id=9) / ICMP(type=0, id=20001) / Raw(bytes(1000))
    for part in fragment(whole, 400):
        result = rig.send(part, "uplink")
        assert result.leaves == "pod"
        assert (result.packet[IP].dst, result.packet[IP].frag) == (A, part.frag)
