"""The segment while policies are in force: nothing passes that they do not see, but checked ARP."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from ipaddress import ip_address
from typing import TYPE_CHECKING, ClassVar

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, LLC, SNAP, Dot1Q, Dot3, Ether
from scapy.layers.ppp import PPP, PPPoE
from scapy.packet import Packet, Raw

from cubelet.testkit import Datapath
from cubelet.testkit.samples import GATEWAY_MAC
from cubelet_bridge.cube import Bridge
from cubelet_hooks.cube import Cube
from cubelet_hooks.view import View

from .test_bridge_packets import (
    BROADCAST,
    GATEWAY,
    IP_A,
    IP_B,
    IP_C,
    MAC_A,
    MAC_B,
    NESTED,
    UNUSED,
    asks,
    frame,
    heard,
    outcome,
    received,
    tagged,
    udp,
)

if TYPE_CHECKING:
    from cubelet.testkit.network import TestNetwork

Compose = Callable[..., Datapath]


class Warden(Cube):
    """Stands for NetworkPolicy: pod c is isolated."""

    kind: ClassVar[str] = "warden"
    inward: ClassVar[frozenset[str]] = frozenset({"pod"})
    admits: ClassVar[bool] = True

    def defines(self, view: View) -> Mapping[str, int]:
        return {"ISOLATED": int(ip_address(IP_C))}


@pytest.fixture(params=["fused", "tailcall"])
def policed(datapath: Compose, request: pytest.FixtureRequest) -> Datapath:
    return datapath(
        stacks={"pod": [Warden]},
        core=[Bridge],
        mode=request.param,
        settings={"bridge": {"vlans": True}},
    )


QUESTION = IP(src=IP_A, dst=IP_B) / UDP(sport=999, dport=53) / Raw(b"q")


def ether(kind: int, payload: Packet | bytes, dst: str = MAC_B) -> Packet:
    return Ether(dst=dst, src=MAC_A, type=kind) / payload


UNSEEN = {
    "experimental": frame(MAC_B),
    "MPLS": ether(0x8847, b"\0\0\x11\x40" + bytes(QUESTION)),
    "PPPoE": ether(0x8864, PPPoE(sessionid=1) / PPP() / QUESTION),
    "LLC/SNAP": Dot3(dst=MAC_B, src=MAC_A) / LLC() / SNAP(code=0x0800) / QUESTION,
    "NSH": ether(0x894F, bytes(8) + bytes(QUESTION)),
    "RARP": ether(0x8035, bytes(ARP(hwsrc=MAC_A, psrc=IP_A, pdst=IP_B))),
    "QinQ of old": ether(0x9100, b"\0\0\x08\0" + bytes(QUESTION)),
}


def test_what_policies_do_not_see_does_not_pass(
    policed: Datapath, cubelet_network: TestNetwork
) -> None:
    for dst in (MAC_B, BROADCAST, NESTED, "01:00:5e:00:00:fb"):
        for name, packet in UNSEEN.items():
            sent = packet.copy()
            sent.dst = dst
            with heard(cubelet_network) as by:
                assert outcome(policed.send(sent)) == ("drop", "bridge/unfiltered"), name
                assert by(sent) == "", name


@pytest.mark.parametrize("policies", [False, True])
def test_ip_to_a_host_is_never_flooded(
    datapath: Compose, cubelet_network: TestNetwork, policies: bool
) -> None:
    bridge = datapath(stacks={"pod": [Warden]} if policies else {}, core=[Bridge])
    for address in (IP_B, IP_C, UNUSED, "192.0.2.1", "240.0.0.1", "10.1.0.0"):
        for dst in (BROADCAST, NESTED, "01:00:5e:00:00:01"):
            sent = udp(dst, address)
            with heard(cubelet_network) as by:
                assert outcome(bridge.send(sent)) == ("drop", "bridge/unknown_neighbor")
                assert by(sent) == ""
    assert not bridge.flows()


def test_ip_to_a_group_goes_to_whom_policies_admit(
    policed: Datapath, cubelet_network: TestNetwork
) -> None:
    for address in ("224.0.0.251", "255.255.255.255", "10.1.0.255"):
        sent = udp(BROADCAST, address)
        with heard(cubelet_network) as by:
            assert outcome(policed.send(sent)) == ("drop", "core/none")
            assert by(sent) == "bd"
            alone = udp(NESTED, address)
            assert outcome(policed.send(alone)) == ("drop", "bridge/unknown_neighbor")
            assert by(alone) == ""


def arp(**fields: object) -> Packet:
    """A pod's ARP packet: its own, but for these fields."""
    dst = fields.pop("dst", BROADCAST)
    return Ether(dst=dst, src=MAC_A) / ARP(
        **{"op": 1, "hwsrc": MAC_A, "psrc": IP_A, "pdst": UNUSED, **fields}
    )


WRONG = {
    "of an address that is nobody's": (arp(psrc=UNUSED, pdst=IP_B), "arp_spoofed"),
    "announcement of it": (arp(psrc=UNUSED), "arp_spoofed"),
    "answer for it": (arp(op=2, psrc="10.1.0.98"), "arp_spoofed"),
    "as the node": (arp(op=2, psrc="172.18.0.2", dst=MAC_B), "arp_spoofed"),
    "as the gateway": (arp(op=2, psrc=GATEWAY, dst=MAC_B), "arp_spoofed"),
    "as another pod": (arp(op=2, psrc=IP_B, dst=MAC_B), "arp_spoofed"),
    "answer of nobody": (arp(op=2, psrc="0.0.0.0", dst=MAC_B), "arp_spoofed"),
    "with another's MAC": (arp(op=2, hwsrc=MAC_B, dst=MAC_B), "malformed_arp"),
    "with a MAC of its own": (arp(hwsrc=NESTED), "malformed_arp"),
    "inverse ARP": (arp(op=8), "malformed_arp"),
    "with a message": (arp() / Raw(b"MARK" * 5), "malformed_arp"),
}


def test_arp_speaks_of_its_sender_alone(policed: Datapath, cubelet_network: TestNetwork) -> None:
    for name, (packet, reason) in WRONG.items():
        with heard(cubelet_network) as by:
            assert outcome(policed.send(packet)) == ("drop", f"bridge/{reason}"), name
            assert by(packet) == "", name


def test_checked_arp_is_heard(policed: Datapath, cubelet_network: TestNetwork) -> None:
    """A question, padded or not, a probe, and announcements of both kinds."""
    for packet in (
        arp(),
        arp() / Raw(bytes(18)),
        arp(psrc="0.0.0.0", pdst=IP_A),
        arp(pdst=IP_A),
        arp(op=2, pdst=IP_A),
    ):
        with heard(cubelet_network) as by:
            assert outcome(policed.send(packet)) == ("drop", "core/none")
            assert by(packet) == "bcd"


def test_arp_is_answered_all_the_same(policed: Datapath) -> None:
    assert policed.send(asks(IP_B)).answered
    assert policed.send(asks(IP_C)).answered
    assert policed.send(asks(GATEWAY)).answered
    host = Ether(dst=BROADCAST, src=GATEWAY_MAC) / ARP(hwsrc=GATEWAY_MAC, psrc=GATEWAY, pdst=IP_C)
    assert policed.send(host, enters="host").answered


def test_a_station_behind_a_pod_does_not_speak_for_it(policed: Datapath) -> None:
    packet = Ether(dst=BROADCAST, src=NESTED) / ARP(hwsrc=NESTED, psrc=IP_A, pdst=UNUSED)
    assert outcome(policed.send(packet)) == ("drop", "bridge/arp_spoofed")


def test_tags_do_not_lead_past_policies(policed: Datapath, cubelet_network: TestNetwork) -> None:
    """Checked ARP passes in them, so that stations are found whom nobody can speak to then."""
    inner = Dot1Q(vlan=5)
    ip = Ether(dst=MAC_B, src=MAC_A) / inner / QUESTION
    twice = Ether(dst=MAC_B, src=MAC_A) / inner / Dot1Q(vlan=6) / QUESTION
    good = Ether(dst=BROADCAST, src=MAC_A) / inner / arp()[ARP]
    bad = Ether(dst=BROADCAST, src=MAC_A) / inner / arp(psrc=UNUSED)[ARP]
    with received(policed, cubelet_network) as send:
        for packet, reason in (
            (ip, "unfiltered_ip"),
            (twice, "unfiltered_ip"),
            (tagged(MAC_B, 5), "unfiltered"),
            (bad, "arp_spoofed"),
        ):
            assert policed.reasons[-send(packet, "a")].name == reason
        assert send(good, "a") == 0
