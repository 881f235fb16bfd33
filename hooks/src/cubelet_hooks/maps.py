"""How a cube declares its BPF maps. The agent creates, pins, compares and fills them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cubelet_hooks.records import Address, Record


class MapType(enum.Enum):
    """Kinds of map a cube may ask for; values are the kernel's ``enum bpf_map_type`` names.

    The key of an ``ARRAY`` or ``PERCPU_ARRAY`` is a record of one ``U32``, from 0 to the map's size
    less one; all entries are always there. A value of a ``PERCPU_...`` map is there once for each
    CPU: C sees its own, Python one with the sums of all numbers.

    A ``LPM_TRIE`` finds the entry with the longest prefix. Its key begins with a ``U32``, the
    number of bits that count of *all that follows it*; then come other fields, if any, and an
    address last. A trie of networks by pod's port, with 10.1.0.0/16 for port 7:

        class Ban(Record):                 # struct fence_ban {          offset
            length: U32                    #     __u32 length;                0
            ifindex: Be32                  #     __be32 ifindex;              4
            network: Addr                  #     struct cubelet_addr network; 8

        Ban(32 + 16, 7, ip_address("10.1.0.0")).pack().hex(" ")
        # '30 00 00 00  00 00 00 07  0a 01 00 00': 48 bits count, the port's 32 and 16 more

        struct fence_ban key = {
            .length = 64, /* all bits: the longest prefix that fits is found */
            .ifindex = bpf_htonl(pkt->in.ifindex),
            .network = pkt->cur.dst,
        };
        struct fence_rule *rule = cubelet_lookup(fence_bans, &key);

    Bits are compared from the first byte on, so numbers before the address are ``Be16`` or
    ``Be32``. Bits beyond the prefix are zero in entries: 10.1.2.3/16 would be another key.
    """

    HASH = "hash"
    ARRAY = "array"
    LPM_TRIE = "lpm_trie"
    LRU_HASH = "lru_hash"
    PERCPU_HASH = "percpu_hash"
    PERCPU_ARRAY = "percpu_array"
    RINGBUF = "ringbuf"


class Everything(enum.Enum):
    """For ``Map.concerns``: a change of the entry makes every cached verdict stale."""

    EVERYTHING = enum.auto()


EVERYTHING = Everything.EVERYTHING
RecordType = type[Record]
Concern = Callable[[Any, Any], "Address | Everything | None"]


@dataclass(frozen=True)
class Map:
    """One BPF map of a cube; its C name is ``KIND_name``.

    ``size`` is a number of entries (of bytes for a ring buffer), or the name of the cube's setting
    that holds it. A ``planned`` map holds exactly the entries of the cube's plan: the agent
    removes all others. The datapath and the cube's callbacks fill maps that are not planned.

    ``concerns(key, value)`` names the address whose cached verdicts a changed entry makes stale:
    a pod's, a Service's virtual address, ``EVERYTHING``, or None when no verdict depends on it.

    Maps are written in the order in which a cube lists them and emptied in reverse, so an entry
    that refers to another map's comes after it in ``Cube.maps``.
    """

    name: str
    type: MapType
    key: RecordType
    value: RecordType
    size: int | str
    planned: bool = True
    concerns: Concern | None = None
