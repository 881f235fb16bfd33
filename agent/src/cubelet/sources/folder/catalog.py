"""The manifests of a folder, merged into one set of objects."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from cubelet.sources.decode import Identity
from cubelet.sources.folder.manifest import Manifest, Objects
from cubelet.sources.problem import Problem
from cubelet_hooks.objects import Change, Object


class Catalog:
    """Knows which file gives which object.

    If several files give an object, the first by name wins; files that only gave it at an earlier
    reading come last.
    """

    def __init__(self) -> None:
        self._manifests: dict[str, Manifest] = {}
        self._givers: dict[Identity, set[str]] = {}
        self._contested: set[Identity] = set()

    def objects_of(self, file: str) -> Objects:
        """The objects of a file; none if it is not known."""
        return self._manifests.get(file, Manifest()).objects

    def update(self, manifests: Mapping[str, Manifest | None]) -> list[Change]:
        """Replace files (None: the file is gone) at once; returns the changes of objects.

        An object that one file loses and another gains is not removed in between. Changes are
        ordered by kind and key.
        """
        touched: set[Identity] = set()
        for file, manifest in manifests.items():
            touched.update(self.objects_of(file), manifest.objects if manifest else ())
        before = {identity: self._winner(identity) for identity in touched}
        for file, manifest in manifests.items():
            self._replace(file, manifest)
        changes = []
        for identity in sorted(touched):
            if len(self._givers.get(identity, ())) > 1:
                self._contested.add(identity)
            else:
                self._contested.discard(identity)
            old, new = before[identity], self._winner(identity)
            if old != new:
                changes.append(Change.between(old, new))
        return changes

    def problems(self) -> list[Problem]:
        """All current problems, ordered by file and line."""
        found = [each for manifest in self._manifests.values() for each in manifest.problems]
        for identity in self._contested:
            first, *others = sorted(self._givers[identity], key=self._rank(identity))
            message = f"is in {first} too, which counts because its name comes first"
            found += [
                Problem(file, 0, *identity, "", message)
                for file in others
                if identity not in self._manifests[file].kept
            ]
        return sorted(found)

    def _replace(self, file: str, manifest: Manifest | None) -> None:
        for identity in self.objects_of(file):
            files = self._givers[identity]
            files.discard(file)
            if not files:
                del self._givers[identity]
        self._manifests.pop(file, None)
        if manifest is not None:
            self._manifests[file] = manifest
            for identity in manifest.objects:
                self._givers.setdefault(identity, set()).add(file)

    def _winner(self, identity: Identity) -> Object | None:
        files = self._givers.get(identity)
        if not files:
            return None
        return self._manifests[min(files, key=self._rank(identity))].objects[identity]

    def _rank(self, identity: Identity) -> Callable[[str], tuple[bool, str]]:
        return lambda file: (identity in self._manifests[file].kept, file)
