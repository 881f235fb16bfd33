"""The tunnels' UDP port: only the overlay's own device speaks to it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scapy.layers.inet import IP, UDP, fragment
from scapy.layers.l2 import Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from cubelet_hooks.objects import HostPort

from .rig import NODE, OUTSIDE, REMOTE, VIP, A, B, Rig, kept
from .shapes import Ends, Peer, direct, tcp, udp
from .test_entering import asking

VXLAN_PORT = 4789
OTHER_NODE = "172.18.0.3"


def forged(ends: Ends) -> Packet:
    """What a pod would have another node take for a packet of pod b's."""
    inner = Ether() / IP(src=B, dst=REMOTE) / UDP(sport=1, dport=53) / Raw(b"as b")
    return (
        IP(src=ends.src, dst=ends.dst, id=5)
        / UDP(sport=ends.sport, dport=ends.dport)
        / VXLAN(vni=1)
        / inner
    )


@pytest.mark.parametrize("dst", [OTHER_NODE, OUTSIDE, NODE], ids=["node", "outside", "own node"])
def test_a_pod_does_not_speak_to_tunnels(rig: Rig, dst: str) -> None:
    rig.path(OTHER_NODE, "uplink")
    rig.masquerade(A, "uplink", NODE)
    kept(rig.send(forged(Ends(A, 4000, dst, VXLAN_PORT))), "core/tunnel_port")
    assert not rig.dp.flows()


@pytest.mark.parametrize("port", ["a", "host", "overlay", "uplink"])
@pytest.mark.parametrize("backend", [OTHER_NODE, NODE])
def test_nor_does_anybody_through_a_service(rig: Rig, port: str, backend: str) -> None:
    rig.path(OTHER_NODE, "uplink")
    rig.vip(NODE, 30001, backend, VXLAN_PORT)
    rig.vip(VIP, 53, backend, VXLAN_PORT)
    source = {"a": A, "host": NODE, "overlay": REMOTE, "uplink": OUTSIDE}[port]
    rig.masquerade(source, "uplink", NODE)
    for address, number in ((NODE, 30001), *([(VIP, 53)] if port != "uplink" else [])):
        sent = forged(Ends(source, 4000, address, number))
        kept(rig.send(sent, port), "core/tunnel_port")
    assert not rig.dp.flows()


def test_nor_in_fragments(rig: Rig) -> None:
    rig.path(OTHER_NODE, "uplink")
    whole = udp(Ends(A, 4000, OTHER_NODE, VXLAN_PORT), bytes(100))
    first, *later = fragment(whole, 64)
    for part in (first, *later):
        kept(rig.send(part), "core/tunnel_port")
    assert not rig.dp.flows()


@pytest.mark.parametrize("port", ["uplink", "host"])
def test_nor_do_answers_to_who_claims_to_be_one(rig: Rig, port: str) -> None:
    """A datagram that an outsider forges as a node's tunnel opens no way back to it."""
    rig.vip(NODE, 30001, A, 80)
    source = OTHER_NODE if port == "uplink" else NODE
    for dst, number in ((A, 80), (NODE, 30001)):
        kept(rig.send(udp(Ends(source, VXLAN_PORT, dst, number)), port), "core/tunnel_port")
    assert not rig.dp.flows()


def test_between_pods_the_port_is_like_any_other(rig: Rig) -> None:
    rig.vip(VIP, VXLAN_PORT, B, 80)
    direct(Peer("a", A, VXLAN_PORT), Peer("b", B, VXLAN_PORT), udp).whole(rig)
    direct(Peer("a", A, 1), Peer("overlay", REMOTE, VXLAN_PORT), udp).whole(rig)
    talk = direct(Peer("a", A, 2), Peer("b", B, 80), udp)
    replace(talk, dialled=Peer("", VIP, VXLAN_PORT)).whole(rig)


def test_and_of_other_protocols_it_is(rig: Rig) -> None:
    direct(Peer("a", A, 1), Peer("uplink", OUTSIDE, VXLAN_PORT), tcp).whole(rig)


def test_no_pods_host_port_takes_the_nodes_tunnels(rig: Rig) -> None:
    rig.vip(NODE, VXLAN_PORT, A, 80)
    asking(rig, HostPort(VXLAN_PORT, 80, "UDP"))
    frame = rig.framed(forged(Ends(OTHER_NODE, 40000, NODE, VXLAN_PORT)), "uplink")
    result = rig.send(frame, "uplink")
    assert (result.verdict, bytes(result.packet)) == ("pass", bytes(frame))
    asking(rig)
