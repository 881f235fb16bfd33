"""What is sent: conversations, and all that hosts, stacks and attackers make of them."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import accumulate

from . import cluster
from .cluster import GATEWAY, GATEWAY_MAC, LOCAL_PODS, NODE, POD_MACS, ROUTER_MAC
from .conversations import (
    ENTRIES,
    GROUPS,
    MARTIANS,
    NOBODY,
    PEER,
    PORTS,
    TARGETS,
    UPSTREAM,
    Conversations,
    Step,
    macs,
)
from .oracle import Oracle
from .policies import POLICIES
from .services import ENDPOINTS
from .wire import (
    ACK,
    ICMP,
    SCTP,
    SYN,
    TCP,
    UDP,
    checksum,
    ether,
    icmp,
    inverse,
    ip,
    transport,
    udp,
)


class Traffic(Conversations):
    """Makes steps: packets of all kinds, and what happens between them."""

    def __init__(self, rng: random.Random, oracle: Oracle) -> None:
        super().__init__(rng, oracle)
        # the cluster is another each time
        self._waiting += [
            Step("policy", choice=rng.randrange(len(POLICIES))),
            Step("endpoints", choice=rng.randrange(len(ENDPOINTS))),
        ]
        self._ident = rng.randrange(60_000)
        kinds: dict[Callable[[], Step], int] = {
            self.going_on: 46,
            self.opening: 17,
            self.midstream: 3,
            self.damaged: 9,
            self.error: 5,
            self.fragments: 3,
            self.spoofed: 4,
            self.martian: 2,
            self.tunnelled: 1,
            self.arp: 2,
            self.link: 3,
            self.noise: 2,
            self.loopback: 1,
            self.event: 3,
        }
        self._kinds, self._weights = list(kinds), list(accumulate(kinds.values()))

    def next(self) -> Step:
        """The next step."""
        while True:
            if self._waiting:
                step = self._waiting.pop()
            else:
                step = self._rng.choices(self._kinds, cum_weights=self._weights)[0]()
            if step.entry in self._oracle.cluster.gone:
                continue
            if step.entry != "overlay" or _tunnelled(step.frame):
                return step

    # What breaks the rules

    def damaged(self) -> Step:
        """A right frame with bits flipped, cut or padded, with other lengths or options."""
        rng = self._rng
        step = self.going_on() if rng.random() < 0.5 else self.opening()
        self._waiting.clear()
        frame = bytearray(step.frame)
        kind = rng.randrange(6)
        if kind == 0:
            for _ in range(rng.choice((1, 1, 2, 5))):
                frame[rng.randrange(14, min(len(frame), 60))] ^= 1 << rng.randrange(8)
        elif kind == 1:
            frame = frame[: rng.randrange(34, len(frame) + 1)]
        elif kind == 2:
            frame[16:18] = rng.choice((0, 19, 20, 28, len(frame), 0xFFFF)).to_bytes(2)
        elif kind == 3:
            frame += rng.randbytes(rng.choice((1, 6, 40)))
        elif kind == 4:
            frame = self._with_options(bytes(frame))
        else:
            at = 14 + (frame[14] & 15) * 4
            frame[min(at + 2 * rng.randrange(3), len(frame) - 1)] ^= 0xFF
        if kind in {0, 2} and rng.random() < 0.7:
            mend(frame)
        return Step(step.entry, bytes(frame))

    def _with_options(self, frame: bytes) -> bytearray:
        options = self._rng.choice(
            (
                b"\1\1\1\0",
                b"\x83\x07\x04" + bytes(4) + b"\0",
                b"\x94\4\0\0",
                b"\x44\x08\x05" + bytes(5),
            )
        )
        head = bytearray(frame[14:34] + options)
        head[0] = 0x40 | len(head) // 4
        head[2:4] = (len(frame) - 14 + len(options)).to_bytes(2)
        made = bytearray(frame[:14] + bytes(head) + frame[34:])
        mend(made)
        return made

    def error(self) -> Step:
        """An ICMP error about a packet that a flow has sent on, or about one that nobody sent."""
        rng, flow = self._rng, self._flow()
        if flow is None:
            return self.opening()
        reply = rng.random() < 0.5
        _, came, sent = flow.expected(reply)
        kind = rng.choice((3, 3, 3, 11, 12, 4, 5))
        if rng.random() < 0.3:  # forged
            other = rng.choice((sent[3], rng.choice(PORTS)))
            sent = (sent[0], rng.choice((sent[1], rng.choice(TARGETS))), sent[2], other, sent[4])
            came = rng.choice(ENTRIES)
        quoted = self.packet(sent, ACK, reply, 63)
        cut = rng.choice((28, 28, 40, 60, len(quoted), rng.randrange(len(quoted) + 1)))
        message = icmp(kind, rng.randrange(5), rng.choice((0, 1400)), quoted[:cut])
        router = self.source(came) if came in LOCAL_PODS or rng.random() < 0.5 else sent[1]
        dst = sent[0] if rng.random() < 0.95 else rng.choice(TARGETS)
        return self.framed(came, ip(router, dst, ICMP, message, ttl=rng.choice((64, 64, 1))))

    def fragments(self) -> Step:
        """A datagram in three pieces, in order or not, all or some of them."""
        rng = self._rng
        entry = rng.choice(ENTRIES)
        t = self._fresh(entry)
        flow = self._flow()
        if flow is not None and rng.random() < 0.4:
            entry, t = flow.entry, flow.opened
        whole = transport(t, rng.choice((SYN, ACK)), bytes(600))
        self._ident = (self._ident + 1) & 0xFFFF
        pieces = []
        for at in range(0, len(whole), 256):
            more = 0x2000 if at + 256 < len(whole) else 0
            part = whole[at : at + 256]
            packet = ip(t[0], t[1], t[4], part, ident=self._ident, fragment=more | at // 8)
            pieces.append(self.framed(entry, packet))
        pieces.reverse()  # the last of the list is sent first
        if rng.random() < 0.3:
            rng.shuffle(pieces)
        if rng.random() < 0.2:
            pieces.pop()
        if rng.random() < 0.1:
            other = rng.choice(ENTRIES)
            pieces.insert(0, Step(other, pieces[0].frame))
        self._waiting += pieces
        return self._waiting.pop()

    def spoofed(self) -> Step:
        """From somebody else's address or MAC address, by any port."""
        rng = self._rng
        entry = rng.choice((*LOCAL_PODS, "host"))
        flow = self._flow()
        if flow is not None and rng.random() < 0.5:  # somebody else's flow, too
            reply = rng.random() < 0.5
            t = inverse(flow.left) if reply else flow.opened
            step = self.framed(entry, self.packet(t, ACK, reply))
        else:
            src = rng.choice((*MARTIANS, *cluster.OUTSIDE))
            step = self.framed(entry, self.packet((src, *self._fresh(entry)[1:]), SYN))
        if rng.random() < 0.3:
            mac = rng.choice((ROUTER_MAC, GATEWAY_MAC, *POD_MACS.values(), PEER, *GROUPS))
            step = Step(entry, step.frame[:6] + mac + step.frame[12:])
        return step

    def martian(self) -> Step:
        """By the uplink, from where nothing comes; or to another's MAC address."""
        rng = self._rng
        t = self._fresh("uplink")
        if rng.random() < 0.7:
            t = (rng.choice(MARTIANS), *t[1:])
            return self.framed("uplink", self.packet(t, SYN))
        mac = rng.choice((ROUTER_MAC, GATEWAY_MAC, PEER, *POD_MACS.values(), *GROUPS))
        return Step("uplink", ether(mac, UPSTREAM, self.packet(t, SYN)))

    def tunnelled(self) -> Step:
        """The nodes' tunnel, spoken by who is no node: a packet of some pod's in VXLAN."""
        rng = self._rng
        entry = rng.choice(ENTRIES)
        inner = self.framed("overlay", self.packet(self._fresh("overlay"), SYN)).frame
        header = b"\x08\0\0\0" + rng.choice((0, 1, 77)).to_bytes(3) + b"\0"
        node = rng.choice(sorted(cluster.NODE_ADDRESSES))
        t = (self.source(entry), node, rng.randrange(1024, 65_536), cluster.VXLAN_PORT, UDP)
        return self.framed(entry, ip(*t[:2], UDP, udp(t, header + inner, rng.random() < 0.5)))

    # Other protocols

    def arp(self) -> Step:
        """Questions, answers and lies about who has an address."""
        rng = self._rng
        entry = rng.choice(ENTRIES)
        own = macs(entry)[1]
        source = self.source(entry) if rng.random() < 0.6 else rng.choice((*MARTIANS, *TARGETS))
        body = (
            rng.choice(
                (b"\0\1\x08\0\6\4", b"\0\1\x08\0\6\4", b"\0\6\x08\0\6\4", b"\0\1\x86\xdd\6\x10")
            )
            + rng.choice((b"\0\1", b"\0\1", b"\0\2", b"\0\0", b"\0\4"))
            + (own if rng.random() < 0.8 else rng.choice(list(POD_MACS.values())))
            + source.to_bytes(4)
            + NOBODY
            + rng.choice((*TARGETS, source)).to_bytes(4)
            + bytes(18)
        )
        to = rng.choice((GROUPS[0], GROUPS[0], ROUTER_MAC, *POD_MACS.values()))
        cut = len(body) if rng.random() < 0.9 else rng.randrange(len(body))
        return Step(entry, ether(to, own, body[:cut], 0x0806))

    def link(self) -> Step:
        """Tags, labels, sessions, lengths instead of types, IPv6, and IP where it need not be."""
        rng = self._rng
        entry = rng.choice(ENTRIES)
        t = self._fresh(entry)
        inner = self.packet(t, SYN)
        to = rng.choice((ROUTER_MAC, *POD_MACS.values(), *GROUPS, PEER, rng.randbytes(6)))
        own = (
            macs(entry)[1]
            if rng.random() < 0.8
            else rng.choice((PEER, ROUTER_MAC, rng.randbytes(6)))
        )
        kind, head = rng.choice(
            (
                (0x8100, b"\0\5\x08\0"),
                (0x88A8, b"\0\5\x81\0\0\6\x08\0"),
                (0x8847, b"\0\1\x01\x40"),
                (0x8864, b"\x11\0\0\1\0\x40\0\x21"),
                (0x0026, b"\xaa\xaa\3\0\0\0\x08\0"),
                (0x86DD, b"\x60" + bytes(39)),
                (0x88CC, b""),
                (0x0800, b""),
                (0x0800, b""),
            )
        )
        return Step(entry, ether(to, own, head + inner, kind))

    def noise(self) -> Step:
        """Random bytes, some of them behind a right IP header."""
        rng = self._rng
        entry = rng.choice((*ENTRIES, "local"))
        if rng.random() < 0.5:
            frame = bytearray(rng.randbytes(rng.randrange(15, 200)))
            if frame[12:14] == b"\x08\x00":
                frame[12] = 9  # the kernel tries no IP packet without its header
            return Step(entry, bytes(frame))
        t = self._fresh(entry if entry != "local" else "host")
        fragment = rng.choice((0, 0, 0x4000, 0x2000, 3, 0xFFFF))
        payload = rng.randbytes(rng.randrange(80))
        protocol = rng.choice((ICMP, TCP, UDP, SCTP, rng.randrange(256)))
        packet = ip(t[0], t[1], protocol, payload, ttl=rng.randrange(256), fragment=fragment)
        return self.framed(entry, packet)

    def loopback(self) -> Step:
        """What the node sends to itself."""
        rng = self._rng
        source = rng.choice((NODE, NODE, GATEWAY, cluster.number("127.0.0.1"), *MARTIANS))
        dst = rng.choice((NODE, NODE, NODE, GATEWAY, cluster.number("127.0.0.1"), cluster.WEB))
        t = (source, dst, rng.randrange(1024, 65_536), rng.choice(PORTS), rng.choice((TCP, UDP)))
        return self.framed("local", self.packet(t, rng.choice((SYN, ACK))))

    # Events

    def event(self) -> Step:
        """Something else than a packet."""
        rng, flow = self._rng, self._flow()
        kind = rng.choice(
            ("age", "age", "age", "expire", "expire", "evict", "evict", "change", "pod")
        )
        if kind == "pod":
            return self._pod_event()
        if kind == "change":
            if rng.random() < 0.5:
                return Step("policy", choice=rng.randrange(len(POLICIES)))
            return Step("endpoints", choice=rng.randrange(len(ENDPOINTS)))
        if kind == "age" or flow is None:
            return Step("age")
        keys = (flow.opened, inverse(flow.left))
        return Step(kind, choice=rng.randrange(2), keys=keys)

    def _pod_event(self) -> Step:
        """A pod goes; or the one that has gone comes back, with its address and its device."""
        gone = self._oracle.cluster.gone
        for number, pod in enumerate(LOCAL_PODS):
            if pod in gone:
                return Step("come", choice=number)
        return Step("leave", choice=self._rng.randrange(len(LOCAL_PODS)))


def _tunnelled(frame: bytes) -> bool:
    """Could a known node have sent it? Trial runs have no tunnel, so programs do not ask."""
    if frame[12:14] != b"\x08\x00" or len(frame) < 34:
        return True
    return cluster.tunnel_to(int.from_bytes(frame[26:30])) != 0


def mend(frame: bytearray) -> None:
    """The IP header's checksum is right again, so that more of it is believed."""
    size = (frame[14] & 15) * 4
    if 20 <= size <= len(frame) - 14:
        frame[24:26] = bytes(2)
        frame[24:26] = checksum(bytes(frame[14 : 14 + size])).to_bytes(2)
