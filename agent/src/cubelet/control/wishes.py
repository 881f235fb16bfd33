"""What a unit and its parts want, asked of the cube: no more of it than could ever be admitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cubelet.control.admission import Admission, Counts, Wish
from cubelet.control.wanted import Bid, Entries, Owned
from cubelet_hooks.cube import Complaint, Cube, Entry, Part, Rank, Unit
from cubelet_hooks.records import Record
from cubelet_hooks.view import View


class BadPlanError(Exception):
    """A plan gives what the cube does not declare; the text names cube, unit and what is right.

    ``problem`` is the text without cube and unit.
    """

    def __init__(self, owned: Owned, problem: str) -> None:
        super().__init__(f"cube {owned[0]}, unit {' '.join(owned[1])}: {problem}")
        self.problem = problem

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Kept:
    """A part that is known and stays as it is, admitted or refused."""

    owned: Owned


@dataclass(frozen=True)
class Collected:
    """What a plan gives: entries packed and counted, and complaints.

    ``beyond`` is a map that is to have more than it may: then there are no entries, and what would
    have come after is not known.
    """

    entries: Entries = field(default_factory=dict)
    counts: Counts = ()
    complaints: frozenset[Complaint] = frozenset()
    beyond: str = ""


def no_limit(_: str) -> int:
    """More than any map has."""
    return 1 << 32


def wishes(cube: Cube, owned: Owned, view: View, admission: Admission) -> Iterator[Wish | Kept]:
    """The unit's wish and one for each of its parts; raises what the cube raises."""
    unit, namespace = owned[1], _text(cube.namespace_of(owned[1], view))

    def wish(part: Owned, given: Iterable[Entry | Complaint], known: Part | None = None) -> Wish:
        found = collect(cube, part, given, lambda name: admission.most(name, namespace))
        title = (_text(known.title) or " ".join(part[1])) if known else ""
        return Wish(
            owned=part,
            main=owned,
            namespace=namespace,
            title=title,
            about=checked_object(known.about) if known else None,
            entries=found.entries,
            counts=found.counts,
            complaints=found.complaints,
            beyond=found.beyond,
        )

    yield wish(owned, cube.plan(unit, view))
    parts: Iterable[object] = cube.parts(unit, view)
    for part in parts:
        if not isinstance(part, Part):
            raise BadPlanError(owned, f"parts gives {shown(part)}, which is no Part")
        sub = (owned[0], (*unit, _text(part.name)))
        if part.fixed and _is_known(sub, admission):
            admission.call(sub, _text(part.title), checked_object(part.about))
            yield Kept(sub)
        else:
            yield wish(sub, part.entries, part)


def _is_known(part: Owned, admission: Admission) -> bool:
    """Whether it would only be asked for to be refused once more, or to be what it was."""
    refusal = admission.refusals.get(part)
    if refusal is not None:
        return not refusal.final and bool(admission.problem(refusal.wish))
    return admission.has(part)


def collect(
    cube: Cube, owned: Owned, given: Iterable[object], most: Callable[[str], int]
) -> Collected:
    """What is given, up to the first entry of a map beyond ``most``.

    A unit may want a key more than once: the better rank counts, of equal ones the last. Raises
    BadPlanError for what is no entry of one of the cube's planned maps.
    """
    places, family = _places(cube), cube.family
    found: dict[tuple[str, bytes], tuple[Bid, bytes]] = {}
    complaints: list[Complaint] = []
    counts: dict[str, int] = {}
    limits: dict[str, int] = {}
    bids: dict[Rank, Bid] = {}
    for entry in given:
        if isinstance(entry, Complaint):
            complaints.append(entry)
            continue
        if not isinstance(entry, Entry) or not _fits(entry, places.get(entry.map)):
            raise BadPlanError(owned, _wrong_with(entry, cube))
        name = places[entry.map].c_name
        try:
            key, value = entry.key.pack(family), entry.value.pack(family)
        except ValueError as error:
            problem = f"an entry of {entry.map} does not fit: {error}"
            raise BadPlanError(owned, problem) from error
        place = (name, key)
        try:
            bid = bids[entry.rank]
        except (KeyError, TypeError):
            rank = _checked(entry, owned)
            bid = bids[rank] = (rank, *owned)
        if place not in found:
            count = counts[name] = counts.get(name, 0) + 1
            if count == 1:
                limits[name] = most(name)
            if count > limits[name]:
                return Collected(complaints=frozenset(complaints), beyond=name)
        elif bid > found[place][0]:
            continue
        found[place] = bid, value
    return Collected(found, tuple(sorted(counts.items())), frozenset(complaints))


@dataclass(frozen=True)
class _Place:
    """Where entries of a planned map go: its C name, and the records that it holds."""

    c_name: str
    key: type[Record]
    value: type[Record]


@lru_cache(maxsize=64)
def _places(cube: Cube) -> dict[str, _Place]:
    return {
        each.name: _Place(f"{cube.instance}_{each.name}", each.key, each.value)
        for each in cube.maps
        if each.planned
    }


def checked_unit(found: Any) -> Unit:
    """Raises TypeError for what cannot be ordered among other units."""
    if not isinstance(found, tuple) or not found or not all(isinstance(e, str) for e in found):
        raise TypeError(f"the unit {found!r} is no tuple of str")
    return found


def checked_object(found: Any) -> tuple[str, str] | None:
    """Kind and key of the object that is told. Raises TypeError or ValueError for all else."""
    if found is None:
        return None
    kind, key = found
    return _text(kind), _text(key)


def _text(found: Any) -> str:
    if not isinstance(found, str):
        raise TypeError(f"{found!r} is no str")
    return found


def _fits(entry: Entry, place: _Place | None) -> bool:
    """Whether the entry is of a planned map, and of its records."""
    return place is not None and type(entry.key) is place.key and type(entry.value) is place.value


def _wrong_with(entry: object, cube: Cube) -> str:
    """What is wrong with something that a plan gives and that is no entry of a planned map."""
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


def shown(value: object) -> str:
    """A value for an error, and no more of it than a line."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _checked(entry: Entry, owned: Owned) -> Rank:
    """Raises BadPlanError for a rank that cannot be compared with every other."""
    rank: object = entry.rank
    if isinstance(rank, tuple) and all(isinstance(each, int) for each in rank):
        return rank
    problem = f"an entry of {entry.map} has the rank {shown(rank)}, which is no tuple of int"
    raise BadPlanError(owned, problem)
