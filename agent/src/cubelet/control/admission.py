"""Who has room in the planned maps, which hold only so many entries. Pure: it counts, no more.

A unit is admitted as a whole or refused as a whole, and what was admitted is never put out for
another. A namespace may have as much of a map as it leaves free, that is up to half of what others
do not have, and ``FLOOR`` entries whatever others have: with the threshold of Choudhury and Hahne
(IEEE/ACM Transactions on Networking, 1998) the greediest leaves others half, the next one half of
that. So there is also room to write what a namespace will have beside what it has.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace

from cubelet.control.wanted import Entries, Owned
from cubelet_hooks.cube import Complaint, Condition, Cube
from cubelet_hooks.maps import Map, MapType

Counts = tuple[tuple[str, int], ...]
"""Entries by map."""

FLOOR = 512
"""Entries that a namespace may have without regard to shares: two each for the pods of a node."""
_TOLD = 10
"""As many of a namespace's refused units are named."""
_INTERNED = 4096
_NO_ROOM, _NOT_PLANNED = "NoRoom", "NotPlanned"
"""Reasons of complaints, and so of Events."""


@dataclass(frozen=True)
class Room:
    """What fits into a map, and what people can raise if that is too little: '' for nothing."""

    size: int
    setting: str

    @property
    def remedy(self) -> str:
        """What can be done about it."""
        setting = f", or raise the setting {self.setting}" if self.setting else ""
        return f"; make it smaller{setting}"

    @classmethod
    def of(cls, cube: Cube, declared: Map) -> Room:
        """A trie of kernels before 6.13 takes no new value for a key while it is full."""
        spare = 1 if declared.type is MapType.LPM_TRIE else 0
        setting = declared.size if isinstance(declared.size, str) else ""
        return cls(cube.size_of(declared) - spare, setting)


@dataclass(frozen=True)
class Wish:
    """What a unit, or a part of the unit ``main``, wants to have in maps.

    ``title`` is what people know it by, '' for a unit as a whole, and ``about`` the kind and key of
    the object that is told of it, if that is known. ``beyond`` is a map of which it wants more
    than anyone can have: how much more is not known.
    """

    owned: Owned
    main: Owned
    namespace: str
    title: str = ""
    about: tuple[str, str] | None = None
    entries: Entries = field(default_factory=dict)
    counts: Counts = ()
    complaints: frozenset[Complaint] = frozenset()
    conditions: frozenset[Condition] = frozenset()
    beyond: str = ""

    @property
    def total(self) -> int:
        """Entries of all maps."""
        return sum(count for _, count in self.counts)


@dataclass(frozen=True)
class Refusal:
    """A unit that was not admitted, and why.

    ``open`` if nothing closes it: there is no room for its stand-ins, or none were given and what
    it had before it ``failed`` to be planned stays.
    """

    wish: Wish
    reason: str
    open: bool = False
    final: bool = False
    """Whether only the kernel can say when it is over, or another plan."""
    failed: bool = False
    """Whether it is not known what the unit wants, because its cube raised."""

    @property
    def told(self) -> str | Complaint:
        """What people are told: on the object, or as a text alone where none can be named."""
        wish, (instance, unit) = self.wish, self.wish.owned
        title = wish.title or ("" if wish.about else " ".join(unit))
        text = ": ".join(filter(None, (instance, title, self._what, self.reason)))
        word = _NOT_PLANNED if self.failed else _NO_ROOM
        return Complaint(*wish.about, word, text) if wish.about else text

    @property
    def _what(self) -> str:
        if self.failed:
            return "not planned, left as it was" if self.open else "not planned and closed"
        return "refused and NOT closed" if self.open else "refused"


@dataclass(frozen=True)
class _Booking:
    namespace: str
    counts: Counts
    stands_in: bool = False


class Admission:
    """Knows how much everyone has of each map, and whom there was no room for."""

    def __init__(self, rooms: Mapping[str, Room]) -> None:
        self._rooms = rooms
        self._used: dict[str, int] = defaultdict(int)
        self._shares: dict[tuple[str, str], int] = defaultdict(int)
        self._booked: dict[Owned, _Booking] = {}
        self._interned: dict[_Booking, _Booking] = {}
        self._freed = False
        self.refusals: dict[Owned, Refusal] = {}

    def most(self, name: str, namespace: str) -> int:
        """How many entries of a map one unit can have if all else is empty."""
        size = self._rooms[name].size
        return min(size, max(FLOOR, size // 2)) if namespace else size

    def has(self, owned: Owned) -> bool:
        """Whether the unit is admitted."""
        return owned in self._booked and not self._booked[owned].stands_in

    def grows(self, wish: Wish) -> bool:
        """Whether it wants more than it has."""
        return bool(wish.beyond) or any(
            count > had for (_, count), had in zip(wish.counts, self._had(wish), strict=True)
        )

    def ask(self, wish: Wish) -> str:
        """Give the unit room; why there is none, or ''."""
        booking = self._booked.get(wish.owned)
        if booking == _Booking(wish.namespace, wish.counts):
            return ""
        problem = self.problem(wish)
        if not problem:
            self.refusals.pop(wish.owned, None)
            self._book(wish.owned, wish.namespace, wish.counts)
        return problem

    def refuse(
        self, wish: Wish, reason: str, stand_ins: Counts, final: bool = False, failed: bool = False
    ) -> bool:
        """Remember who was refused; whether there is room for what stands in its place."""
        self._book(wish.owned, wish.namespace, ())
        fits = all(self._free(name) >= count for name, count in stand_ins)
        if fits:
            self._book(wish.owned, wish.namespace, stand_ins, stands_in=True)
        self.refusals[wish.owned] = Refusal(_counted(wish), reason, not fits, final, failed)
        return fits

    def keep(self, wish: Wish, reason: str) -> None:
        """Nobody knows what the unit wants now, and nothing stands in its place: it keeps its room.

        Until :meth:`planned`.
        """
        self.refusals[wish.owned] = Refusal(_counted(wish), reason, True, True, True)

    def planned(self, owned: Owned) -> None:
        """It is known again what the unit wants."""
        refusal = self.refusals.get(owned)
        if refusal is not None and refusal.failed:
            del self.refusals[owned]

    def leave_open(self, wish: Wish, reason: str) -> None:
        """The kernel does not even take what stands in its place."""
        self._book(wish.owned, wish.namespace, ())
        self.refusals[wish.owned] = Refusal(_counted(wish), reason, open=True, final=True)

    def call(self, owned: Owned, title: str, about: tuple[str, str] | None) -> None:
        """People know by another name, or from another object, who was refused."""
        refusal = self.refusals.get(owned)
        if refusal is not None:
            old = refusal.wish
            wish = replace(old, title=title or old.title, about=about or old.about)
            self.refusals[owned] = replace(refusal, wish=wish)

    def release(self, owned: Owned) -> None:
        """The unit is gone."""
        self.refusals.pop(owned, None)
        self._book(owned, "", ())

    def again(self) -> Iterator[Refusal]:
        """Those that there may be room for by now, the smallest first, if any was given back."""
        if not self._freed:
            return
        self._freed = False
        waiting = [each for each in self.refusals.values() if not each.final]
        for each in sorted(waiting, key=lambda each: (each.wish.total, each.wish.owned)):
            if each.open or not self.problem(each.wish):
                yield each

    def told(self) -> Iterator[str | Complaint]:
        """What people are told: of who has many refused, some."""
        told: dict[tuple[str, str], int] = defaultdict(int)
        for each in sorted(self.refusals.values(), key=lambda each: each.wish.owned):
            key = (each.wish.owned[0], each.wish.namespace)
            told[key] += 1
            if told[key] <= _TOLD:
                yield each.told
        for (instance, namespace), count in told.items():
            if count > _TOLD:
                whose = f"of namespace {namespace}" if namespace else "of no namespace"
                yield f"{instance}: {count - _TOLD} more {whose}: refused"

    def problem(self, wish: Wish) -> str:
        """Why there is no room for the wish now, or ''."""
        if wish.beyond:
            most, room = self.most(wish.beyond, wish.namespace), self._rooms[wish.beyond]
            whose = "one namespace" if wish.namespace else "anyone"
            text = f"it needs more than the {most:,} entries of {wish.beyond} that {whose} can have"
            return f"{text}, of {room.size:,}{room.remedy}"
        for (name, count), had in zip(wish.counts, self._had(wish), strict=True):
            if count <= had:
                continue
            may = self._may(name, wish)
            if count > may:
                wanted = "1 entry" if count == 1 else f"{count:,} entries"
                return self._told(name, wish.namespace, wanted, may)
        return ""

    def _had(self, wish: Wish) -> Iterator[int]:
        """Entries that the unit was admitted with, map by map."""
        booking = self._booked.get(wish.owned)
        counts = dict(booking.counts) if booking and not booking.stands_in else {}
        return (counts.get(name, 0) for name, _ in wish.counts)

    def _may(self, name: str, wish: Wish) -> int:
        """How many entries the unit may have, given what all others have."""
        booking = self._booked.get(wish.owned)
        own = dict(booking.counts).get(name, 0) if booking else 0
        free = self._free(name) + own
        if not wish.namespace:
            return max(0, free)
        same = booking is not None and booking.namespace == wish.namespace
        others_of_it = self._shares[name, wish.namespace] - (own if same else 0)
        share = max(FLOOR, (free + others_of_it) // 2) - others_of_it
        return max(0, min(free, share))

    def _free(self, name: str) -> int:
        return self._rooms[name].size - self._used[name]

    def _told(self, name: str, namespace: str, wanted: str, may: int) -> str:
        room = self._rooms[name]
        whose = f"namespace {namespace} has room for" if namespace else "there is room for"
        text = f"it needs {wanted} of {name}, where {whose} {may:,} more of {room.size:,}"
        return text + room.remedy

    def _book(self, owned: Owned, namespace: str, counts: Counts, stands_in: bool = False) -> None:
        before, after = self._booked.get(owned), _Booking(namespace, counts, stands_in)
        if before == after:
            return
        if before is not None:
            del self._booked[owned]
            self._freed = True
            for name, count in before.counts:
                self._add(name, before.namespace, -count)
        for name, count in counts:
            self._add(name, namespace, count)
        if counts:
            self._booked[owned] = self._shared(after)

    def _add(self, name: str, namespace: str, count: int) -> None:
        self._used[name] += count
        if namespace:
            share = self._shares[name, namespace] + count
            self._shares[name, namespace] = share
            if not share:
                del self._shares[name, namespace]

    def _shared(self, booking: _Booking) -> _Booking:
        """One object for equal ones: most units have one entry, and there are many units."""
        if len(self._interned) > _INTERNED:
            self._interned.clear()
        return self._interned.setdefault(booking, booking)


def _counted(wish: Wish) -> Wish:
    """A wish as it is remembered, which may be for long: without what was wanted."""
    return replace(wish, entries={}, complaints=frozenset(), conditions=frozenset())


def ordered(wishes: Iterable[Wish], admission: Admission) -> list[Wish]:
    """Who gives something back comes first, then the smaller before the larger."""
    return sorted(wishes, key=lambda each: (admission.grows(each), each.total, each.owned))
