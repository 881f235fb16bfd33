"""What a unit and its parts want, asked of the cube: no more of it than could ever be admitted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from cubelet.control.admission import Admission, Counts, Wish
from cubelet.control.wanted import Bid, Entries, Owned
from cubelet.cubes.entries import BadEntryError, Packed, checked_rank, packed_entry, shown
from cubelet_hooks.cube import Complaint, Condition, Cube, Part, Rank, Unit
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
    """What a plan gives: entries packed and counted, complaints and conditions.

    ``beyond`` is a map that is to have more than it may: then there are no entries, and what would
    have come after is not known.
    """

    entries: Entries = field(default_factory=dict)
    counts: Counts = ()
    complaints: frozenset[Complaint] = frozenset()
    conditions: frozenset[Condition] = frozenset()
    beyond: str = ""


def no_limit(_: str) -> int:
    """More than any map has."""
    return 1 << 32


def wishes(cube: Cube, owned: Owned, view: View, admission: Admission) -> Iterator[Wish | Kept]:
    """The unit's wish and one for each of its parts; raises what the cube raises."""
    unit, namespace = owned[1], _text(cube.namespace_of(owned[1], view))

    def wish(part: Owned, given: Iterable[object], known: Part | None = None) -> Wish:
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
            conditions=found.conditions,
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
    names = _c_names(cube)
    found: dict[tuple[str, bytes], tuple[Bid, bytes]] = {}
    complaints: list[Complaint] = []
    conditions: list[Condition] = []
    counts: dict[str, int] = {}
    limits: dict[str, int] = {}
    bids: dict[Rank, Bid] = {}
    for entry in given:
        if isinstance(entry, Complaint):
            complaints.append(entry)
            continue
        if isinstance(entry, Condition):
            conditions.append(_reported(cube, owned, entry))
            continue
        try:
            packed = packed_entry(entry, cube)
            bid = _bid(packed, owned, bids)
        except BadEntryError as error:
            raise BadPlanError(owned, str(error)) from error
        name, value = names[packed.name], packed.value
        place = (name, packed.key)
        if place not in found:
            count = counts[name] = counts.get(name, 0) + 1
            if count == 1:
                limits[name] = most(name)
            if count > limits[name]:
                return Collected(complaints=frozenset(complaints), beyond=name)
        elif bid > found[place][0]:
            continue
        found[place] = bid, value
    said = frozenset(complaints), frozenset(conditions)
    return Collected(found, tuple(sorted(counts.items())), *said)


def _reported(cube: Cube, owned: Owned, condition: Condition) -> Condition:
    """A condition, if it is of an object of the cube's own."""
    kinds = [each.kind for each in cube.watches if each.status]
    if condition.kind not in kinds:
        known = ", ".join(kinds) or "none"
        raise BadPlanError(
            owned, f"a condition of a {condition.kind}; kinds in watches with status: {known}"
        )
    return condition


@lru_cache(maxsize=64)
def _c_names(cube: Cube) -> dict[str, str]:
    return {declared.name: f"{cube.instance}_{declared.name}" for declared in cube.maps}


def _bid(packed: Packed, owned: Owned, known: dict[Rank, Bid]) -> Bid:
    """The bid of an entry's rank; most entries of a unit have the same."""
    try:
        return known[packed.rank]
    except (KeyError, TypeError):
        rank = checked_rank(packed)
        return known.setdefault(rank, (rank, *owned))


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
