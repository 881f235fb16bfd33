"""A cube that refuses and translates, a path with flowlog around it, and packets to send there."""

from __future__ import annotations

from ipaddress import IPv4Address
from pathlib import Path
from typing import ClassVar

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.testkit import samples
from cubelet_flowlog.cube import Flowlog
from cubelet_hooks.cube import PORT_CLASSES, Cube, Reason
from cubelet_hooks.flows import Index, Tuple
from cubelet_hooks.maps import EVERYTHING, Map, MapType
from cubelet_hooks.records import U8, Record

A, B, D, NODE = map(IPv4Address, ("10.1.0.2", "10.1.0.3", "10.1.0.5", "172.18.0.2"))
SERVICE = IPv4Address("10.96.0.1")
UDP_NUMBER, TCP_NUMBER = 17, 6


class ShutValue(Record):
    """Whether the port is shut now."""

    shut: U8


class Warden(Cube):
    """See its C source for what it does."""

    kind: ClassVar[str] = "warden"
    inward: ClassVar[frozenset[str]] = frozenset(PORT_CLASSES)
    outward: ClassVar[frozenset[str]] = frozenset(PORT_CLASSES)
    reasons: ClassVar[tuple[Reason, ...]] = (Reason("in", "on the way in"), Reason("out", "out"))
    maps: ClassVar[tuple[Map, ...]] = (
        Map(
            *("shut", MapType.ARRAY, Index, ShutValue, 1),
            planned=False,
            concerns=lambda key, value: EVERYTHING,
        ),
    )

    @classmethod
    def source(cls) -> Path:
        """Beside this file."""
        return Path(__file__).parent / "bpf" / "warden.bpf.c"


STACKS = {name: [Flowlog, Warden] for name in PORT_CLASSES}


def udp(
    dport: int, sport: int = 4000, src: IPv4Address = A, dst: IPv4Address = D, size: int = 1
) -> Packet:
    """A datagram of a pod, or to one."""
    ether = Ether(src=samples.pod_mac(0 if src == A else 3), dst=samples.ROUTER_MAC)
    return ether / IP(src=str(src), dst=str(dst)) / UDP(sport=sport, dport=dport) / Raw(bytes(size))


def tcp(
    flags: str,
    dport: int,
    sport: int = 4000,
    src: IPv4Address = A,
    dst: IPv4Address = D,
    **more: int,
) -> Packet:
    """A segment of a pod, or to one."""
    ether = Ether(src=samples.pod_mac(0 if src == A else 3), dst=samples.ROUTER_MAC)
    ports = TCP(sport=sport, dport=dport, flags=flags, **more)
    return ether / IP(src=str(src), dst=str(dst)) / ports


def pair(
    dport: int,
    sport: int = 4000,
    protocol: int = UDP_NUMBER,
    src: IPv4Address = A,
    dst: IPv4Address = D,
) -> Tuple:
    """The tuple of such packets."""
    return Tuple(src, dst, sport, dport, protocol)
