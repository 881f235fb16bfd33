"""Lists the kernel's IPv4 routes, by route netlink by hand: a node may have 10,000 from BGP, on
which pyroute2 spends 1.5 s of CPU each time, this 0.1 s."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from socket import AF_INET
from typing import NamedTuple

from cubelet.net.netlink import Connection, attributes

MAIN_TABLE = 254
UNICAST, LOCAL = 1, 2
"""Types of routes, RTN_."""

# linux/rtnetlink.h
_GETROUTE = 26
_HEADER = struct.Struct("=8BI")  # struct rtmsg
_NEXT_HOP = struct.Struct("=HBBi")  # struct rtnexthop
_NUMBER, _INDEX, _ADDRESS = struct.Struct("=I"), struct.Struct("=i"), struct.Struct("!I")
_DST, _OIF, _GATEWAY, _PRIORITY, _PREFSRC = 1, 4, 5, 6, 7
_MULTIPATH, _TABLE, _VIA = 9, 15, 18


class Hop(NamedTuple):
    """Where a route leads: a device (0: nowhere) and the router there, if it is an IPv4 address.

    ``direct`` says that there is no router at all.
    """

    device: int
    gateway: IPv4Address | None
    direct: bool


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 route; ``dst`` is its network's address as a number."""

    table: int
    protocol: int
    type: int
    tos: int
    priority: int
    dst: int
    length: int
    source: IPv4Address | None
    hops: tuple[Hop, ...]

    @property
    def network(self) -> IPv4Network:
        """What it leads to."""
        return IPv4Network((self.dst, self.length))


def routes(table: int | None = None) -> list[Route]:
    """All routes of the thread's network namespace, or those of one table. Raises OSError."""
    with Connection() as kernel:
        bodies = kernel.dump(_GETROUTE, _HEADER.pack(AF_INET, *bytes(7), 0))
    return [each for each in map(_read, bodies) if table in (None, each.table)]


def _read(body: bytes) -> Route:
    _, length, _, tos, table, protocol, _, kind, _ = _HEADER.unpack_from(body)
    found = dict(attributes(body, _HEADER.size))
    if raw := found.get(_TABLE):
        (table,) = _NUMBER.unpack_from(raw)
    paths = found.get(_MULTIPATH)
    return Route(
        table=table,
        protocol=protocol,
        type=kind,
        tos=tos,
        priority=_NUMBER.unpack_from(found.get(_PRIORITY, bytes(4)))[0],
        dst=_ADDRESS.unpack_from(found.get(_DST, bytes(4)))[0],
        length=length,
        source=_address(found.get(_PREFSRC)),
        hops=tuple(_next_hops(paths)) if paths else (_hop(found),),
    )


def _hop(found: dict[int, bytes], device: int = 0) -> Hop:
    if raw := found.get(_OIF):
        (device,) = _INDEX.unpack_from(raw)
    direct = _GATEWAY not in found and _VIA not in found
    return Hop(device, _address(found.get(_GATEWAY)), direct)


def _next_hops(paths: bytes) -> Iterator[Hop]:
    place = 0
    while place + _NEXT_HOP.size <= len(paths):
        length, _, _, device = _NEXT_HOP.unpack_from(paths, place)
        one = paths[place : place + length]
        yield _hop(dict(attributes(one, _NEXT_HOP.size)), device)
        place += max(_NEXT_HOP.size, length + 3 & ~3)


def _address(raw: bytes | None) -> IPv4Address | None:
    return IPv4Address(raw) if raw else None
