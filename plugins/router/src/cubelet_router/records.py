"""The router's map key and value. Each becomes a C struct ``router_NAME``."""

from __future__ import annotations

import enum
from typing import Annotated

from cubelet_hooks.records import U32, Addr, Be32, Record


class RouteKind(enum.IntEnum):
    """Where a route leads; ``enum router_route_kind``."""

    SEGMENT = 0
    """The pods of this node: the next hop is the destination."""
    HOST = 1
    """The node's own stack."""
    OVERLAY = 2
    """Another node's pods, by tunnel to ``remote``."""
    UPLINK = 3
    """By the kernel's routes: out by the uplink, unless the address is the node's own."""
    UNREACHABLE = 4
    """Nowhere: the sender gets an ICMP error."""
    BROADCAST = 5
    """The segment's broadcast addresses, to which the router forwards nothing."""


class Prefix(Record):
    """The trie's key: ``length`` bits of ``address`` count."""

    length: U32
    address: Addr


class Route(Record):
    """A :class:`RouteKind`, and for OVERLAY the other node's address."""

    remote: Be32
    kind: Annotated[int, "u8", RouteKind]
