"""Checks that planning is pure and repeatable, and that ``units`` covers a change's effects."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

from cubelet.check.findings import Finding
from cubelet.check.limits import asked, listed
from cubelet.check.objects import history
from cubelet.check.places import at, raised
from cubelet.check.workbench import Workbench
from cubelet.composer.composition import NEEDED
from cubelet.control.planner import Planner
from cubelet.control.wishes import BadPlanError, collect, no_limit
from cubelet.cubes.entries import shown
from cubelet.state.cluster import State
from cubelet_hooks.cube import Complaint, Condition, Cube, Entry, Unit
from cubelet_hooks.maps import as_concerned
from cubelet_hooks.objects import Change

_THROWS = "answer with nothing for what cannot be planned: a cube that raises is taken out"
_PURE = "derive everything from the arguments and the settings, and change neither"

_WORD = re.compile(r"[A-Z][A-Za-z0-9]{0,127}")


class _FoundError(Exception):
    """Carries a finding out of the middle of a plan."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.message)
        self.finding = finding


def check(bench: Workbench) -> Iterator[Finding]:
    """Plan the changes of a small cluster; after each, compare with the plan of a new start."""
    try:
        _Rehearsal(bench.cube).run()
    except _FoundError as found:
        yield found.finding


class _Rehearsal:
    """One instance that follows the changes, and its wanted entries after each."""

    def __init__(self, cube: type[Cube]) -> None:
        self._type = cube
        self._state = State()
        self._cube = self._made()
        self._planner = Planner([self._cube])
        self._facts: tuple[Any, Any] | None = None

    def _made(self) -> Cube:
        kind, settings = self._type.kind, self._type.settings_type
        made: Cube = self._asked("__init__", lambda: self._type(f"{kind}0", settings()))
        return made

    def run(self) -> None:
        """Follow all changes. Raises _FoundError at the first error."""
        for each in history(self._type.watches):
            change = self._state.apply(each)
            if change is None:
                continue
            before = repr(list(self._state))
            self._follow(change)
            if repr(list(self._state)) != before:
                message = f"planning has changed the view: {_named(change)}"
                raise _FoundError(at(self._type, "plan", message, _PURE))
            self._compare_with_a_new_start(change)

    def _follow(self, change: Change) -> None:
        units = self._twice("units", lambda: listed(self._cube.units(change, self._state)))
        for unit in units:
            if not (isinstance(unit, tuple) and all(isinstance(part, str) for part in unit)):
                message = f"units gives {unit!r} for {_named(change)}"
                raise _FoundError(at(self._type, "units", message, "give tuples of str"))
            self._plan(unit)
        owned = {(self._cube.instance, unit) for unit in units}
        self._asked("plan", lambda: self._planner.replan(owned, self._state))
        self._specialise(change)

    def _plan(self, unit: Unit) -> None:
        cube, view = self._cube, self._state
        asked: dict[str, Callable[[], list[Entry | Complaint | Condition]]] = {
            "plan": lambda: listed(cube.plan(unit, view)),
            "parts": lambda: listed(e for p in cube.parts(unit, view) for e in listed(p.entries)),
            "refused": lambda: listed(cube.refused(unit, view)),
        }
        for name, ask in asked.items():
            for each in self._twice(name, ask):
                if problem := _wrong_with(each, cube):
                    message = f"the {name} of {' '.join(unit)}: {problem}"
                    raise _FoundError(at(self._type, name, message, "give what the map declares"))
                if isinstance(each, Entry):
                    self._concern(each)
        self._twice("namespace_of", lambda: cube.namespace_of(unit, view))
        about = self._twice("object_of", lambda: cube.object_of(unit, view))
        if about is not None and not (len(about) == 2 and all(about)):
            message = f"object_of gives {about!r} for {' '.join(unit)}"
            raise _FoundError(at(self._type, "object_of", message, "give kind and key, or None"))

    def _concern(self, entry: Entry) -> None:
        declared = next(each for each in self._type.maps if each.name == entry.map)
        concerns = declared.concerns
        if concerns is None:
            return
        self._twice("concerns", lambda: as_concerned(concerns(entry.key, entry.value)))

    def _specialise(self, change: Change) -> None:
        """Check that ``defines`` and ``needed_on`` depend only on kinds in ``specialised_by``."""
        defines = self._twice("defines", lambda: dict(self._cube.defines(self._state)))
        odd = {name: each for name, each in defines.items() if not isinstance(each, int)}
        if odd:
            message = f"defines gives {shown(odd)}: constants are numbers"
            raise _FoundError(at(self._type, "defines", message, "give an int for each name"))
        needed = self._twice("needed_on", lambda: frozenset(self._cube.needed_on(self._state)))
        if needed - set(NEEDED):
            message = f"needed_on gives {sorted(needed - set(NEEDED))}: no port classes"
            remedy = f"give some of {', '.join(NEEDED)}"
            raise _FoundError(at(self._type, "needed_on", message, remedy))
        kinds = self._type.specialised_by
        before, self._facts = self._facts, (defines, needed)
        if before in (None, self._facts) or kinds is None or change.kind in kinds:
            return
        message = (
            f"a change of kind {change.kind} altered defines or needed_on, "
            "but specialised_by leaves it out"
        )
        raise _FoundError(at(self._type, "specialised_by", message, f"add {change.kind} to it"))

    def _compare_with_a_new_start(self, change: Change) -> None:
        """Compare with the plan of an agent that starts now and sees each object once, as it is."""
        fresh, state = Planner([self._made()]), State()
        changes = [c for o in self._state if (c := state.apply(Change.between(None, o)))]
        self._asked("plan", lambda: fresh.replan(fresh.units(changes, state), state))
        if fresh.complaints() != self._planner.complaints():
            message = f"{_named(change)}, and a new start complains about other objects"
            raise _FoundError(at(self._type, "units", message, _units_remedy(change)))
        for name, wanted in fresh.contents().items():
            followed = self._planner.contents()[name]
            if followed != wanted:
                stale = len(followed.items() - wanted.items())
                missing = len(wanted.items() - followed.items())
                message = (
                    f"{_named(change)}, and {name} has {stale} entries that a new start does not "
                    f"give, and lacks {missing}"
                )
                raise _FoundError(at(self._type, "units", message, _units_remedy(change)))

    def _twice(self, name: str, ask: Callable[[], Any]) -> Any:
        first, second = self._asked(name, ask), self._asked(name, ask)
        if first != second:
            message = f"{name} gives {first!r}, then {second!r}, for the same arguments"
            raise _FoundError(at(self._type, name, message, _PURE))
        return first

    def _asked(self, name: str, ask: Callable[[], Any]) -> Any:
        try:
            return asked(name, ask)
        except Exception as error:  # any exception of the cube
            raise _FoundError(raised(error, self._type, name, _THROWS)) from error


def _units_remedy(change: Change) -> str:
    return f"give in units every unit whose plan reads what a {change.kind} says"


def _named(change: Change) -> str:
    verb = "added" if change.old is None else "removed" if change.new is None else "changed"
    return f"{change.kind} {change.key} {verb}"


def _wrong_with(entry: object, cube: Cube) -> str:
    if isinstance(entry, Complaint):
        return _wrong_complaint(entry)
    if isinstance(entry, Condition) and not (
        _WORD.fullmatch(entry.type) and _WORD.fullmatch(entry.reason)
    ):
        return f"a condition's type {entry.type!r} or reason {entry.reason!r} is no CamelCase"
    try:
        collect(cube, (cube.instance, ()), [entry], no_limit)
    except BadPlanError as error:
        return error.problem
    return ""


def _wrong_complaint(complaint: Complaint) -> str:
    if not complaint.kind or not complaint.key or not complaint.message:
        return f"{complaint!r} has no kind, key or message"
    if not _WORD.fullmatch(complaint.reason):
        return f"a complaint's reason {complaint.reason!r} is no word in CamelCase"
    return ""
