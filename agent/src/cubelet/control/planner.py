"""Keeps what all cubes want in their maps, unit by unit. Pure: no map is touched here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from cubelet.datapath.applier import Delta
from cubelet_hooks.cube import Complaint, Cube, Rank, Unit
from cubelet_hooks.objects import Change
from cubelet_hooks.view import View

log = structlog.get_logger()
_MOST = 5
"""Complaints about one object."""

Owned = tuple[str, Unit]
"""An instance's unit."""

Bid = tuple[Rank, str, Unit]
"""What a unit's entry has to say for itself against others': the least one has the key.

A unit's entries of one rank share it: of a large cluster's there are hundreds of thousands."""

Entries = Mapping[tuple[str, bytes], tuple[Bid, bytes]]
"""What a unit wants: by map and key."""


class Planner:
    """Merges the plans of all units into the wanted contents of the planned maps.

    Two units may want the same key: the entry of the lower rank wins, and of equal ranks the unit
    that sorts first, whichever came first.
    """

    def __init__(self, cubes: Sequence[Cube]) -> None:
        self.cubes = {cube.instance: cube for cube in cubes}
        self.failures: dict[Owned, str] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        """How long each instance has taken since this was cleared."""
        self._wanted: dict[str, dict[bytes, dict[Bid, bytes]]] = defaultdict(dict)
        self._unasked: list[tuple[Cube, Change]] = []
        self._keys: dict[Owned, dict[tuple[str, bytes], Bid]] = {}
        self._complaints: dict[Owned, frozenset[Complaint]] = {}
        self._disputed: set[tuple[str, bytes]] = set()
        self._maps = {
            f"{cube.instance}_{declared.name}": (cube, declared)
            for cube in cubes
            for declared in cube.maps
        }

    def units(self, changes: Iterable[Change], view: View) -> set[Owned]:
        """Every unit that these changes may have altered, and those asked for in vain before."""
        asked = [(cube, change) for change in changes for cube in self.cubes.values()]
        again, self._unasked = self._unasked, []
        return {
            (cube.instance, unit)
            for cube, change in (*again, *asked)
            for unit in self._units(cube, change, view)
        }

    def _units(self, cube: Cube, change: Change, view: View) -> Iterable[Unit]:
        owned = (cube.instance, ("units", change.kind, change.key))
        try:
            with self._timed(cube.instance):
                units = tuple(cube.units(change, view))
        except Exception as error:  # a cube's bug must not stop the others
            self._failed(owned, error)
            self._unasked.append((cube, change))
            return ()
        self.failures.pop(owned, None)
        return units

    def replan(self, units: Iterable[Owned], view: View) -> Delta:
        """Plan the units again; what changed in the wanted contents.

        A unit whose plan raises keeps what it wanted before; ``failures`` says why.
        """
        delta: Delta = defaultdict(dict)
        for owned in sorted(units):
            try:
                with self._timed(owned[0]):
                    entries, complaints = self._plan(owned, view)
            except Exception as error:  # a cube's bug must not stop the others
                self._failed(owned, error)
                continue
            self.failures.pop(owned, None)
            self._replace(owned, entries, delta)
            self._complaints.pop(owned, None)
            if complaints:
                self._complaints[owned] = frozenset(complaints)
        return dict(delta)

    @contextmanager
    def _timed(self, instance: str) -> Iterator[None]:
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[instance] += time.perf_counter() - began

    def contents(self) -> Mapping[str, Mapping[bytes, bytes]]:
        """The wanted contents of every planned map, empty ones too."""
        return {
            f"{cube.instance}_{declared.name}": {
                key: self._winner(owners)
                for key, owners in self._wanted[f"{cube.instance}_{declared.name}"].items()
            }
            for cube in self.cubes.values()
            for declared in cube.maps
            if declared.planned
        }

    def counts(self) -> Mapping[str, int]:
        """How many entries are wanted in every planned map, by C name."""
        return {
            name: len(self._wanted.get(name, {}))
            for name, (_, declared) in self._maps.items()
            if declared.planned
        }

    def complaints(self) -> frozenset[Complaint]:
        """What the units' plans say is wrong with objects, and what others have the keys of.

        Of each object the first few: who makes one may have it ask for any number of things.
        """
        told = {each for each in self._rejections() if isinstance(each, Complaint)}
        found: dict[tuple[str, str], list[Complaint]] = defaultdict(list)
        for each in sorted(told.union(*self._complaints.values()), key=str):
            found[each.kind, each.key].append(each)
        return frozenset(each for some in found.values() for each in some[:_MOST])

    def rejected(self) -> list[str]:
        """What the cubes say, as text alone, of units whose entries others have the keys of."""
        return sorted({each for each in self._rejections() if isinstance(each, str)})

    def _rejections(self) -> Iterator[str | Complaint]:
        for name, key in self._disputed:
            cube, declared = self._maps[name]
            wanted = self._wanted[name][key]
            (_, _, holder), *others = sorted(wanted)
            for bid in others:
                if wanted[bid] == self._winner(wanted):
                    continue
                record = declared.key.unpack(key, cube.family)
                if told := cube.rejected(record, holder, bid[2]):
                    yield told

    def _failed(self, owned: Owned, error: Exception) -> None:
        if self.failures.get(owned) != repr(error):
            log.error("a plan failed", cube=owned[0], unit=owned[1], error=repr(error))
        self.failures[owned] = repr(error)

    def _plan(self, owned: Owned, view: View) -> tuple[Entries, list[Complaint]]:
        """A unit may want a key more than once: the better rank counts, of equal ones the last."""
        cube = self.cubes[owned[0]]
        found: dict[tuple[str, bytes], tuple[Bid, bytes]] = {}
        complaints: list[Complaint] = []
        bids: dict[Rank, Bid] = {}
        for entry in cube.plan(owned[1], view):
            if isinstance(entry, Complaint):
                complaints.append(entry)
                continue
            place = (f"{cube.instance}_{entry.map}", entry.key.pack(cube.family))
            if (bid := bids.get(entry.rank)) is None:
                bid = bids[entry.rank] = (_checked(entry.rank), *owned)
            if place not in found or bid <= found[place][0]:
                found[place] = bid, entry.value.pack(cube.family)
        return found, complaints

    def _replace(self, owned: Owned, entries: Entries, delta: Delta) -> None:
        before = self._keys.pop(owned, {})
        for (name, key), old in before.items():
            bid = entries[name, key][0] if (name, key) in entries else None
            if bid != old:
                self._alter(name, key, old, None, delta)
        for (name, key), (bid, value) in entries.items():
            self._alter(name, key, bid, value, delta)
        if entries:
            self._keys[owned] = {place: bid for place, (bid, _) in entries.items()}

    def _alter(self, name: str, key: bytes, bid: Bid, value: bytes | None, delta: Delta) -> None:
        """Take in what a unit bids for a key, or that it does so no more (None)."""
        bids = self._wanted[name].setdefault(key, {})
        before = self._winner(bids) if bids else None
        if value is None:
            del bids[bid]
        else:
            bids[bid] = value
        self._compare(name, key, bids)
        after = self._winner(bids) if bids else None
        if after is None:
            del self._wanted[name][key]
        if after != before:
            delta.setdefault(name, {})[key] = after

    def _compare(self, name: str, key: bytes, owners: Mapping[Bid, bytes]) -> None:
        """Keep in mind whether the units that want the key agree on its value."""
        if len(owners) > 1 and len(set(owners.values())) > 1:
            self._disputed.add((name, key))
        else:
            self._disputed.discard((name, key))

    @staticmethod
    def _winner(owners: Mapping[Bid, bytes]) -> bytes:
        return owners[min(owners)] if len(owners) > 1 else next(iter(owners.values()))


def _checked(rank: Rank) -> Rank:
    """Raises TypeError for what cannot be compared with every other rank."""
    if not all(isinstance(each, int) for each in rank):
        raise TypeError(f"the rank {rank!r} is no tuple of int")
    return rank
