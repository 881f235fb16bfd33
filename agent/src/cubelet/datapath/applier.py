"""Writes planned contents into the maps: in a safe order, in batches, then raises epochs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from cubelet.bpf.layout import ARRAYS
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.rcu import synchronize
from cubelet.bpf.syscalls import BpfError
from cubelet.composer.layout import MapSpec
from cubelet.datapath.epochs import Epochs
from cubelet_hooks.maps import Concerned
from cubelet_hooks.records import Family

Delta = dict[str, dict[bytes, bytes | None]]
"""Per map (C name) the keys whose wanted value changed; None: no longer wanted."""

Refuse = Callable[[Mapping[str, Collection[bytes]], str], Delta]
"""What is wanted instead when the kernel does not take these entries, by map, for a reason."""

_ROUNDS = 8
"""How often others may be wanted instead in one application: what is closed fits at the second."""


@dataclass
class Outcome:
    """Numbers of entries written and removed, and the maps that refused any, with the reason."""

    written: int = 0
    removed: int = 0
    failures: dict[str, str] = field(default_factory=dict)


class Applier:
    """Makes planned maps hold the wanted entries.

    ``specs`` are in the order in which maps are written. Entries are removed in reverse, once all
    programs have ended that could have read an entry referring to them: ``wait`` returns then.
    """

    def __init__(
        self,
        specs: Sequence[MapSpec],
        maps: Mapping[str, BpfMap],
        epochs: Epochs,
        family: Family,
        wait: Callable[[], None] = synchronize,
    ) -> None:
        self._specs = [spec for spec in specs if spec.declared and spec.declared.planned]
        self._followers: dict[str, list[MapSpec]] = {}
        for spec in specs:
            if spec.declared and spec.declared.follows:
                leader = f"{spec.owner}_{spec.declared.follows}"
                self._followers.setdefault(leader, []).append(spec)
        self._owners = {spec.c_name: spec.owner for spec in self._specs}
        self._maps = maps
        self._epochs = epochs
        self._family = family
        self._wait = wait
        self._retry: Delta = {}

    def sync(
        self,
        contents: Mapping[str, Mapping[bytes, bytes]],
        remove: bool = True,
        spared: Collection[str] = (),
        refuse: Refuse | None = None,
    ) -> Outcome:
        """Compare the wanted ``contents`` with the maps' actual ones, and write the difference.

        Without ``remove``, and in the maps of ``spared`` instances, unwanted entries stay: the
        object that wants them may only be unknown yet.
        """
        delta: Delta = {}
        for spec in self._specs:
            wanted, actual = contents.get(spec.c_name, {}), dict(self._records(spec))
            changes: dict[bytes, bytes | None] = {
                key: value for key, value in wanted.items() if actual.get(key) != value
            }
            if remove and spec.owner not in spared:
                changes |= dict.fromkeys(actual.keys() - wanted.keys())
            delta[spec.c_name] = changes
            if remove and spec.owner not in spared:
                delta[spec.c_name] |= dict.fromkeys(self._orphans(spec) - wanted.keys())
        self._retry = {}
        return self.apply(delta, refuse)

    def _orphans(self, spec: MapSpec) -> set[bytes]:
        """The keys of maps that follow this one: most of them are wanted there."""
        found = (self._records(each) for each in self._followers.get(spec.c_name, ()))
        return {key for records in found for key, _ in records}

    def _records(self, spec: MapSpec) -> Iterable[tuple[bytes, bytes]]:
        records = self._maps[spec.c_name].items()
        if spec.layout.type in ARRAYS:
            return ((key, value) for key, value in records if any(value))
        return records

    def apply(self, delta: Delta, refuse: Refuse | None = None) -> Outcome:
        """Write a difference, and what earlier ones could not; then raise the epochs concerned.

        Of entries that the kernel does not take ``refuse`` says what is wanted instead, so that
        nobody else is kept waiting: else their maps wait, and all that come after them.
        """
        merged = {
            spec.c_name: {**self._retry.get(spec.c_name, {}), **delta.get(spec.c_name, {})}
            for spec in self._specs
        }
        self._retry = {}
        outcome = Outcome()
        concerns = self._concerns(merged)
        try:
            self._write_all(merged, concerns, outcome, refuse)
            if any(None in changes.values() for changes in merged.values()):
                self._wait()
            for spec in reversed(self._specs):
                self._remove(spec, merged[spec.c_name], outcome)
            self._remove_followers(merged, outcome)
        finally:
            self._epochs.raise_for(concerns)
        return outcome

    def _concerns(self, delta: Delta) -> set[Concerned]:
        found: set[Concerned] = set()
        for spec in self._specs:
            declared = spec.declared
            if declared is None or declared.concerns is None:
                continue
            for raw, value in delta.get(spec.c_name, {}).items():
                key = declared.key.unpack(raw, self._family)
                for each in (value, self._maps[spec.c_name].lookup(raw)):
                    if each is not None:
                        found |= declared.concerned(key, declared.value.unpack(each, self._family))
        return found

    def _write_all(
        self,
        merged: dict[str, dict[bytes, bytes | None]],
        concerns: set[Concerned],
        outcome: Outcome,
        refuse: Refuse | None,
    ) -> None:
        """Write map after map, from the first one again when others are wanted instead."""
        pending, rounds = list(self._specs), _ROUNDS if refuse else 0
        while pending:
            spec = pending.pop(0)
            changes = merged[spec.c_name]
            error = self._write(spec, changes, outcome)
            if error is None:
                continue
            instead = {}
            if refuse and rounds:
                rounds -= 1
                instead = refuse({spec.c_name: self._refused_keys(spec, changes)}, str(error))
            if not instead:
                outcome.failures[spec.c_name] = str(error)
                self._keep_for_later(spec, changes)
                continue
            concerns |= self._concerns(instead)
            for name, others in instead.items():
                merged[name].update(others)
            pending, outcome.written = list(self._specs), 0

    def _write(
        self, spec: MapSpec, changes: Mapping[bytes, bytes | None], outcome: Outcome
    ) -> BpfError | None:
        wanted = {key: value for key, value in changes.items() if value is not None}
        if not wanted:
            return None
        if self._held(spec, outcome):
            self._keep_for_later(spec, changes)
            return None
        table = self._maps[spec.c_name]
        try:
            try:
                table.update_batch(wanted.items())
            except BpfError:
                if not self._make_room(spec, changes):
                    raise
                table.update_batch(wanted.items())
        except BpfError as error:
            return error
        outcome.written += len(wanted)
        return None

    def _keep_for_later(self, spec: MapSpec, changes: Mapping[bytes, bytes | None]) -> None:
        wanted = {key: value for key, value in changes.items() if value is not None}
        self._retry.setdefault(spec.c_name, {}).update(wanted)

    def _refused_keys(
        self, spec: MapSpec, changes: Mapping[bytes, bytes | None]
    ) -> Collection[bytes]:
        """Those that the kernel does not take even when they come alone."""
        refused = []
        for key, value in changes.items():
            if value is not None:
                try:
                    self._maps[spec.c_name].update(key, value)
                except BpfError:
                    refused.append(key)
        return refused

    def _make_room(self, spec: MapSpec, changes: Mapping[bytes, bytes | None]) -> bool:
        """Remove unwanted entries before writing, if the map has no room for the wanted ones else.

        Entries that refer to removed ones find nothing until they are written too. Keeping the
        order would be worse: since nothing is removed after a failed write, the map stayed full.
        """
        if spec.layout.type in ARRAYS:
            return False
        table = self._maps[spec.c_name]
        gone = {key for key, value in changes.items() if value is None}
        found = {key for key, _ in table.items()}
        if (
            not gone & found
            or len((found - gone) | (changes.keys() - gone)) > spec.layout.max_entries
        ):
            return False
        table.delete_batch(gone)
        return True

    def _held(self, spec: MapSpec, outcome: Outcome) -> bool:
        """Whether a map of the same owner has refused entries.

        Later entries may refer to the refused ones, and entries to be removed may still be referred
        to: both wait, so that the old contents stay consistent.
        """
        return any(spec.owner == self._owners[name] for name in outcome.failures)

    def _remove_followers(
        self, merged: Mapping[str, Mapping[bytes, bytes | None]], outcome: Outcome
    ) -> None:
        """Remove entries that follow what is gone, when no program makes them anew."""
        gone = {
            name: [key for key, value in merged[name].items() if value is None]
            for name in self._followers.keys() - outcome.failures.keys()
        }
        if any(gone.values()):
            self._wait()
        for name, keys in gone.items():
            for spec in self._followers[name] if keys else ():
                try:
                    self._delete(spec, keys)
                except BpfError as error:
                    outcome.failures[spec.c_name] = str(error)

    def _delete(self, spec: MapSpec, keys: Sequence[bytes]) -> None:
        table = self._maps[spec.c_name]
        if spec.layout.type in ARRAYS:
            table.update_batch((key, bytes(spec.layout.value_stride)) for key in keys)
        else:
            table.delete_batch(keys)

    def _remove(
        self, spec: MapSpec, changes: Mapping[bytes, bytes | None], outcome: Outcome
    ) -> None:
        gone = [key for key, value in changes.items() if value is None]
        if not gone:
            return
        if self._held(spec, outcome):
            self._retry.setdefault(spec.c_name, {}).update(dict.fromkeys(gone))
            return
        try:
            self._delete(spec, gone)
        except BpfError as error:
            outcome.failures[spec.c_name] = str(error)
            self._retry.setdefault(spec.c_name, {}).update(dict.fromkeys(gone))
            return
        outcome.removed += len(gone)
