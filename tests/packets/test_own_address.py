"""What the node sends to its own address: taken off the loopback device, or left alone."""

from __future__ import annotations

import pytest
from scapy.layers.inet import IP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.bpf.testrun import skb_context
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC

from .rig import GATEWAY, NODE, OUTSIDE, B, Rig
from .shapes import Ends, echo, tcp, udp

LOOPBACK = 1
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
        ("127.0.0.1", NODE_PORT, False),
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


@pytest.mark.parametrize("src", ["127.0.0.1", OUTSIDE, B])
def test_what_comes_from_no_address_of_the_nodes_is_left_alone(fused: Rig, src: str) -> None:
    """A proxy's, a container bridge's: they may not enter by the host's port."""
    assert not taken(fused, tcp(Ends(src, 1, NODE, NODE_PORT, "S")))
