"""Keeps the entries that all cubes want in their maps, unit by unit. It touches no map."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

import structlog

from cubelet.control.admission import Admission, Refusal, Room, Wish, ordered
from cubelet.control.units import Units, failed
from cubelet.control.wanted import Entries, Owned, Wanted
from cubelet.control.wishes import checked_object, collect, no_limit, wishes
from cubelet.datapath.applier import Delta
from cubelet.guests.host import NotNowError
from cubelet_hooks.cube import Complaint, Condition, Cube
from cubelet_hooks.objects import Change
from cubelet_hooks.view import View

log = structlog.get_logger()
_MOST = 5
"""Complaints about one object."""
_ERROR = 300
"""Letters of a cube's error that are told."""


class Planner:
    """Asks the cubes what their units want, and makes the wanted contents of the maps of it.

    What does not fit into the maps is refused unit by unit, see :mod:`.admission`, and so is what a
    cube cannot plan; who has a key that several want, see :mod:`.wanted`.
    """

    def __init__(self, cubes: Sequence[Cube]) -> None:
        self.cubes = {cube.instance: cube for cube in cubes}
        self._waiting: set[Owned] = set()
        self._parts: dict[Owned, set[Owned]] = {}
        self._complaints: dict[Owned, frozenset[Complaint]] = {}
        self._conditions: dict[Owned, frozenset[Condition]] = {}
        self._wanted = Wanted(cubes)
        self._admission = Admission(
            {
                f"{cube.instance}_{declared.name}": Room.of(cube, declared)
                for cube in cubes
                for declared in cube.maps
            }
        )
        self._units = Units(self.cubes, self._admission)

    @property
    def seconds(self) -> dict[str, float]:
        """How long each instance has taken since this was cleared."""
        return self._units.seconds

    def units(self, changes: Iterable[Change], view: View) -> set[Owned]:
        """All units that these changes may alter, or that cubes could not be asked for before."""
        waiting, self._waiting = self._waiting, set()
        return waiting | self._units.of(list(changes), view)

    def replan(self, units: Iterable[Owned], view: View) -> Delta:
        """Plan the units again, and those that there is room for now; what changed in all.

        In place of a unit whose plan raises stands what its cube says by ``refused``; if that is
        nothing it keeps its earlier entries.
        """
        delta: Delta = defaultdict(dict)
        retried: set[Owned] = set()
        pending = set(units)
        while pending:
            self._replan(pending, view, delta)
            pending = {each.wish.main for each in self._admission.again()} - retried
            retried |= pending
        return dict(delta)

    def _replan(self, units: Iterable[Owned], view: View, delta: Delta) -> None:
        asked: list[Wish] = []
        for owned in sorted(units):
            for wish in self._ask(owned, view, delta):
                if wish.total <= 1:  # nearly all are, and come first
                    self._admit(wish, view, delta)
                else:
                    asked.append(wish)
        for wish in ordered(asked, self._admission):
            self._admit(wish, view, delta)

    def _ask(self, owned: Owned, view: View, delta: Delta) -> Iterable[Wish]:
        """What a unit and its parts want; lets go of parts that are no more."""
        try:
            with self._units.timed(owned[0]):
                found = list(wishes(self.cubes[owned[0]], owned, view, self._admission))
        except NotNowError:
            self._waiting.add(owned)
            return ()
        except Exception as error:  # a cube's bug must not stop the others
            self._close(owned, failed(self._admission, owned, error), view, delta)
            return ()
        self._admission.planned(owned)
        self._let_go({each.owned for each in found} - {owned}, owned, delta)
        return [each for each in found if isinstance(each, Wish)]

    def _let_go(self, named: set[Owned], main: Owned, delta: Delta) -> None:
        """The unit has these parts now."""
        for gone in self._parts.pop(main, set()) - named:
            self._wanted.replace(gone, {}, delta)
            self._say_nothing(gone)
            self._admission.release(gone)
        if named:
            self._parts[main] = named

    def _close(self, owned: Owned, reason: str, view: View, delta: Delta) -> None:
        """What a unit wants is not known: have its stand-ins in its place, if there are any."""
        wish, cube = self._known(owned, owned, view), self.cubes[owned[0]]
        try:
            stand_ins = collect(cube, owned, cube.refused(owned[1], view), no_limit)
        except Exception as error:  # then it cannot be closed
            self._admission.keep(wish, f"{reason}; and {error!r}"[: 2 * _ERROR])
            return
        if not stand_ins.entries:
            self._admission.keep(wish, reason)
            return
        self._let_go(set(), owned, delta)
        self._say_nothing(owned)
        fits = self._admission.refuse(wish, reason, stand_ins.counts, final=True, failed=True)
        self._wanted.replace(owned, stand_ins.entries if fits else {}, delta)

    def _admit(self, wish: Wish, view: View, delta: Delta) -> None:
        self._say_nothing(wish.owned)
        if wish.complaints:
            self._complaints[wish.owned] = wish.complaints
        if problem := self._admission.ask(wish):
            self._refuse(wish, problem, view, delta)
        else:
            if wish.conditions:
                self._conditions[wish.owned] = wish.conditions
            self._wanted.replace(wish.owned, wish.entries, delta)

    def _say_nothing(self, owned: Owned) -> None:
        self._complaints.pop(owned, None)
        self._conditions.pop(owned, None)

    def _refuse(
        self, wish: Wish, reason: str, view: View, delta: Delta, final: bool = False
    ) -> None:
        """Have what the cube says stand in the unit's place."""
        cube = self.cubes[wish.owned[0]]
        wish = replace(wish, about=wish.about or self._object_of(wish.main, view))
        entries: Entries = {}
        try:
            given = cube.refused(wish.owned[1], view) if wish.owned == wish.main else ()
            stand_ins = collect(cube, wish.owned, given, no_limit)
        except Exception as error:  # a cube's bug must not stop the others
            self._admission.leave_open(wish, f"{reason}; and {error!r}")
        else:
            if self._admission.refuse(wish, reason, stand_ins.counts, final):
                entries = stand_ins.entries
        self._wanted.replace(wish.owned, entries, delta)

    def refuse(self, keys: Mapping[str, Collection[bytes]], reason: str, view: View) -> Delta:
        """The kernel does not take these entries, by map: refuse whose they are; what changed."""
        delta: Delta = defaultdict(dict)
        owners = self._wanted.owners(keys)
        mains = {part: main for main, parts in self._parts.items() for part in parts & owners}
        for owned in sorted(owners):
            wish = self._known(owned, mains.get(owned, owned), view)
            if self._admission.has(owned):
                self._refuse(wish, reason, view, delta, final=True)
            else:
                self._admission.leave_open(wish, reason)
                self._wanted.replace(owned, {}, delta)
        return dict(delta)

    def _known(self, owned: Owned, main: Owned, view: View) -> Wish:
        """The wish of a unit that is known, or of its part, without asking what it wants."""
        title = "" if owned == main else " ".join(owned[1])
        namespace, about = self._namespace_of(main, view), self._object_of(main, view)
        return Wish(owned, main, namespace, title, about)

    def _object_of(self, owned: Owned, view: View) -> tuple[str, str] | None:
        try:
            return checked_object(self.cubes[owned[0]].object_of(owned[1], view))
        except Exception:  # then it is told as a text
            return None

    def _namespace_of(self, owned: Owned, view: View) -> str:
        try:
            return str(self.cubes[owned[0]].namespace_of(owned[1], view))
        except Exception:  # then it may be anyone's
            return ""

    def forgiven(self) -> set[Owned]:
        """The units that the kernel or their cubes refused, which they may take by now."""
        final = {each.wish.main for each in self._admission.refusals.values() if each.final}
        return final - self._units.unasked.keys()

    @property
    def failures(self) -> Mapping[Owned, str]:
        """The units of which their cubes could not say what they want, each with the error.

        What ``units`` failed on is among them: ``("units", kind, key)``.
        """
        return {each.wish.owned: each.reason for each in self.refusals() if each.failed}

    @property
    def waiting(self) -> set[str]:
        """The instances that could not be asked about something, which is planned later."""
        # other threads ask, too
        waiting, unasked = tuple(self._waiting), tuple(self._units.unasked)
        silent = (each for each in unasked if each not in self._admission.refusals)
        return {instance for instance, _ in (*waiting, *silent)}

    @property
    def unsure(self) -> set[str]:
        """The instances of which some unit was left as it was, perhaps by an earlier run."""
        failed = (each.wish.owned[0] for each in self.refusals() if each.failed and each.open)
        return self.waiting.union(failed)

    def refusals(self) -> list[Refusal]:
        """Who was not admitted, ordered."""
        found = tuple(self._admission.refusals.values())  # other threads ask, too
        return sorted(found, key=lambda each: each.wish.owned)

    def holds_up(self, namespace: str, pod: str) -> str:
        """What an essential cube refused that a pod cannot start without; '' for nothing.

        That is what could not be closed or planned in its namespace, or in none, and what is wanted
        for the pod itself.
        """
        own = self._units.of_port(pod)
        essential = {name for name, cube in self.cubes.items() if cube.essential}
        waits = [f"{each} has not planned all" for each in sorted(self.waiting & essential)]
        refused = (each for each in self.refusals() if each.wish.owned[0] in essential)
        return "; ".join(
            waits
            + [
                str(each.told)
                for each in refused
                if each.wish.main in own or (each.open and each.wish.namespace in ("", namespace))
            ]
        )

    def contents(self) -> Mapping[str, Mapping[bytes, bytes]]:
        """The wanted contents of every planned map, empty ones too."""
        return self._wanted.contents()

    def counts(self) -> Mapping[str, int]:
        """How many entries are wanted in every planned map, by C name."""
        return self._wanted.counts()

    def complaints(self) -> frozenset[Complaint]:
        """What is wrong with objects: as plans say, what others have the keys of, who was refused.

        Of each object the first few: who makes one may have it ask for any number of things.
        What names no object is in :meth:`rejected`.
        """
        told = {each for each in self._told() if isinstance(each, Complaint)}
        found: dict[tuple[str, str], list[Complaint]] = defaultdict(list)
        for each in sorted(told.union(*self._complaints.values()), key=str):
            found[each.kind, each.key].append(each)
        return frozenset(each for some in found.values() for each in some[:_MOST])

    def conditions(self) -> frozenset[Condition]:
        """What has become of cubes' own objects, as plans say."""
        return frozenset[Condition]().union(*self._conditions.values())

    def rejected(self) -> list[str]:
        """Which units others have the keys of, and who was refused, where no object is named."""
        return sorted({each for each in self._told() if isinstance(each, str)})

    def _told(self) -> Iterator[str | Complaint]:
        yield from self._wanted.rejections()
        yield from self._admission.told()
