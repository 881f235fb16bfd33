"""IPv4 packets of these tests as IPv6 ones, so that the same cases serve both families."""

from __future__ import annotations

from ipaddress import IPv4Address

from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6PacketTooBig,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    ICMPv6Unknown,
    IPv6,
    IPv6ExtHdrDestOpt,
    PadN,
)
from scapy.packet import NoPayload, Packet, Raw

from cubelet.testkit.families import twin

FLOW_LABEL = 0x5A5A5
FULL = 1500
UNREACHABLE = {0: 0, 1: 3, 3: 4, 9: 1, 10: 1, 13: 1}
"""Codes of ICMPv6 for those of ICMP (RFC 7915 4.2; a neighbour that is not there is one's own)."""

MESSAGES = {9: 140, 13: 139, 40: 144, 255: 255}
"""Types of messages that are neither echoes nor errors, and may be forwarded in either family."""


def in_six(packet: Packet) -> Packet:
    """The same packet between the twins of its addresses. A wrong checksum is as wrong there.

    UDP without a checksum has one, and what fills 1,500 bytes fills them with 20 fewer behind the
    longer header: neither passes otherwise.
    """
    ip = packet[IP]
    chain = IPv6(src=six(ip.src), dst=six(ip.dst), hlim=ip.ttl, fl=FLOW_LABEL)
    body = ip.payload.copy()
    if isinstance(body, ICMP):
        body = _icmp(ip, body)
    elif isinstance(body, TCP | UDP):
        damage = _damage(ip)
        body.chksum = None
        if isinstance(body, UDP):
            body.len = None
        if len(ip) == FULL:
            body[Raw].load = body[Raw].load[:-20]
        if damage:
            body.chksum = _right(chain / body.copy()) ^ damage
    else:
        chain.nh = ip.proto
    if ip.options:
        options = IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
        return chain / options / body
    return chain / body


def six(address: str) -> str:
    """The twin of an IPv4 address."""
    return str(twin(IPv4Address(address)))


def _right(packet: Packet) -> int:
    built = IPv6(bytes(packet))
    return int(built.payload.fields.get("chksum", built.payload.fields.get("cksum")))


def _damage(ip: Packet) -> int:
    """What a checksum that the packet says itself differs by from the right one."""
    said = ip.payload.chksum
    if not said:
        return 0
    copy = ip.copy()
    copy.payload.chksum = copy.len = copy.chksum = None
    return int(IP(bytes(copy)).payload.chksum) ^ int(said)


def _icmp(ip: Packet, message: Packet) -> Packet:
    rest = message.payload.copy()
    if message.type in (0, 8):
        echo = ICMPv6EchoRequest if message.type else ICMPv6EchoReply
        data = b"" if isinstance(rest, NoPayload) else bytes(rest)
        made = echo(id=message.id, seq=message.seq, data=data)
        damage = _damage(ip)
        if damage:
            made.cksum = _right(IPv6(src=six(ip.src), dst=six(ip.dst)) / made.copy()) ^ damage
        return made
    if message.type in MESSAGES:
        body = bytes(message)[4:]
        return ICMPv6Unknown(type=MESSAGES[message.type], code=message.code, msgbody=body)
    return error_in_six(message.type, message.code, message.nexthopmtu or 0) / rest


def error_in_six(kind: int, code: int, mtu: int) -> Packet:
    """The head of an ICMP error, in ICMPv6's words."""
    if (kind, code) == (3, 4):
        return ICMPv6PacketTooBig(mtu=max(mtu, 1280))
    if kind == 11:
        return ICMPv6TimeExceeded(code=code)
    if kind == 12:
        return ICMPv6ParamProblem(ptr=0)
    return ICMPv6DestUnreach(code=UNREACHABLE.get(code, 0))


__all__ = ["FLOW_LABEL", "error_in_six", "in_six", "six"]
