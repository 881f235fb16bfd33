"""Keys and values of the cube's maps. A frontend is an address and port of a Service."""

from __future__ import annotations

import enum
import socket

from cubelet_hooks.objects import Protocol
from cubelet_hooks.records import U8, U32, U64, Addr, Be16, Family, Record

PROTOCOLS: dict[Protocol, int] = {
    "TCP": socket.IPPROTO_TCP,
    "UDP": socket.IPPROTO_UDP,
    "SCTP": socket.IPPROTO_SCTP,
}


class Scope(enum.IntEnum):
    """Whose packets a frontend is for; C knows ``LBRP_INSIDE`` and so on."""

    INSIDE = 0
    """Packets of pods and of the node."""
    OUTSIDE = 1
    """Those that enter by the uplink: externalTrafficPolicy applies to them alone."""
    NODE = 2
    """Those of the node alone, to 127.0.0.1."""


class Shared(enum.IntEnum):
    """Who else may have a place's number at an address of this node's."""

    NOBODY = 0
    CLIENTS = 1
    """The node's own connections."""
    YIELDS = 2
    """Whatever socket of the node's: who names the address cannot know, and may mean harm."""


class Precedence(enum.IntEnum):
    """What an address's port is asked for as; the first of these that asks has it."""

    CLUSTER_IP = 0
    NODE_PORT = 1
    LOAD_BALANCER = 2
    EXTERNAL = 3
    HOST_PORT = 4


class FrontendKey(Record):
    """An address of a Service, with its port as in a packet and the IP protocol's number.

    Port 0 of protocol 0 marks the address as nobody's but Services': its other ports are refused.
    """

    address: Addr
    port: Be16
    protocol: U8
    scope: U8


class Frontend(Record):
    """Its backends: numbers 0 to ``count`` - 1 of the set.

    ``elsewhere`` is 1 if there are none only because the traffic policy is Local; ``shared`` is
    of :class:`Shared`. ``ranges`` is the number of the networks whose clients alone are served,
    0: all are. Which backend a client had is remembered for ``sticky`` seconds under the number
    ``group``; 0 seconds: it is not. ``keeps`` is 1 where backends on this node's own network have
    to see the client's address.
    """

    set_id: U64
    count: U32
    elsewhere: U8
    shared: U8 = 0
    ranges: U64 = 0
    group: U64 = 0
    sticky: U32 = 0
    keeps: U8 = 0


class BackendKey(Record):
    """One backend of a set, by number."""

    set_id: U64
    index: U32


class Backend(Record):
    """Where its packets go."""

    address: Addr
    port: Be16


class MemberKey(Record):
    """One backend of a set, by its address and port in a translated packet."""

    set_id: U64
    address: Addr
    port: Be16


class SourceKey(Record):
    """An allowed client network; ``prefixlen`` also counts the bits from ``ranges`` on."""

    prefixlen: U32
    ranges: U64
    network: Addr

    @classmethod
    def bits(cls, family: Family, prefixlen: int) -> int:
        """``prefixlen`` of the key for a network's prefix length, padding before it included."""
        layout = cls.layout(family)
        length, *_, network = layout.fields
        return 8 * (network.offset - length.scalar.size) + prefixlen


class AffinityKey(Record):
    """A client of a Service's port, whichever of the Service's addresses it uses."""

    group: U64
    client: Addr


class Affinity(Record):
    """The backend of its last flow, which began at ``seen`` (jiffies, the low 32 bits)."""

    address: Addr
    port: Be16
    seen: U32


class NodeKey(Record):
    """An address of some node."""

    address: Addr


class Present(Record):
    """Says that the key exists; always 1."""

    present: U8
