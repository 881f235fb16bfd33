"""IPv4 packets as IPv6 ones, and a datapath that takes them: the same cases serve both families."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING, Any

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
from scapy.layers.l2 import Ether
from scapy.packet import NoPayload, Packet, Raw

from cubelet.testkit.datapath import Datapath, Result
from cubelet.testkit.families import twin, twin_object, twin_record, untwin
from cubelet.testkit.network import TestNetwork

if TYPE_CHECKING:
    from cubelet.datapath.applier import Outcome
    from cubelet_hooks.objects import Object
    from cubelet_hooks.records import Record

FLOW_LABEL = 0x5A5A5
FULL = 1500
QUOTED = 511
"""The most that an error of ours quotes, in bytes of the packet."""
ERRORS = (ICMPv6DestUnreach, ICMPv6PacketTooBig, ICMPv6TimeExceeded, ICMPv6ParamProblem)
UNREACHABLE = {0: 0, 1: 3, 3: 4, 9: 1, 10: 1, 13: 1}
"""Codes of ICMPv6 for those of ICMP (RFC 7915 4.2; a neighbour that is not there is one's own)."""

MESSAGES = {9: 140, 13: 139, 40: 144, 255: 255}
"""Types of messages that are neither echoes nor errors, and may be forwarded in either family."""


class Twins(Datapath):
    """A datapath of family 6 that is given what one of family 4 is: objects and frames.

    They stand for their twins, and so does what is told of a packet: see :func:`in_four`.
    """

    def __init__(
        self, network: TestNetwork, objects: Iterable[Object] = (), **options: Any
    ) -> None:
        super().__init__(network, objects=map(twin_object, objects), family=6, **options)

    def apply(self, *objects: Object) -> Outcome:
        """As Datapath's."""
        return super().apply(*map(twin_object, objects))

    def delete(self, *objects: Object) -> Outcome:
        """As Datapath's."""
        return super().delete(*map(twin_object, objects))

    def send(self, packet: Packet, *args: Any, **options: Any) -> Result:
        """As Datapath's; a frame that is not of IPv4 is sent as it is."""
        sent = twin_frame(packet)
        result = super().send(sent, *args, **options)
        if IPv6 not in result.packet or IP not in packet:
            return result
        return replace(result, packet=in_four(result.packet, packet, sent))

    def put(self, cube: str, name: str, key: Record, value: Record) -> None:
        """As Datapath's."""
        super().put(cube, name, twin_record(key), twin_record(value))


def twin_frame(frame: Packet) -> Packet:
    """The frame with its IPv4 packet's twin in it, or as it is."""
    if IP not in frame or IPv6 in frame:
        return frame
    return Ether(src=frame.src, dst=frame.dst) / in_six(frame)


def in_four(seen: Packet, four: Packet, six: Packet) -> Packet:
    """The frame whose twin was seen when the twin ``six`` of the frame ``four`` was sent.

    Every byte of it must be right, or this raises AssertionError: checksums, the flow label, and
    what is quoted of the frame that was sent.
    """
    if bytes(seen) == bytes(six):
        return Ether(bytes(four))
    ip = seen[IPv6]
    src, dst = (str(untwin(IPv6Address(each))) for each in (ip.src, ip.dst))
    error = next((layer for layer in ERRORS if layer in ip), None)
    header, label = IP(src=src, dst=dst, ttl=ip.hlim), FLOW_LABEL
    if error is not None or (TCP in ip and "R" in ip[TCP].flags and "R" not in four[TCP].flags):
        header.flags, header.id, label = "DF", 0, 0
    else:
        header.flags, header.id, header.tos = four[IP].flags, four[IP].id, four[IP].tos
    body = _body_in_four(ip) if error is None else _error_in_four(ip, four, six)
    made = Ether(bytes(Ether(src=seen.src, dst=seen.dst) / header / body))
    again = in_six(made) if error is None else IPv6(src=ip.src, dst=ip.dst) / ip.payload.copy()
    again.fl, again.hlim = label, ip.hlim
    for name in ("cksum", "chksum"):
        if name in again.payload.fields:
            setattr(again.payload, name, None)
    assert bytes(ip) == bytes(again), f"\nseen  {ip!r}\nright {again!r}"
    return made


def _body_in_four(ip: Packet) -> Packet:
    for layer, kind in ((ICMPv6EchoRequest, 8), (ICMPv6EchoReply, 0)):
        if layer in ip:
            echo = ip[layer]
            return ICMP(type=kind, id=echo.id, seq=echo.seq) / Raw(echo.data)
    body = ip.payload.copy()
    if isinstance(body, TCP | UDP):
        body.chksum = None
    return body


def _error_in_four(ip: Packet, four: Packet, six: Packet) -> Packet:
    told = ip.payload
    quoted = bytes(told.payload)
    assert quoted == bytes(six[IPv6])[:QUOTED], f"quotes {quoted.hex()}"
    if isinstance(told, ICMPv6PacketTooBig):
        error = ICMP(type=3, code=4, nexthopmtu=told.mtu)
    elif isinstance(told, ICMPv6TimeExceeded):
        error = ICMP(type=11, code=told.code)
    elif isinstance(told, ICMPv6ParamProblem):
        error = ICMP(type=12)
    else:
        error = ICMP(type=3, code={0: 0, 1: 13, 3: 1, 4: 3}[told.code])
    return error / Raw(bytes(four[IP])[:QUOTED])


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
