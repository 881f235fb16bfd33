"""Flows that errors are about: who they are of, and what an error quotes of them."""

from __future__ import annotations

from dataclasses import replace

from scapy.packet import Packet

from .rig import NODE, OUTSIDE, VIP, A, B, Rig
from .shapes import Peer, Shape, Talk, direct, echo, hopped, through

CLIENT, SERVER = Peer("a", A, 1000), Peer("b", B, 8080)
SERVICE, AWAY = Peer("", VIP, 80), Peer("uplink", OUTSIDE, 443)
SEEN = Peer("", NODE, 20001)


def service(rig: Rig, shape: Shape, backend: Peer = SERVER) -> Talk:
    """Opened through the virtual address."""
    rig.vip(VIP, 80, backend.address, backend.number)
    rig.vip(VIP, 0, backend.address, 0)
    talk = through(direct(CLIENT, backend, shape), SERVICE)
    if shape is echo:
        talk = replace(talk, dialled=replace(SERVICE, number=0), server=replace(backend, number=0))
    return talk


def quotes(talk: Talk) -> tuple[Packet, Packet]:
    """The client's packet as it arrived at the server, and as the client knows it."""
    arrived = hopped(talk.shape(talk.seen.to(talk.server, "S")))
    return arrived, hopped(talk.first)
