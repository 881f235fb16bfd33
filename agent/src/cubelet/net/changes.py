"""What the kernel's notices of changes mean to a node (rtnetlink(7)).

Notices say that something may be outdated, never what is right: that is read from the kernel. So
those of the agent's own doing are no harm, those that are lost cost a comparison, and only what is
frequent and certainly nothing to us is passed over, pods' own devices above all.
"""

from __future__ import annotations

import enum
import struct
from socket import AF_INET, AF_UNSPEC

from cubelet.net.netlink import attributes, messages
from cubelet.net.pods import is_pods
from cubelet.net.routes import NEXT_HOP, PROTOCOL


class Affected(enum.Flag):
    """What a change may have made wrong."""

    NOTHING = 0
    PATHS = enum.auto()
    """Where packets of open flows leave: next hops, MTUs, devices."""
    NODE = enum.auto()
    """The node's devices, addresses and settings, and the host's routes into the datapath."""
    TABLES = enum.auto()
    """What is known of others' routes: of who has addresses, and of routers."""
    ALL = PATHS | NODE | TABLES


# linux/rtnetlink.h, linux/netconf.h
GROUPS = (1, 3, 5, 7, 8, 24, 32)
"""RTNLGRP_: LINK, NEIGH, IPV4_IFADDR, IPV4_ROUTE, IPV4_RULE, IPV4_NETCONF, NEXTHOP."""
_NEWLINK, _DELLINK = 16, 17
_ADDRESSES, _RULES, _NEXTHOPS = (20, 21), (32, 33), (104, 105)
_DELROUTE, _ROUTES = 25, (24, 25)
_NETCONF = (80, 81)
_NEIGHBOURS = (28, 29)
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER = 1, 3, 4, 10
_IFF_UP, _IFF_RUNNING, _IFF_LOWER_UP = 0x1, 0x40, 0x10000
_NETCONFA_IFINDEX = 1
_NDA_DST = 1
_NUD_PERMANENT = 0x80
_CLONED = 0x200  # RTM_F_CLONED: a cache's entry, no route
_LOCAL_TABLE = 255

_LINK = struct.Struct("=BxHiII")  # struct ifinfomsg
_ROUTE = struct.Struct("=8BI")  # struct rtmsg
_NEIGHBOUR = struct.Struct("=4xiHBB")  # struct ndmsg
_NETCONF_HEADER = 4  # struct netconfmsg, aligned
_INDEX = struct.Struct("=i")

_Look = tuple[object, ...]


class Classifier:
    """Says what datagrams of notices affect; knows what devices looked like last."""

    def __init__(self) -> None:
        self._looks: dict[int, _Look] = {}
        self._pods: set[int] = set()

    def affected(self, datagram: bytes) -> Affected:
        """What any of a datagram's messages affects."""
        found = Affected.NOTHING
        for kind, _, body in messages(datagram):
            found |= self._one(kind, body)
        return found

    def _one(self, kind: int, body: bytes) -> Affected:
        if kind in _ROUTES:
            return _of_route(kind, body)
        if kind in _NEIGHBOURS:
            return _of_neighbour(body)
        if kind in (_NEWLINK, _DELLINK):
            return self._of_link(kind, body)
        if kind in _ADDRESSES:
            return Affected.ALL
        if kind in _NETCONF:
            return self._of_setting(body)
        return Affected.PATHS if kind in (*_RULES, *_NEXTHOPS) else Affected.NOTHING

    def _of_link(self, kind: int, body: bytes) -> Affected:
        """A device counts when it comes, goes, or looks different: not for its statistics."""
        family, _, index, flags, _ = _LINK.unpack_from(body)
        if family != AF_UNSPEC:  # a bridge says what became of its port
            return Affected.NOTHING
        found = dict(attributes(body, _LINK.size))
        if is_pods(found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace")):
            (self._pods.add if kind == _NEWLINK else self._pods.discard)(index)
            return Affected.NOTHING
        if kind == _DELLINK:
            self._looks.pop(index, None)
            return Affected.ALL
        state = flags & (_IFF_UP | _IFF_RUNNING | _IFF_LOWER_UP)
        wanted = (_IFLA_IFNAME, _IFLA_ADDRESS, _IFLA_MTU, _IFLA_MASTER)
        look: _Look = (state, *(found.get(each) for each in wanted))
        if self._looks.get(index) == look:
            return Affected.NOTHING
        self._looks[index] = look
        return Affected.ALL

    def _of_setting(self, body: bytes) -> Affected:
        """Forwarding or rp_filter, of all devices or of one, such as a pod's that is being made."""
        raw = dict(attributes(body, _NETCONF_HEADER)).get(_NETCONFA_IFINDEX, bytes(_INDEX.size))
        pods = _INDEX.unpack_from(raw)[0] in self._pods
        return Affected.NOTHING if pods else Affected.NODE | Affected.PATHS


def _of_route(kind: int, body: bytes) -> Affected:
    family, length, _, _, table, protocol, _, _, flags = _ROUTE.unpack_from(body)
    if family != AF_INET or flags & _CLONED:
        return Affected.NOTHING
    if protocol == PROTOCOL:  # who adds ours is an agent
        return Affected.NODE if kind == _DELROUTE else Affected.NOTHING
    if table == _LOCAL_TABLE or not length:  # a default route may have made another device uplink
        return Affected.ALL
    return Affected.PATHS | Affected.TABLES


def _of_neighbour(body: bytes) -> Affected:
    """The kernel resolves neighbours when it sends; only the datapath's was made by us."""
    _, state, _, _ = _NEIGHBOUR.unpack_from(body)
    if state & _NUD_PERMANENT:
        return Affected.NOTHING
    to_us = (_NDA_DST, NEXT_HOP.packed) in attributes(body, _NEIGHBOUR.size)
    return Affected.NODE if to_us else Affected.NOTHING
