"""Packets about packets: errors and answers of the datapath, and errors of others."""

from __future__ import annotations

from collections.abc import Callable

from . import cluster
from .cluster import GATEWAY, NODE
from .machine import Out
from .services import Cluster
from .wire import ICMP, LATER, RST, SCTP, TCP, UDP, Packet, Tuple, identify, ones, same_but

Say = Callable[[str, str], None]
_LONGEST = 576
"""Of an ICMP error, RFC 1812 4.3.2.3."""
_QUOTE = 28


def check_answer(state: Cluster, p: Packet, entry: str, out: Out, say: Say) -> None:
    """An answer goes to who asked, from who may answer, and is sound."""
    group = p.frame[6] & 1
    looped = entry == "host" and p.kind == "ip" and p.dst in cluster.LOOPBACK
    asker = bytes(6) if looped else p.frame[6:12]
    if not group and out.frame[:6] != asker:
        say("answer", f"it went to {out.frame[:6].hex()}, who did not ask")
    if p.ethertype == 0x0806:
        _check_arp(state, p, out, say)
        return
    q = Packet(out.frame)
    if p.kind != "ip" or q.kind != "ip":
        say("answer", f"to or with a frame that is no whole IP packet: {out.frame.hex()}")
        return
    if q.dst != p.src:
        say("answer", f"it went to {q.dst:#x}, not to {p.src:#x}")
    if (q.header_residue() and not p.header_residue()) or (q.residue() and not p.residue()):
        say("checksum", f"an answer's: {out.frame.hex()}")
    if len(out.frame) != 14 + q.total and not (q.type == 0 and len(out.frame) == len(p.frame)):
        say("length", f"an answer of {q.total} bytes in a frame of {len(out.frame)}")
    if q.protocol == TCP:
        _check_reset(p, q, say)
    elif q.protocol == ICMP and q.type == 0:
        if p.type != 8 or p.dst != GATEWAY or q.src != GATEWAY:
            say("answer", "an echo reply of what is not the gateway")
    elif q.protocol == ICMP and q.error:
        _check_error(p, entry, q, say)
    else:
        say("answer", f"of protocol {q.protocol}, type {q.type}")


def _check_arp(state: Cluster, p: Packet, out: Out, say: Say) -> None:
    frame, asked = out.frame, int.from_bytes(p.frame[38:42])
    if frame[20:22] != b"\0\2" or int.from_bytes(frame[28:32]) != asked:
        say("arp", f"the answer to {asked:#x}: {frame.hex()}")
    if asked != GATEWAY and not state.pod_at(asked):
        say("arp", f"answered for {asked:#x}, which nobody here has")
    if frame[32:42] != p.frame[22:32]:
        say("arp", f"answered to another: {frame.hex()}")


def _check_reset(p: Packet, q: Packet, say: Say) -> None:
    """RFC 9293 3.5.2."""
    if p.protocol != TCP or p.flags & RST or not q.flags & RST:
        say("answer", f"a segment with flags {q.flags:#x} to flags {p.flags:#x}")
        return
    if (q.src, q.sport, q.dport) != (p.dst, p.dport, p.sport):
        say("answer", f"a reset of another connection: {q.tuple}")
    seq, ack = _numbers(q)
    theirs, acked = _numbers(p)
    length = p.total + 14 - p.l4 - (p.frame[p.l4 + 12] >> 4) * 4
    length += bool(p.flags & 2) + bool(p.flags & 1)
    wanted = (acked, ack) if p.flags & 16 else (0, (theirs + length) & 0xFFFFFFFF)
    if (seq, ack) != wanted:
        say("answer", f"a reset with sequence {seq} and acknowledgement {ack}, not {wanted}")


def _numbers(p: Packet) -> tuple[int, int]:
    return int.from_bytes(p.frame[p.l4 + 4 : p.l4 + 8]), int.from_bytes(
        p.frame[p.l4 + 8 : p.l4 + 12]
    )


def _check_error(p: Packet, entry: str, q: Packet, say: Say) -> None:
    if p.error or p.fragment == LATER or p.dst >> 28 >= 14:
        say("answer", "an error about an error, a later fragment or a group (RFC 1122 3.2.2)")
    if any(p.src in network for network in cluster.NEVER_A_SOURCE):
        say("answer", f"an error to {p.src:#x}")
    own = NODE if entry == "uplink" else GATEWAY
    refused = q.frame[q.l4 : q.l4 + 2] == b"\3\3"  # who is asked says so itself
    if q.src != own and not (refused and q.src == p.dst):
        say("answer", f"an error from {q.src:#x}")
    quote = q.frame[q.l4 + 8 : 14 + q.total]
    if not p.frame[14 : 14 + p.total].startswith(quote) or len(quote) < min(_QUOTE, p.total):
        say("answer", f"it quotes what was not sent: {quote.hex()}")
    if q.total > _LONGEST:
        say("answer", f"an error of {q.total} bytes")


def check_related(p: Packet, q: Packet, out: Out, quoted: Tuple, left: Tuple, say: Say) -> None:
    """Somebody's error, translated as its flow's packets are: outside, and inside inversely.

    ``quoted`` is the tuple that it quotes, ``left`` that with which the flow's packets in the
    error's direction leave.
    """
    wanted = (left[1], left[0], left[3], left[2], left[4])
    inner = p.l4 + 8
    l4 = inner + (p.frame[inner] & 15) * 4
    if q.dst != left[1]:
        say("related", f"it left for {q.dst:#x}, not for {left[1]:#x}")
    source = left[0] if p.src == quoted[1] else p.src
    if q.src != source:
        say("related", f"it left from {q.src:#x}, not from {source:#x}")
    seen = Packet(q.frame[:12] + b"\x08\x00" + q.frame[inner:]) if not q.fragment else None
    fields = [(0, 12), (22, 23), (24, 34), (p.l4 + 2, p.l4 + 4), (inner + 10, inner + 20)]
    fields += _quoted_fields(p, l4, quoted[4])
    if not same_but(p.frame, out.frame, fields):
        say("quoted", f"more than addresses and ports was changed: {out.frame.hex()}")
        return
    found = _read_quoted(out.frame, inner, l4, quoted)
    if seen is not None and found != wanted:
        say("related", f"it quotes {found}, not {wanted}")
    if p.header_residue() != q.header_residue():
        say("checksum", f"an error's header: {out.frame.hex()}")
    if not p.fragment and p.residue() != q.residue():
        say("checksum", f"an error's message: {out.frame.hex()}")
    if ones(p.frame[inner:l4]) != ones(q.frame[inner:l4]):
        say("checksum", f"the quoted header's: {out.frame.hex()}")
    at = l4 + {TCP: 16, UDP: 6}.get(quoted[4], 2)
    complete = 14 + p.total >= at + 2
    if complete and quoted[4] in {TCP, UDP, ICMP}:
        if quoted[4] == UDP and p.frame[at : at + 2] == b"\0\0":
            if q.frame[at : at + 2] != b"\0\0":
                say("checksum", "a quoted datagram without a checksum got one")
        elif _covered(p.frame, inner, l4, at, quoted[4]) != _covered(
            q.frame, inner, l4, at, quoted[4]
        ):
            say("checksum", f"the quoted transport's: {out.frame.hex()}")


def _quoted_fields(p: Packet, l4: int, protocol: int) -> list[tuple[int, int]]:
    end = 14 + p.total
    if protocol == ICMP:
        return [(l4 + 2, l4 + 6)] if p.frame[l4] in {0, 8} else []
    if protocol not in {TCP, UDP, SCTP}:
        return []
    at = l4 + {TCP: 16, UDP: 6}.get(protocol, 0)
    fields = [(l4, l4 + 4)]
    if protocol in {TCP, UDP} and at + 2 <= end:
        fields.append((at, at + 2))
    return fields


def _read_quoted(frame: bytes, inner: int, l4: int, quoted: Tuple) -> Tuple:
    src, dst = (int.from_bytes(frame[inner + n : inner + n + 4]) for n in (12, 16))
    first, second = (int.from_bytes(frame[l4 + n : l4 + n + 2]) for n in (0, 2))
    if quoted[4] == ICMP:
        ident = int.from_bytes(frame[l4 + 4 : l4 + 6])
        first, second = identify(frame[l4], ident)
    elif quoted[4] not in {TCP, UDP, SCTP}:
        first = second = 0
    return (src, dst, first, second, quoted[4])


def _covered(frame: bytes, inner: int, l4: int, at: int, protocol: int) -> int:
    """What of the quoted transport's checksum forwarding may change."""
    total = ones(frame[at : at + 2])
    if protocol == ICMP:
        return (total + ones(frame[l4 + 4 : l4 + 6])) % 65535
    return (total + ones(frame[inner + 12 : inner + 20]) + ones(frame[l4 : l4 + 4])) % 65535


def quoted_tuple(p: Packet) -> Tuple | None:
    """Of the packet that an ICMP error quotes; None if too little is quoted."""
    at = p.l4 + 8
    frame = p.frame[: 14 + p.total]
    if len(frame) < at + 28 or frame[at] >> 4 != 4 or frame[at] & 15 < 5:
        return None
    l4 = at + (frame[at] & 15) * 4
    if len(frame) < l4 + 8 or int.from_bytes(frame[at + 6 : at + 8]) & 0x1FFF:
        return None
    protocol = frame[at + 9]
    src, dst = int.from_bytes(frame[at + 12 : at + 16]), int.from_bytes(frame[at + 16 : at + 20])
    sport, dport = int.from_bytes(frame[l4 : l4 + 2]), int.from_bytes(frame[l4 + 2 : l4 + 4])
    if protocol == ICMP:
        ident = int.from_bytes(frame[l4 + 4 : l4 + 6])
        sport, dport = identify(frame[l4], ident)
    elif protocol not in {TCP, UDP, SCTP}:
        sport = dport = 0
    return (src, dst, sport, dport, protocol)
