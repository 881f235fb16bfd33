"""Frames that are no IP: bridged as they are, by who they are from, and never past policy."""

from __future__ import annotations

from .answers import Say
from .cluster import GATEWAY, GATEWAY_MAC, LOCAL_PODS, POD_MACS, POD_OF, ROUTER_MAC
from .machine import Out
from .wire import Packet

ARP = 0x0806


def check_link(p: Packet, entry: str, leaves: str, out: Out, say: Say) -> None:
    frame = p.frame
    if entry not in {*LOCAL_PODS, "host"} or leaves not in LOCAL_PODS or leaves == entry:
        say("link", f"a frame that is no IP left by {leaves}")
    if out.frame != frame:
        say("bytes", "a bridged frame was changed")
    if p.ethertype != ARP:
        say("link", f"ethertype {p.ethertype:#x} leads past NetworkPolicy")
    if frame[:5] == bytes.fromhex("0180c20000"):
        say("link", "a link-local control frame was forwarded")
    if entry in LOCAL_PODS:
        taken = {ROUTER_MAC, GATEWAY_MAC, *(mac for name, mac in POD_MACS.items() if name != entry)}
        if frame[6:12] in taken or frame[6] & 1:
            say("mac", f"pod {entry} sent from the MAC address {frame[6:12].hex()}")
        if p.ethertype == ARP and len(frame) >= 42:
            sender = int.from_bytes(frame[28:32])
            if sender == GATEWAY or POD_OF.get(sender, entry) != entry:
                say("arp", f"pod {entry} claims {sender:#x}")
    if leaves in LOCAL_PODS and frame[:6] != POD_MACS[leaves] and frame[:6] in POD_MACS.values():
        say("link", f"a frame for {frame[:6].hex()} went to {leaves}")
