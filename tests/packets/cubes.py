"""Cubes of these tests: each does one thing that the flow machinery must carry out, by a map."""

from __future__ import annotations

import enum
from collections.abc import Collection
from typing import ClassVar

from cubelet_hooks.cube import PORT_CLASSES, UPLINK_EGRESS, Cube, Reason
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import U8, U16, U32, Addr, Be16, Be32, Mac, Record
from cubelet_hooks.view import View

EVERYWHERE = frozenset(PORT_CLASSES)
STACK = len(PORT_CLASSES)
"""A path's way out that is no port class: the node's own network stack."""


class Target(Record):
    """A destination."""

    address: Addr


class Path(Record):
    """Where packets to it leave: a port class's number, or ``STACK``."""

    ifindex: U32
    remote: Be32
    mtu: U16
    leaves: U8
    routed: U8
    dst_mac: Mac


class Paths(Cube):
    """The core: what the map does not know has no path."""

    kind = "paths"
    core = True
    inward = EVERYWHERE
    maps: ClassVar[tuple[Map, ...]] = (Map("known", MapType.HASH, Target, Path, 64, False),)


class End(Record):
    """An address and a port."""

    address: Addr
    port: Be16


class Vip(Cube):
    """Destination translation, whatever the protocol; for the host's sockets, too."""

    kind = "vip"
    inward = EVERYWHERE
    maps: ClassVar[tuple[Map, ...]] = (Map("backends", MapType.HASH, End, End, 64, False),)

    def needed_on(self, view: View) -> Collection[str]:
        """Everywhere, and what the host's sockets answer by the uplink is to be found."""
        return (*PORT_CLASSES, UPLINK_EGRESS)


class Sender(Record):
    """Who sends, and the class it leaves by."""

    address: Addr
    leaves: U8


class Source(Record):
    """An address and a range of ports, ``first`` to ``first + count - 1``."""

    address: Addr
    first: U16
    count: U16


class Masq(Cube):
    """Source translation."""

    kind = "masq"
    outward = EVERYWHERE
    maps: ClassVar[tuple[Map, ...]] = (Map("sources", MapType.HASH, Sender, Source, 64, False),)


class Way(enum.IntEnum):
    """How the gate says no; the last two are no refusals, and wanted where judging goes wrong."""

    DROP = 1
    REFUSE = 2
    REJECT = 3
    RESTART = 4
    TO_STACK = 5


class Pair(Record):
    """The real client and, after translation, whom it talks to."""

    src: Addr
    dst: Addr


class Answer(Record):
    """A way; for REJECT the ICMP error's type and code."""

    way: U8
    type: U8
    code: U8


class Gate(Cube):
    """Permission: open but for the pairs in the map."""

    kind = "gate"
    inward = EVERYWHERE
    reasons = (Reason("closed", "a test closed the gate"),)
    maps: ClassVar[tuple[Map, ...]] = (Map("closed", MapType.HASH, Pair, Answer, 64, False),)


STACKS = dict.fromkeys(PORT_CLASSES, (Vip, Masq, Gate))
