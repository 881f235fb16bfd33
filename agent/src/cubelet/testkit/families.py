"""Addresses of one family for those of the other, so that the same cases serve both."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

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
