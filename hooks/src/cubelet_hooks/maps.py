"""How a cube declares its BPF maps. The agent creates, pins, compares and fills them."""

from __future__ import annotations

import enum
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cubelet_hooks.records import Address, Record


class MapType(enum.Enum):
    """Kinds of map a cube may ask for; values are the kernel's ``enum bpf_map_type`` names."""

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
