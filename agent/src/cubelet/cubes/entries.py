"""Packs what plans give, and says what is wrong with what is no entry of a planned map."""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

from cubelet_hooks.cube import Cube, Entry, Rank
from cubelet_hooks.maps import Map
from cubelet_hooks.records import Family


class BadEntryError(Exception):
    """A plan gives what the cube does not declare; the text says what is right."""

    def __repr__(self) -> str:
        return str(self)


class Raw(bytes):
    """A record that another process has checked and packed."""

    def pack(self, _: Family = 4) -> bytes:
        """See :meth:`Record.pack`."""
        return bytes(self)


class Packed(NamedTuple):
    """An entry of the map ``name`` as the kernel has it."""

    name: str
    key: bytes
    value: bytes
    rank: Rank


def packed_entry(entry: object, cube: Cube) -> Packed:
    """An entry of one of the cube's planned maps. Raises BadEntryError for anything else."""
    if not isinstance(entry, Entry) or not _fits(entry, cube):
        raise BadEntryError(_wrong_with(entry, cube))
    try:
        key, value = entry.key.pack(cube.family), entry.value.pack(cube.family)
    except ValueError as error:
        raise BadEntryError(f"an entry of {entry.map} does not fit: {error}") from error
    return Packed(entry.map, key, value, entry.rank)


def checked_rank(packed: Packed) -> Rank:
    """Raises BadEntryError for what cannot be compared with every other rank."""
    rank: object = packed.rank
    if isinstance(rank, tuple) and all(isinstance(each, int) for each in rank):
        return rank
    raise BadEntryError(
        f"an entry of {packed.name} has the rank {shown(rank)}, which is no tuple of int"
    )


def shown(value: object) -> str:
    """A value for an error, and no more of it than a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


@lru_cache(maxsize=64)
def _planned(cube: Cube) -> dict[str, Map]:
    return {each.name: each for each in cube.maps if each.planned}


def _fits(entry: Entry, cube: Cube) -> bool:
    """Whether the entry is of a planned map, and of its records."""
    declared = _planned(cube).get(entry.map)
    return declared is not None and (
        (type(entry.key) is declared.key and type(entry.value) is declared.value)
        or isinstance(entry.key, Raw)
    )


def _wrong_with(entry: object, cube: Cube) -> str:
    if not isinstance(entry, Entry):
        return f"the plan gives {shown(entry)}, which is neither Entry nor Complaint"
    declared = next((each for each in cube.maps if each.name == entry.map), None)
    if declared is None:
        known = ", ".join(each.name for each in cube.maps) or "none"
        return f"an entry of {entry.map!r}, which is no map of the cube; its maps: {known}"
    if not declared.planned:
        return f"an entry of {entry.map}, which is not planned: its Map says planned=False"
    return (
        f"{entry.map} holds {declared.key.__name__} and {declared.value.__name__}, "
        f"not {type(entry.key).__name__} and {type(entry.value).__name__}"
    )
