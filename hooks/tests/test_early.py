"""Cubes that see packets from the uplink first, in the driver's program or without one."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Raw

from cubelet_hooks.cube import Cube, Reason

NODE = "172.18.0.2"
PORT = 9999


class Doorman(Cube):
    """Turns away a network and a port."""

    kind = "doorman"
    early = True
    reasons = (Reason("unwanted", "from where nobody is let in"), Reason("closed", "nobody asks"))

    @classmethod
    def source(cls) -> Path:
        return Path(__file__).parent / "bpf" / "doorman.bpf.c"

    def defines(self, view):
        return {"UNWANTED": int(ip_address("203.0.113.0")), "PORT": PORT}


def frame(transport, src="198.51.100.7", **ip):
    return Ether() / IP(src=src, dst=NODE, **ip) / transport / Raw(b"data")


FRAMES = [
    ("a stranger", frame(TCP(dport=22, flags="S")), ""),
    ("unwanted TCP", frame(TCP(dport=22, flags="S"), src="203.0.113.9"), "unwanted"),
    ("unwanted, of no transport", frame(Raw(b""), src="203.0.113.9", proto=50), "unwanted"),
    ("unwanted with options", frame(TCP(), src="203.0.113.9", options=b"\x01" * 8), "unwanted"),
    ("the closed port", frame(UDP(dport=PORT)), "closed"),
    ("its TCP neighbour", frame(TCP(dport=PORT)), ""),
    ("a later fragment", frame(Raw(bytes(32)), proto=17, frag=8), ""),
    ("truncated", Ether(bytes(frame(UDP(dport=PORT)))[:36]), ""),
    ("no IP", Ether() / ARP(psrc="203.0.113.9"), ""),
]


@pytest.mark.parametrize(("packet", "reason"), [f[1:] for f in FRAMES], ids=[f[0] for f in FRAMES])
@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_without_xdp_the_uplinks_program_begins_with_it(datapath, mode, packet, reason):
    dp = datapath(stacks={"uplink": [Doorman]}, mode=mode)
    result = dp.send(packet, enters="uplink")
    expected = ("drop", f"doorman/{reason}") if reason else ("pass", "core/none")
    assert (result.verdict, result.reason) == expected


@pytest.mark.parametrize(("packet", "reason"), [f[1:] for f in FRAMES], ids=[f[0] for f in FRAMES])
def test_in_the_driver_it_says_the_same(datapath, packet, reason):
    dp = datapath(stacks={"uplink": [Doorman]}, early_xdp=True)
    before = dropped(dp)
    assert dp.receive(packet) == ("drop" if reason else "pass")
    assert dropped(dp) - before == bool(reason)
    # What the driver's program lets pass is not asked about again.
    assert dp.send(packet, enters="uplink").reason != f"doorman/{reason}"


def test_other_ports_are_not_looked_at(datapath):
    dp = datapath(stacks={"uplink": [Doorman]})
    packet = frame(UDP(dport=PORT), src="10.1.0.2")
    packet.src = "02:00:00:00:01:00"
    assert dp.send(packet, enters="pod").reason != "doorman/closed"


def dropped(dp):
    """Packets that were dropped on the uplink, for whatever reason."""
    from cubelet.datapath.drops import drop_rows

    return sum(row["packets"] for row in drop_rows(dp.maps, dp.reasons))
