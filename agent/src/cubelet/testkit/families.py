"""Addresses of one family for those of the other, so that the same cases serve both."""

from __future__ import annotations

from dataclasses import fields, replace
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import msgspec

from cubelet_hooks.objects import Node, Object
from cubelet_hooks.records import Record

_OCTETS = (16, 32, 48, 112)
"""Where in a twin the 16 bits begin that stand for each octet."""
_ULA = 0xFD00 << 112


def twin(address: IPv4Address) -> IPv6Address:
    """The IPv6 address that stands for an IPv4 one: fd00:a:1::2 for 10.1.0.2.

    Octets become groups of their own, after fd00: the third is followed by zeros, so that a /24 is
    a /64. Loopback, groups, link-local addresses and none become IPv6's.
    """
    if address.is_unspecified or address.is_loopback:
        return IPv6Address("::1" if address.is_loopback else "::")
    octets = address.packed
    if address.is_multicast or address == IPv4Address("255.255.255.255"):
        return IPv6Address(f"ff0e::{octets[2]:x}:{octets[3]:x}")
    if address.is_link_local:
        return IPv6Address(f"fe80::{octets[2]:x}:{octets[3]:x}")
    groups = (octet << 112 - start for octet, start in zip(octets, _OCTETS, strict=True))
    return IPv6Address(_ULA | sum(groups))


def twin_network(network: IPv4Network) -> IPv6Network:
    """The twins of a network's addresses: of a /8 a /32, of a /16 a /48, of a /24 a /64."""
    octets, bits = divmod(network.prefixlen, 8)
    if not network.prefixlen:
        return IPv6Network("::/0")
    length = _OCTETS[octets] + 8 + bits if bits else _OCTETS[octets - 1] + 16
    return IPv6Network((twin(network.network_address), length))


def twin_object(given: Object) -> Object:
    """The object with twins for its addresses and networks; a Node has those beside its own.

    The tunnels between nodes run over IPv4.
    """
    made: Object = _twin_value(given)
    if isinstance(made, Node) and isinstance(given, Node):
        return msgspec.structs.replace(made, addresses=(*given.addresses, *made.addresses))
    return made


def untwin(address: IPv6Address) -> IPv4Address:
    """The address whose twin this is. Raises ValueError if it is none's."""
    raw = address.packed
    found = IPv4Address("127.0.0.1") if address.is_loopback else IPv4Address(raw[3:9:2] + raw[15:])
    if twin(found) != address:
        raise ValueError(f"{address} stands for no IPv4 address")
    return found


def twin_record(given: Record) -> Record:
    """The record with twins for its addresses."""
    made: Record = _twin_value(given)
    return made


def _twin_value(value: Any) -> Any:
    if isinstance(value, IPv4Address):
        return twin(value)
    if isinstance(value, IPv4Network):
        return twin_network(value)
    if isinstance(value, tuple):
        return tuple(map(_twin_value, value))
    if isinstance(value, msgspec.Struct):
        members = {name: _twin_value(each) for name, each in msgspec.structs.asdict(value).items()}
        if members.get("address_type") == "IPv4":
            members["address_type"] = "IPv6"
        return msgspec.structs.replace(value, **members)
    if isinstance(value, Record):
        return replace(
            value, **{f.name: _twin_value(getattr(value, f.name)) for f in fields(value)}
        )
    return value
