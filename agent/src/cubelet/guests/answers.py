"""What a guest's process and the agent tell each other: in plain values, records as their bytes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import astuple
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from cubelet.cubes.entries import Raw, checked_rank, packed_entry
from cubelet.cubes.outside import Tally
from cubelet_hooks import maps
from cubelet_hooks.cube import Complaint, Condition, Cube, Entry, Part
from cubelet_hooks.maps import EVERYTHING, Everything, PodsOf

OK, RAISED, SHORT, TOLD = "ok", "raised", "short of memory", "told"
"""How a question ended: answered, or the cube raised an error, ran out of memory, told a mistake.
"""
_COMPLAINTS = 100
"""Complaints of one plan that are told: five of an object are, in the end."""
_LETTERS = 300
"""Of an error."""

CALLED = frozenset(("on_tick", "on_gone", "on_ended"))
"""Callbacks that are asked one by one, by these names."""
MAPPED = frozenset(("rows", "collect", "answer", "deliver")) | CALLED
"""Questions for which a guest reads or writes maps."""

Row = tuple[str, bytes, bytes, tuple[int, ...]]
"""Map, key, value and rank of an entry."""
Grumble = tuple[str, str, str, str]
"""The fields of a complaint."""
Fulfilment = tuple[str, str, str, bool, str, str, int]
"""The fields of a condition."""


class Reply(msgspec.Struct, array_like=True):
    """How a question ended, and the answer."""

    how: str
    answer: msgspec.Raw


class Planned(msgspec.Struct, array_like=True):
    """What a plan gives."""

    rows: list[Row] = []
    complaints: list[Grumble] = []
    conditions: list[Fulfilment] = []


class Piece(msgspec.Struct, array_like=True):
    """A :class:`Part`: of one that is fixed the entries are asked for when they are wanted."""

    name: str
    fixed: bool
    title: str
    about: tuple[str, str] | None
    planned: Planned | None


class Concerned(msgspec.Struct, array_like=True):
    """Whom an entry concerns: addresses and networks as texts, and namespaces of pods."""

    everything: bool = False
    networks: list[str] = []
    namespaces: list[str] = []


def brief(error: BaseException) -> str:
    """An error as it is told."""
    return repr(error)[:_LETTERS]


# In the guest's process


def packed(cube: Cube, given: Iterable[Entry | Complaint | Condition]) -> Planned:
    """What a plan gives: of each map one entry more than it holds at most."""
    limits = {each.name: cube.size_of(each) for each in cube.maps}
    seen: dict[str, set[bytes]] = {name: set() for name in limits}
    found = Planned([], [], [])
    for each in given:
        if isinstance(each, Complaint):
            if len(found.complaints) < _COMPLAINTS:
                found.complaints.append((each.kind, each.key, each.reason, each.message))
            continue
        if isinstance(each, Condition):
            if len(found.conditions) < _COMPLAINTS:
                found.conditions.append(astuple(each))
            continue
        entry = packed_entry(each, cube)
        checked_rank(entry)
        found.rows.append(entry)
        seen[entry.name].add(entry.key)
        if len(seen[entry.name]) > limits[entry.name]:
            break
    return found


def pieces(cube: Cube, given: Iterable[Part]) -> tuple[list[Piece], dict[str, Iterable[Any]]]:
    """A unit's parts, and the entries of the fixed ones, which are not asked for yet."""
    found, later = [], {}
    for each in given:
        if each.fixed:
            later[each.name] = each.entries
        planned = None if each.fixed else packed(cube, each.entries)
        found.append(Piece(each.name, each.fixed, each.title, each.about, planned))
    return found, later


def concerned(found: Iterable[maps.Concerned]) -> Concerned:
    """Whom an entry concerns."""
    some = Concerned(networks=[], namespaces=[])
    for each in found:
        if isinstance(each, Everything):
            return Concerned(True)
        if isinstance(each, PodsOf):
            some.namespaces.append(each.namespace)
        else:
            some.networks.append(str(each))
    return some


def grumble(told: str | Complaint) -> str | Grumble:
    """What is said of a lost key."""
    if isinstance(told, Complaint):
        return told.kind, told.key, told.reason, told.message
    return told


def encode(how: str, answer: object) -> bytes:
    """A reply; addresses and networks become text. Raises TypeError for what is no plain value."""
    raw = msgspec.Raw(msgspec.msgpack.encode(answer, enc_hook=_plain))
    return msgspec.msgpack.encode(Reply(how, raw))


def _plain(value: object) -> object:
    if type(value).__module__ == "ipaddress":
        return str(value)
    raise TypeError(f"{type(value).__name__} is no plain value")


# In the agent

DECODED: Mapping[str, Any] = {
    "units": list[tuple[str, ...]],
    "units_of": list[list[tuple[str, ...]] | None],
    "plan": Planned,
    "refused": Planned,
    "fixed": Planned,
    "parts": list[Piece],
    "namespace_of": str,
    "object_of": tuple[str, str] | None,
    "rejected": str | Grumble,
    "defines": dict[str, int],
    "needed_on": list[str],
    "concerns": Concerned,
    "rows": list[dict[str, Any]],
    "collect": list[tuple[str, tuple[str, ...], float]],
    "deliver": Tally,
    "observe": Tally,
}
"""The answers' types by question; of the others any plain value."""


def unpacked(planned: Planned) -> Iterable[Entry | Complaint | Condition]:
    """What a plan gave, as plans give it."""
    made: Callable[..., Any] = Entry
    for complaint in planned.complaints:
        yield Complaint(*complaint)
    for condition in planned.conditions:
        yield Condition(*condition)
    for name, key, value, rank in planned.rows:
        yield made(name, Raw(key), Raw(value), rank)


def meant(found: Concerned) -> Iterable[maps.Concerned]:
    """The inverse of :func:`concerned`."""
    if found.everything:
        return (EVERYTHING,)
    networks = [ip_network(each) if "/" in each else ip_address(each) for each in found.networks]
    return (*networks, *map(PodsOf, found.namespaces))
