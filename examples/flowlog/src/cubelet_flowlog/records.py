"""Records and numbers that flowlog's C and Python share: see ``bpf/flowlog.bpf.c``."""

from __future__ import annotations

import enum
from typing import Annotated

from cubelet_hooks.flows import Tuple
from cubelet_hooks.records import U8, U32, U64, Length, Record

ASKED = 64
"""Bytes of a DNS question that are told: most names are shorter."""
Question = Annotated[bytes, Length(ASKED)]
NOTHING = bytes(ASKED)


class What(enum.IntEnum):
    """The kind of an event; ``FLOWLOG_OPENED`` and so on in C, by ``Cube.defines``."""

    OPENED = 0
    DENIED = 1
    COUNTED = 2
    ENDED = 3


class How(enum.IntFlag):
    """Flags of an event; ``FLOWLOG_REPLY`` and so on in C."""

    REPLY = 1
    """The event's counts and tuples are those of the reply direction."""
    PORT_UNKNOWN = 2
    """The translated source port is unknown: it is chosen after all cubes have run."""


class Told(Record):
    """An event. ``time`` is the kernel's monotonic clock in ns, when the packet was judged.

    ``arrived`` is the tuple on the wire, ``left`` that after translation; the port classes are
    those that these packets enter and leave by. A denied one has not left: both are the same.
    ``asked`` is the begin of the question in a first packet to a DNS server, else zeros.
    """

    time: U64
    packets: U64
    bytes: U64
    arrived: Tuple
    left: Tuple
    enters: U8
    leaves: U8
    what: U8
    how: U8
    asked: Question = NOTHING


class Mark(Record):
    """The packet that a CPU has begun to judge, until this cube sees it on the way out.

    ``time`` is 0 once it left; ``mode`` says why it was judged (``enum cubelet_mode``).
    """

    time: U64
    arrived: Tuple
    enters: U8
    mode: U8


class Fields(Record):
    """Fields of a flow record: the time of the last event in jiffies; whether it was chosen."""

    told: U32
    counting: U8
