"""Makes veth pairs by route netlink: what pods wait for, and what pyroute2 cannot ask for."""

from __future__ import annotations

import struct
from socket import AF_UNSPEC

from cubelet.net.netlink import CREATE, EXCL, Connection, attribute, number, text

# linux/rtnetlink.h, linux/if_link.h, linux/veth.h
_NEWLINK = 16
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO = 1, 3, 4, 18
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER = 1, 2, 1


def ifinfo(flags: int = 0, index: int = 0) -> bytes:
    """struct ifinfomsg with these flags set, of a device that an attribute names.

    With ``index`` a device that is made gets this ifindex.
    """
    return struct.pack("=BxHiII", AF_UNSPEC, 0, index, flags, flags)


def end(name: str, mac: str, mtu: int, index: int = 0) -> bytes:
    """One end of a pair that is to be made; the kernel chooses an ifindex of 0."""
    address = attribute(_IFLA_ADDRESS, bytes.fromhex(mac.replace(":", "")))
    return ifinfo(0, index) + text(_IFLA_IFNAME, name) + address + number(_IFLA_MTU, mtu)


def create(kernel: Connection, one: bytes, other: bytes) -> None:
    """Make a pair of these two ends. Raises Refused."""
    veth = attribute(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, other))
    kind = attribute(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "veth"), veth)
    kernel.request(_NEWLINK, one + kind, CREATE | EXCL)
