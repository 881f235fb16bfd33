"""Notices that packages with cubes were installed, upgraded or removed, at little cost."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Collection
from importlib.metadata import distributions
from pathlib import Path

from cubelet_hooks.hookspecs import ENTRY_POINT_GROUP

_OWN = ("cubelet", "cubelet-hooks")
_FILES = ("RECORD", "METADATA", "entry_points.txt", "direct_url.json")
"""Of a distribution's metadata: what they say is another with another build."""


class Installed:
    """What is installed, as it was at the last look; what is in the folder ``copies`` is not."""

    def __init__(self, copies: Path) -> None:
        self._copies = copies
        self._times = self._look()
        self._known = self._seen = self._hashes()
        self._own = self._hashes(_OWN)

    @property
    def outdated(self) -> bool:
        """Whether the agent's own packages are others by now than those that run."""
        return self._hashes(_OWN) != self._own

    def changed(self) -> bool:
        """Whether packages have changed since this was true last, and are at rest since a look."""
        times = self._look()
        if times == self._times and self._seen == self._known:
            return False
        self._times = times
        before, self._seen = self._seen, self._hashes()
        if self._seen != before or self._seen == self._known:
            return False
        self._known = self._seen
        return True

    def _path(self) -> list[str]:
        return [each for each in sys.path if each and Path(each).parent != self._copies]

    def _look(self) -> dict[str, int]:
        """When something was put into, or taken from, the folders of the import path."""
        return {each: _time(each) for each in self._path()}

    def _hashes(self, names: Collection[str] = ()) -> dict[str, str]:
        """The distributions of these names, or with cubes, each with a hash of its metadata."""
        found: dict[str, str] = {}
        for each in distributions(path=self._path()):
            cubes = any(point.group == ENTRY_POINT_GROUP for point in each.entry_points)
            if each.name not in found and (each.name in names if names else cubes):
                texts = (each.read_text(file) or "" for file in _FILES)
                found[each.name] = hashlib.sha256("\0".join(texts).encode()).hexdigest()
        return found


def _time(path: str) -> int:
    """When it was changed, in nanoseconds; 0 if it is not there."""
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0
