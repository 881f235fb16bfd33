"""Packets of conversations, in the shapes that translation must leave whole."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Timestamp
from scapy.packet import Packet, Raw

from .rig import Rig, arrives


@dataclass(frozen=True)
class Peer:
    """One end: the port it is behind (see :class:`Rig`), its address, its transport port."""

    port: str
    address: str
    number: int

    def to(self, peer: Peer, flags: str = "A", back: bool = False) -> Ends:
        """What it sends to ``peer``; ``back`` as an answer."""
        return Ends(self.address, self.number, peer.address, peer.number, flags, back)


@dataclass(frozen=True)
class Ends:
    """What a shape is filled with."""

    src: str
    sport: int
    dst: str
    dport: int
    flags: str = "A"
    back: bool = False


CLIENT_SEQ, SERVER_SEQ = 7_000_001, 4_000_000_001
Shape = Callable[[Ends], Packet]


def tcp(ends: Ends, payload: bytes = b"") -> Packet:
    """TCP; each side's numbers agree with the other's."""
    own, other = (SERVER_SEQ, CLIENT_SEQ) if ends.back else (CLIENT_SEQ, SERVER_SEQ)
    numbers = {"seq": own, "ack": other + 1 if "A" in ends.flags else 0}
    segment = TCP(sport=ends.sport, dport=ends.dport, flags=ends.flags, window=4321, **numbers)
    return IP(src=ends.src, dst=ends.dst, id=5) / segment / Raw(payload)


def udp(ends: Ends, payload: bytes = b"payload") -> Packet:
    datagram = UDP(sport=ends.sport, dport=ends.dport)
    return IP(src=ends.src, dst=ends.dst, id=5) / datagram / Raw(payload)


def udp_unchecked(ends: Ends) -> Packet:
    """Without a checksum (RFC 768): zero stays zero."""
    packet = udp(ends)
    packet[UDP].chksum = 0
    return packet


def echo(ends: Ends) -> Packet:
    """The identifier stands for the requester's port."""
    identifier = ends.dport if ends.back else ends.sport
    message = ICMP(type=0 if ends.back else 8, id=identifier, seq=3)
    return IP(src=ends.src, dst=ends.dst, id=5) / message / Raw(b"abcde")


def with_options(ends: Ends) -> Packet:
    packet = udp(ends)
    packet[IP].options = [IPOption_NOP(), IPOption_NOP(), IPOption_Timestamp(length=10)]
    return packet


def with_tcp_options(ends: Ends) -> Packet:
    packet = tcp(ends, b"12345")
    packet[TCP].options = [("MSS", 1460), ("NOP", None), ("WScale", 7)]
    return packet


SHAPES: dict[str, Shape] = {
    "tcp": tcp,
    "tcp odd": lambda ends: tcp(ends, b"odd"),
    "tcp options": with_tcp_options,
    "udp": udp,
    "udp empty": lambda ends: udp(ends, b""),
    "udp odd": lambda ends: udp(ends, b"odd"),
    "udp full": lambda ends: udp(ends, bytes(range(256)) * 5 + bytes(192)),
    "udp unchecked": udp_unchecked,
    "ip options": with_options,
    "echo": echo,
}


def hopped(packet: Packet) -> Packet:
    """The packet one hop further."""
    copy = packet.copy()
    copy[IP].ttl -= 1
    return copy


@dataclass(frozen=True)
class Talk:
    """A conversation: who speaks, whom the client dials, and as whom the server sees the client."""

    shape: Shape
    client: Peer
    server: Peer
    dialled: Peer
    seen: Peer

    def forward(self, rig: Rig, flags: str = "A") -> None:
        """The client's packet arrives at the server."""
        sent = self.shape(self.client.to(self.dialled, flags))
        wanted = self.shape(self.seen.to(self.server, flags))
        arrives(rig.send(sent, self.client.port), self.server.port, hopped(wanted))

    def back(self, rig: Rig, flags: str = "A") -> None:
        """The server's packet arrives at the client."""
        sent = self.shape(self.server.to(self.seen, flags, back=True))
        wanted = self.shape(self.dialled.to(self.client, flags, back=True))
        arrives(rig.send(sent, self.server.port), self.client.port, hopped(wanted))

    def opened(self, rig: Rig) -> Packet:
        """Open it; returns the first packet, which finds the forward record."""
        self.forward(rig, "S")
        return self.first

    @property
    def first(self) -> Packet:
        return self.shape(self.client.to(self.dialled, "S"))

    @property
    def answer(self) -> Packet:
        """The first packet back, which finds the reply record."""
        return self.shape(self.server.to(self.seen, "SA", back=True))

    def established(self, rig: Rig) -> Talk:
        """Open, answer, acknowledge."""
        self.forward(rig, "S")
        self.back(rig, "SA")
        self.forward(rig, "A")
        return self

    def whole(self, rig: Rig) -> None:
        """Six packets: opened, replied, moved between tables, and by the fast path."""
        self.established(rig)
        self.back(rig, "PA")
        self.forward(rig, "PA")
        self.back(rig, "A")


def direct(client: Peer, server: Peer, shape: Shape = tcp) -> Talk:
    """Untranslated."""
    return Talk(shape, client, server, server, client)


def through(talk: Talk, dialled: Peer) -> Talk:
    """By way of a virtual address."""
    return replace(talk, dialled=dialled)
