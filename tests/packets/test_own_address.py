"""What the node sends to its own address: taken off the loopback device, or left alone."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import IP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.bpf.testrun import skb_context
from cubelet.testkit import Result
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC

from .rig import GATEWAY, NODE, OUTSIDE, A, B, Rig, kept, same
from .shapes import Ends, Peer, Shape, Talk, echo, hopped, tcp, udp

LOOPBACK = 1
LOCALHOST = "127.0.0.1"
NOBODY = "00:00:00:00:00:00"
NODE_PORT, OWN_PORT = 30001, 8080


def looped(rig: Rig, packet: Packet | bytes) -> tuple[int, bytes]:
    """The program's answer on a packet of the loopback device, and what it made of the frame."""
    frame = packet if isinstance(packet, bytes) else bytes(Ether(src=NOBODY, dst=NOBODY) / packet)
    run = rig.dp.programs.entries["local"].test_run(frame, 1, skb_context(ifindex=LOOPBACK))
    return run.retval, run.packet


def taken(rig: Rig, packet: Packet) -> bool:
    """Whether it goes into the datapath, as the host's other packets do; else it is as it was."""
    answer, frame = looped(rig, packet)
    if answer == 0xFFFFFFFF:
        assert frame == bytes(Ether(src=NOBODY, dst=NOBODY) / packet)
        return False
    assert answer == 7
    assert frame == bytes(Ether(src=GATEWAY_MAC, dst=ROUTER_MAC) / packet)
    return True


@pytest.mark.parametrize("shape", [tcp, udp])
@pytest.mark.parametrize(
    ("dst", "port", "wanted"),
    [
        (NODE, NODE_PORT, True),
        (NODE, 30000, True),
        (NODE, 32767, True),
        (NODE, 29999, False),
        (NODE, 32768, False),
        (NODE, OWN_PORT, False),
        ("127.0.0.1", NODE_PORT, True),
        ("127.0.0.1", OWN_PORT, False),
        (GATEWAY, NODE_PORT, False),
        (B, NODE_PORT, False),
    ],
)
def test_ports_of_services_are_taken(fused: Rig, shape, dst: str, port: int, wanted: bool) -> None:
    assert taken(fused, shape(Ends(NODE, 40000, dst, port, "S"))) == wanted


def test_other_protocols_are_left_alone(fused: Rig) -> None:
    ping = echo(Ends(NODE, NODE_PORT, NODE, NODE_PORT))
    assert not taken(fused, ping)
    assert not taken(fused, IP(src=NODE, dst=NODE, proto=50) / Raw(bytes(40)))


def test_later_fragments_follow_their_first(fused: Rig) -> None:
    datagram = udp(Ends(NODE, 40000, NODE, NODE_PORT), bytes(1000))
    first, *later = fragment(IP(bytes(datagram)), 400)
    assert later
    assert not any(taken(fused, each) for each in later)
    assert taken(fused, first)
    assert all(taken(fused, each) for each in later)


def test_malformed_frames_are_left_alone(fused: Rig) -> None:
    whole = bytes(Ether(src=NOBODY, dst=NOBODY) / tcp(Ends(NODE, 1, NODE, NODE_PORT, "S")))
    for length in range(34, len(whole)):
        assert looped(fused, whole[:length]) == (0xFFFFFFFF, whole[:length])


@pytest.mark.parametrize(
    ("src", "dst"), [(LOCALHOST, NODE), (OUTSIDE, NODE), (B, NODE), (OUTSIDE, LOCALHOST)]
)
def test_what_comes_from_no_address_of_the_nodes_is_left_alone(
    fused: Rig, src: str, dst: str
) -> None:
    """A proxy's, a container bridge's: they may not enter by the host's port."""
    assert not taken(fused, tcp(Ends(src, 1, dst, NODE_PORT, "S")))


CLIENT, SERVICE, SERVER = (
    Peer("host", LOCALHOST, 1000),
    Peer("", LOCALHOST, NODE_PORT),
    Peer("b", B, 8080),
)


def by_loopback(result: Result, wanted: Packet) -> None:
    """It is handed to the loopback device, as one of its own frames."""
    hop = result.hop
    assert hop is not None
    assert (result.verdict, hop.ifindex, result.packet[Ether].dst) == ("redirect", LOOPBACK, NOBODY)
    same(result.packet[IP], wanted)


def asked(rig: Rig, shape: Shape) -> Talk:
    """The node asks its port at 127.0.0.1, and the pod sees the gateway."""
    rig.vip(LOCALHOST, NODE_PORT, B, SERVER.number)
    rig.masquerade(LOCALHOST, "pod", GATEWAY)
    talk = Talk(shape, CLIENT, SERVER, SERVICE, CLIENT)
    sent = rig.send(talk.first, "host")
    assert sent.packet[IP].src == GATEWAY
    return replace(talk, seen=Peer("", GATEWAY, sent.packet[IP].payload.sport))


@pytest.mark.parametrize("shape", [tcp, udp])
def test_answers_from_127_0_0_1_go_by_the_loopback_device(rig: Rig, shape: Shape) -> None:
    talk = asked(rig, shape)
    for flags in ("SA", "A", "PA"):
        sent = shape(SERVER.to(talk.seen, flags, back=True))
        by_loopback(rig.send(sent, "b"), hopped(shape(SERVICE.to(CLIENT, flags, back=True))))
        talk.forward(rig)


def test_errors_to_127_0_0_1_go_by_the_loopback_device(rig: Rig) -> None:
    asked(rig, tcp)
    expired = tcp(CLIENT.to(SERVICE))
    expired[IP].ttl = 1
    result = rig.send(expired, "host")
    assert (result.reason, result.packet[Ether].dst) == ("core/ttl", NOBODY)
    assert (result.packet[IP].src, result.packet[IP].dst) == (GATEWAY, LOCALHOST)


@pytest.mark.parametrize("port", ["host", "b"])
def test_127_0_0_1_as_a_source_is_good_for_nothing_else(rig: Rig, port: str) -> None:
    result = rig.send(tcp(Ends(LOCALHOST, 1000, A, 8080, "S")), port)
    kept(result, "core/spoofed")
