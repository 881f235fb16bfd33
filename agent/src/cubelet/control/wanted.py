"""What all units want in the planned maps, merged: who has a key that several want. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence

from cubelet.datapath.applier import Delta
from cubelet_hooks.cube import Complaint, Cube, Rank, Unit
from cubelet_hooks.records import Record

Owned = tuple[str, Unit]
"""An instance's unit."""

Bid = tuple[Rank, str, Unit]
"""What a unit's entry has to say for itself against others': the least one has the key.

A unit's entries of one rank share it: of a large cluster's there are hundreds of thousands."""

Entries = Mapping[tuple[str, bytes], tuple[Bid, bytes]]
"""What a unit wants: by map and key."""


class Wanted:
    """The wanted contents of the planned maps, by C name.

    Two units may want the same key: the entry of the lower rank wins, and of equal ranks the unit
    that sorts first, whichever came first.
    """

    def __init__(self, cubes: Sequence[Cube]) -> None:
        self._maps = {
            f"{cube.instance}_{declared.name}": (cube, declared)
            for cube in cubes
            for declared in cube.maps
        }
        self._bids: dict[str, dict[bytes, dict[Bid, bytes]]] = defaultdict(dict)
        self._keys: dict[Owned, dict[tuple[str, bytes], Bid]] = {}
        self._disputed: set[tuple[str, bytes]] = set()

    def contents(self) -> Mapping[str, Mapping[bytes, bytes]]:
        """The wanted contents of every planned map, empty ones too."""
        return {
            name: {key: _winner(bids) for key, bids in self._bids.get(name, {}).items()}
            for name, (_, declared) in self._maps.items()
            if declared.planned
        }

    def counts(self) -> Mapping[str, int]:
        """How many entries are wanted in every planned map."""
        return {
            name: len(self._bids.get(name, {}))
            for name, (_, declared) in self._maps.items()
            if declared.planned
        }

    def owners(self, keys: Mapping[str, Collection[bytes]]) -> set[Owned]:
        """Whose these keys are, by map: all who want them."""
        return {
            (instance, unit)
            for name, found in keys.items()
            for key in found
            for _, instance, unit in self._bids[name].get(key, ())
        }

    def rejections(self) -> Iterator[str | Complaint]:
        """What the cubes say of units whose entries others have the keys of."""
        for name, key in self._disputed:
            cube, declared = self._maps[name]
            bids = self._bids[name][key]
            (_, _, holder), *others = sorted(bids)
            for bid in others:
                if bids[bid] == _winner(bids):
                    continue
                record = declared.key.unpack(key, cube.family)
                if told := _rejected(cube, record, holder, bid[2]):
                    yield told

    def replace(self, owned: Owned, entries: Entries, delta: Delta) -> None:
        """Let a unit want these entries alone; ``delta`` has what changed in the contents."""
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
        bids = self._bids[name].setdefault(key, {})
        before = _winner(bids) if bids else None
        if value is None:
            del bids[bid]
        else:
            bids[bid] = value
        self._compare(name, key, bids)
        after = _winner(bids) if bids else None
        if after is None:
            del self._bids[name][key]
        if after != before:
            delta.setdefault(name, {})[key] = after

    def _compare(self, name: str, key: bytes, bids: Mapping[Bid, bytes]) -> None:
        """Keep in mind whether the units that want the key agree on its value."""
        if len(bids) > 1 and len(set(bids.values())) > 1:
            self._disputed.add((name, key))
        else:
            self._disputed.discard((name, key))


def _rejected(cube: Cube, key: Record, holder: Unit, other: Unit) -> str | Complaint:
    try:
        return cube.rejected(key, holder, other)
    except Exception as error:  # a cube's bug must not stop the others
        lost, has = " ".join(other), " ".join(holder)
        return f"{cube.instance}: {lost} does not get what {has} has; cannot say what: {error!r}"


def _winner(bids: Mapping[Bid, bytes]) -> bytes:
    return bids[min(bids)] if len(bids) > 1 else next(iter(bids.values()))
