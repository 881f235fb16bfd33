"""Keeps what all cubes want in their maps, unit by unit. Pure: no map is touched here."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from cubelet.datapath.applier import Delta
from cubelet_hooks.cube import Cube, Unit
from cubelet_hooks.objects import Change
from cubelet_hooks.view import View

log = structlog.get_logger()

Owned = tuple[str, Unit]
"""An instance's unit."""


class Planner:
    """Merges the plans of all units into the wanted contents of the planned maps.

    Two units may want the same key: the one that sorts first wins, whichever came first.
    """

    def __init__(self, cubes: Sequence[Cube]) -> None:
        self.cubes = {cube.instance: cube for cube in cubes}
        self.failures: dict[Owned, str] = {}
        self.seconds: dict[str, float] = defaultdict(float)
        """How long each instance has taken since this was cleared."""
        self._wanted: dict[str, dict[bytes, dict[Owned, bytes]]] = defaultdict(dict)
        self._unasked: list[tuple[Cube, Change]] = []
        self._keys: dict[Owned, set[tuple[str, bytes]]] = {}
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
                    entries = self._plan(owned, view)
            except Exception as error:  # a cube's bug must not stop the others
                self._failed(owned, error)
                continue
            self.failures.pop(owned, None)
            self._replace(owned, entries, delta)
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

    def rejected(self) -> list[str]:
        """What the cubes say of units whose entries others have the keys of, ordered."""
        return sorted(
            {text for name, key in self._disputed for text in self._rejections(name, key)}
        )

    def _rejections(self, name: str, key: bytes) -> Iterator[str]:
        cube, declared = self._maps[name]
        wanted = self._wanted[name][key]
        (_, holder), *others = sorted(wanted)
        for owned in others:
            if wanted[owned] == self._winner(wanted):
                continue
            if text := cube.rejected(declared.key.unpack(key, cube.family), holder, owned[1]):
                yield text

    def _failed(self, owned: Owned, error: Exception) -> None:
        if self.failures.get(owned) != repr(error):
            log.error("a plan failed", cube=owned[0], unit=owned[1], error=repr(error))
        self.failures[owned] = repr(error)

    def _plan(self, owned: Owned, view: View) -> dict[tuple[str, bytes], bytes]:
        cube = self.cubes[owned[0]]
        return {
            (f"{cube.instance}_{entry.map}", entry.key.pack(cube.family)): entry.value.pack(
                cube.family
            )
            for entry in cube.plan(owned[1], view)
        }

    def _replace(
        self, owned: Owned, entries: Mapping[tuple[str, bytes], bytes], delta: Delta
    ) -> None:
        for name, key in self._keys.get(owned, set()) - entries.keys():
            owners = self._wanted[name][key]
            del owners[owned]
            self._compare(name, key, owners)
            if owners:
                delta.setdefault(name, {})[key] = self._winner(owners)
            else:
                del self._wanted[name][key]
                delta.setdefault(name, {})[key] = None
        for (name, key), value in entries.items():
            owners = self._wanted[name].setdefault(key, {})
            before = self._winner(owners) if owners else None
            owners[owned] = value
            self._compare(name, key, owners)
            if self._winner(owners) != before:
                delta.setdefault(name, {})[key] = self._winner(owners)
        if entries:
            self._keys[owned] = set(entries)
        else:
            self._keys.pop(owned, None)

    def _compare(self, name: str, key: bytes, owners: Mapping[Owned, bytes]) -> None:
        """Keep in mind whether the units that want the key agree on its value."""
        if len(owners) > 1 and len(set(owners.values())) > 1:
            self._disputed.add((name, key))
        else:
            self._disputed.discard((name, key))

    @staticmethod
    def _winner(owners: Mapping[Owned, bytes]) -> bytes:
        return owners[min(owners)] if len(owners) > 1 else next(iter(owners.values()))
