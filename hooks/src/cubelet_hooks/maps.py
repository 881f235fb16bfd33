"""How a cube declares its BPF maps. The agent creates, pins, compares and fills them."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

from cubelet_hooks.records import Address, Network, Record


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


@dataclass(frozen=True)
class PodsOf:
    """For ``Map.concerns``: the addresses that the pods of a namespace have then."""

    namespace: str


RecordType = type[Record]
Concerned = Address | Network | PodsOf | Everything
"""Whose cached verdicts are stale. More than 1,024 addresses at once are ``EVERYTHING``."""
Concern = Callable[[Any, Any], Concerned | Iterable[Concerned] | None]
_ONE = (IPv4Address, IPv6Address, IPv4Network, IPv6Network, PodsOf, Everything)


def as_concerned(answer: Concerned | Iterable[Concerned] | None) -> frozenset[Concerned]:
    """An answer of ``Map.concerns`` as a set. Raises TypeError for what is none."""
    if answer is None:
        return frozenset()
    several = (answer,) if isinstance(answer, _ONE) else tuple(answer)
    for each in several:
        if not isinstance(each, _ONE):
            raise TypeError(f"{each!r} is no address, network, PodsOf or EVERYTHING")
    return frozenset(several)


@dataclass(frozen=True)
class Earlier:
    """A layout that a map had in an earlier version of the cube, and how its entries go on.

    ``migrate(key, value)`` gives the entry as it is today, or None to let it go. ``type`` is the
    map's then, None if it was the same. Records of before stay declared for this alone; the C does
    not know them. The C name of a record is part of its layout, as are its fields' names.
    """

    key: RecordType
    value: RecordType
    migrate: Callable[[Any, Any], tuple[Record, Record] | None]
    type: MapType | None = None


@dataclass(frozen=True)
class Map:
    """One BPF map of a cube; its C name is ``KIND_name``.

    ``size`` is a number of entries (of bytes for a ring buffer), or the name of the cube's setting
    that holds it. A ``planned`` map holds exactly the entries of the cube's plan: the agent
    removes all others. The datapath and the cube's callbacks fill maps that are not planned.

    ``concerns(key, value)`` names whose cached verdicts a changed entry makes stale: an address (a
    pod's, a Service's), a network, the pods of a namespace (:class:`PodsOf`), ``EVERYTHING``,
    several of these, or None when no verdict depends on it.

    ``follows`` names a planned map of the same key record: when the plan lets go of a key there,
    the agent removes the entry of this one, which is not ``planned`` (of an array it writes
    zeros). So counters that the datapath keeps go with what they are about, also with what went
    while no agent ran.

    ``earlier`` are layouts of before, the latest first. A map of another layout is another map,
    which begins empty; if there is one of an earlier layout its entries are carried over. What
    the programs of before write between that and the switch to the new ones is not.

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
    follows: str | None = None
    earlier: tuple[Earlier, ...] = ()

    def concerned(self, key: Record, value: Record) -> frozenset[Concerned]:
        """What ``concerns`` says of an entry, as a set; everything, if it cannot say."""
        if self.concerns is None:
            return frozenset()
        try:
            return as_concerned(self.concerns(key, value))
        except Exception:  # a cube's bug must not leave a verdict that may be wrong
            return frozenset((EVERYTHING,))
