"""Conversations: of whom with whom, how they begin, and how their two ends go on."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from . import cluster
from .cluster import (
    GATEWAY,
    GATEWAY_MAC,
    HAIRPIN,
    LOCAL_PODS,
    NODE,
    POD_MACS,
    REMOTE_PODS,
    ROUTER_MAC,
    UPLINK_MAC,
)
from .oracle import Flow, Oracle
from .wire import (
    ACK,
    FIN,
    ICMP,
    NO_IDENTIFIER,
    PSH,
    RST,
    SCTP,
    SYN,
    TCP,
    UDP,
    Tuple,
    ether,
    icmp,
    inverse,
    ip,
    transport,
)

CLIENT_SEQ, SERVER_SEQ = 7_000_001, 4_000_000_001
UPSTREAM, PEER = bytes.fromhex("0200000000fe"), bytes.fromhex("02000000ee01")
NOBODY = bytes(6)
GROUPS = tuple(map(bytes.fromhex, ("ffffffffffff", "01005e000001", "0180c2000000")))
DATA = tuple(bytes(range(n % 256)) * (1 if n < 256 else n // 255) for n in (0, 1, 7, 64, 255, 1020))
MARTIANS = (
    *map(cluster.number, ("0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255", "10.1.0.77")),
    *(*LOCAL_PODS.values(), *REMOTE_PODS.values(), GATEWAY, NODE, cluster.WEB, cluster.EXTERNAL),
    *(HAIRPIN, cluster.UNDERLAY.last),
)
ODD = (
    *map(cluster.number, ("255.255.255.255", "10.1.0.255", "10.1.0.0", "10.1.0.200", "127.0.0.1")),
    *map(cluster.number, ("224.0.0.251", "169.254.169.254", "0.0.0.0", "10.1.9.9", "172.18.0.255")),
    *(cluster.NOBODYS_VIP, HAIRPIN, cluster.ROUTER),
)
TARGETS = (
    *(*LOCAL_PODS.values(), *REMOTE_PODS.values(), *cluster.OUTSIDE, NODE, GATEWAY),
    *(*cluster.VIRTUAL, *cluster.VIRTUAL, cluster.number("172.18.0.3")),
)
_NO_ECHOES = (9, 10, 13, 14, 17, 40, 255)
"""Other types of ICMP: advertisements, timestamps, masks and what nobody knows."""
PORTS = (80, 8080, 8081, 81, 53, 30_080, 30_081, 6443, 443, 1, 12_345, 4789)
ENTRIES = (*LOCAL_PODS, *LOCAL_PODS, "host", "overlay", "uplink", "uplink")


class Step(NamedTuple):
    """A frame by ``entry``; or, where that is the name of an event, what changes to ``choice``.

    Events: ``age``, ``policy``, ``endpoints``, ``expire`` (both of the two ``keys``), ``evict``;
    ``leave`` and ``come``, of the pod with that number.
    """

    entry: str
    frame: bytes = b""
    choice: int = 0
    keys: tuple[Tuple, ...] = ()


def macs(entry: str) -> tuple[bytes, bytes]:
    """Destination and source of frames by a port."""
    if entry in POD_MACS:
        return ROUTER_MAC, POD_MACS[entry]
    fixed = {
        "host": (ROUTER_MAC, GATEWAY_MAC),
        "overlay": (ROUTER_MAC, ROUTER_MAC),
        "uplink": (UPLINK_MAC, UPSTREAM),
    }
    return fixed.get(entry, (NOBODY, NOBODY))


class Conversations:
    """Makes packets, as ``rng`` says; it continues the flows that ``oracle`` knows."""

    def __init__(self, rng: random.Random, oracle: Oracle) -> None:
        self._rng = rng
        self._oracle = oracle
        self._waiting: list[Step] = []
        """What is sent next, the last first."""

    def source(self, entry: str) -> int:
        """An address from which packets may come by the port."""
        if entry in LOCAL_PODS:
            return LOCAL_PODS[entry]
        choices: Sequence[int] = {
            "host": (NODE, GATEWAY),
            "overlay": tuple(REMOTE_PODS.values()),
            "uplink": cluster.OUTSIDE,
        }[entry]
        return self._rng.choice(choices)

    def _fresh(self, entry: str) -> Tuple:
        rng = self._rng
        protocol = rng.choice((TCP, TCP, TCP, UDP, UDP, ICMP, SCTP, 47))
        sport, dport = rng.randrange(1024, 1088), rng.choice(PORTS)
        if rng.random() < 0.2:
            sport = rng.choice(PORTS)
        dst = rng.choice(TARGETS if rng.random() < 0.95 else ODD)
        if rng.random() < 0.7:
            dport = self._likely_port(dst)
        if entry == "uplink" and rng.random() < 0.6:
            dst = rng.choice((NODE, cluster.EXTERNAL, *LOCAL_PODS.values()))
            dport = rng.choice((30_080, 30_081, 80, 8080))
        if protocol not in {TCP, UDP, SCTP}:
            sport, dport = (rng.choice((sport, sport, sport, 0)) if protocol == ICMP else 0), 0
        return (self.source(entry), dst, sport, dport, protocol)

    def _likely_port(self, dst: int) -> int:
        """One at which something is to be had there."""
        if dst in cluster.VIRTUAL:
            return 81 if dst == cluster.LOCAL_ONLY else 80
        return self._rng.choice((30_080, 30_081, 6443)) if dst == NODE else 8080

    def packet(self, t: Tuple, flags: int, reply: bool = False, ttl: int = 64) -> bytes:
        """A packet of the tuple, in order."""
        own, other = (SERVER_SEQ, CLIENT_SEQ) if reply else (CLIENT_SEQ, SERVER_SEQ)
        data = self._rng.choice(DATA) if not flags & SYN else b""
        if flags & SYN:
            own -= 1
        if flags & (RST | FIN) and self._rng.random() < 0.3:  # a guess
            own ^= 1 << 31
        ack = other if flags & ACK else 0
        body = transport(t, flags, data, own, ack, reply)
        echo = t[4] == ICMP and t[2:4] != NO_IDENTIFIER
        if t[4] == ICMP and (not echo or (not t[2] + t[3] and self._rng.random() < 0.5)):
            body = icmp(self._rng.choice(_NO_ECHOES), 0, self._rng.randrange(1 << 32), data)
        return ip(t[0], t[1], t[4], body, ttl=ttl, ident=self._rng.randrange(65_536))

    def framed(self, entry: str, packet: bytes) -> Step:
        """In the frame that it has when it comes by the port."""
        dst, src = macs(entry)
        return Step(entry, ether(dst, src, packet))

    def opening(self) -> Step:
        """The first packet of a conversation."""
        entry = self._rng.choice(ENTRIES)
        t = self._fresh(entry)
        step = self.framed(entry, self.packet(t, SYN, ttl=self._rng.choice((64, 64, 64, 1, 2, 0))))
        pod = cluster.POD_OF.get(t[1])
        if entry in LOCAL_PODS and pod and self._rng.random() < 0.6:  # on the segment
            step = Step(entry, POD_MACS[pod] + step.frame[6:])
        return step

    def _flow(self) -> Flow | None:
        flows = self._oracle.flows
        return self._rng.choice(flows[-40:]) if flows else None

    def _of(self, flow: Flow, reply: bool, flags: int, ttl: int = 64) -> Step:
        came, _, _ = flow.expected(reply)
        t = inverse(flow.left) if reply else flow.opened
        return self.framed(came, self.packet(t, flags, reply, ttl))

    def going_on(self) -> Step:
        """What a flow's two ends say next; sometimes a whole handshake at once."""
        flow, rng = self._flow(), self._rng
        if flow is None:
            return self.opening()
        if rng.random() < 0.3:
            self._waiting += [
                self._of(flow, True, PSH | ACK),
                self._of(flow, False, PSH | ACK),
                self._of(flow, False, ACK),
            ]
            return self._of(flow, True, SYN | ACK)
        flags = rng.choice(
            (ACK, ACK, ACK, PSH | ACK, PSH | ACK, FIN | ACK, RST, RST | ACK, SYN, SYN | ACK)
        )
        if flags & (FIN | RST | SYN) and rng.random() < 0.7:
            flags = ACK
        return self._of(flow, rng.random() < 0.5, flags, rng.choice((64, 64, 64, 255, 2, 1, 0)))

    def midstream(self) -> Step:
        """A segment of a connection that nobody has seen begin."""
        entry = self._rng.choice(ENTRIES)
        source, dst, sport, dport, _ = self._fresh(entry)
        flags = self._rng.choice(
            (ACK, PSH | ACK, FIN | ACK, 0, FIN, PSH, 0x3F, RST, SYN | ACK, 0x29)
        )
        return self.framed(
            entry, self.packet((source, dst, sport or 1024, dport or 80, TCP), flags)
        )
