"""Has cubes run from copies, and what was in force last stand in for what cannot be used.

A cube goes only when somebody says so: one that is essential by the configuration's ``exclude`` or
by ``cubelet cubes forget``, any other also by being uninstalled.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Collection, Iterable
from functools import partial
from importlib.metadata import EntryPoint
from pathlib import Path
from types import FrameType

import msgspec
import structlog

from cubelet.cubes.copies import Copies, CopyError, Imported, InForce, load
from cubelet.cubes.discovery import Discovery, Present, as_it_is, installed
from cubelet.cubes.plugins import Plugin
from cubelet_hooks.hookspecs import ENTRY_POINT_GROUP

log = structlog.get_logger()
IMPORTING = 10
"""Seconds that the import of a package may take."""


class Found(msgspec.Struct, frozen=True):
    """A plugin as a trial found it: usable from the copy ``digest``, or not for a ``reason``."""

    name: str
    distribution: str
    version: str
    digest: str = ""
    kept: str = ""
    reason: str = ""

    @classmethod
    def of(cls, plugin: Plugin) -> Found:
        """What others are told of a plugin."""
        return cls(
            plugin.name,
            plugin.distribution,
            plugin.version,
            plugin.digest,
            plugin.kept,
            plugin.reason,
        )


class Keeper:
    """Keeps copies in a folder. Raises UnsafeFolderError if it is not ours alone to change.

    ``problem`` says why the last composition that took over could not be noted, ``present`` gives
    what stands for a plugin.
    """

    def __init__(self, folder: Path, present: Present = as_it_is) -> None:
        self.folder = folder
        self._present = present
        self._copies = Copies(folder)
        self._last = self._copies.in_force()
        self.problem = ""
        self.trying = False
        """Whether a trial makes copies that nothing runs yet: then none are removed."""

    def discover(self, found: Iterable[EntryPoint] | None = None) -> Discovery:
        """Load every plugin from its copy; see :func:`cubelet.cubes.discovery.discover`."""
        discovery = Discovery.empty(self._present)
        discovery.revert = self._revert
        for point in installed(found):
            discovery.add(self._installed(discovery, point))
        names = {plugin.name for plugin in discovery.plugins}
        for each in self._last.values():
            if each.name not in names and each.essential:
                why = f"{each.distribution} is not installed any more; {_remedy(each)}"
                discovery.add(self._as_it_was(discovery, each, why))
        reasons = {plugin.name: plugin.reason for plugin in discovery.plugins}
        discovery.lost = {
            kind: reasons.get(each.name) or "another package has its name"
            for each in self._last.values()
            for kind in each.essential
            if kind not in discovery.cubes
        }
        return discovery

    def _installed(self, discovery: Discovery, point: EntryPoint) -> Plugin:
        """The plugin as it is installed; if that cannot be used, as it was in force."""
        how, digest, uncopied = partial(self._copies.load_installed, point), "", ""
        try:
            copy = self._copies.make(point)
            how = partial(load, copy, copy.point(ENTRY_POINT_GROUP, point.name))
            digest = copy.digest
        except (CopyError, OSError) as error:
            uncopied = str(error)
        plugin = discovery.load(point, partial(_in_time, how), digest)
        if uncopied and not plugin.quarantined:
            discovery.uncopied = {**discovery.uncopied, point.name: uncopied}
        last = self._last.get(point.name)
        if last is None or (digest and last.digest == digest):
            return plugin
        lacking = set(last.essential) - {cube.kind for cube in plugin.cubes}
        if not plugin.quarantined and not lacking:
            return plugin
        why = plugin.reason or f"it offers no {', '.join(sorted(lacking))} any more"
        kept = f"{plugin.title} cannot be used: {why}; {_remedy(last)}"
        discovery.drop(plugin)
        stand_in = self._as_it_was(discovery, last, kept)
        if not stand_in.quarantined or lacking:
            return stand_in
        return plugin

    def _as_it_was(self, discovery: Discovery, last: InForce, why: str) -> Plugin:
        """What was in force, loaded from its copy; quarantined if that cannot be."""
        copy = self._copies.at(last.digest)
        try:
            point = copy.point(ENTRY_POINT_GROUP, last.name)
        except (CopyError, OSError) as error:
            reason = f"{why}; nor can it be loaded as it was in force: {error}"
            return Plugin(last.name, last.distribution, last.version, reason=reason)
        found = discovery.load(point, partial(load, copy, point), copy.digest, why)
        if found.quarantined:
            reason = f"{why}; nor can it be loaded as it was in force: {found.reason}"
            return Plugin(last.name, last.distribution, last.version, reason=reason)
        return found

    def _revert(self, discovery: Discovery, kind: str, reason: str) -> bool:
        """Have a kind that fails in use run as it was in force, if that is another copy."""
        plugin = next((p for p in discovery.plugins if kind in {c.kind for c in p.cubes}), None)
        last = self._last.get(plugin.name) if plugin else None
        if plugin is None or last is None or kind not in last.kinds:
            return False
        if last.digest == plugin.digest:
            return False
        why = f"{plugin.title} cannot be used: {reason}; {_remedy(last)}"
        if self._as_it_was(Discovery.empty(), last, why).quarantined:
            return False
        discovery.drop(plugin)
        discovery.add(self._as_it_was(discovery, last, why))
        return True

    def adopt(self, found: Iterable[Found]) -> Discovery:
        """Load what a trial found; what already runs stays what it is. Imports, so blocks.

        Raises CopyError if some plugin cannot be loaded here, and then nothing has changed.
        """
        before = self._copies.imported()
        discovery = Discovery.empty(self._present)
        discovery.revert = self._revert
        try:
            for each in found:
                discovery.add(self._adopted(discovery, each))
        except (CopyError, OSError) as error:
            self._copies.put_back(before)
            raise CopyError(str(error)) from error
        return discovery

    def _adopted(self, discovery: Discovery, found: Found) -> Plugin:
        if found.reason or not found.digest:
            reason = found.reason or "its package cannot be copied"
            return Plugin(found.name, found.distribution, found.version, reason=reason)
        copy = self._copies.at(found.digest)
        point = copy.point(ENTRY_POINT_GROUP, found.name)
        plugin = discovery.load(point, partial(load, copy, point), found.digest, found.kept)
        if plugin.quarantined:
            raise CopyError(f"{plugin.title}: {plugin.reason}")
        return plugin

    @property
    def known(self) -> set[str]:
        """The kinds that were in force last."""
        return {kind for each in self._last.values() for kind in each.kinds}

    def imported(self) -> Imported:
        """What was imported from copies, for :meth:`put_back` if others are given up."""
        return self._copies.imported()

    def put_back(self, before: Imported) -> None:
        """Have these modules be what is imported again."""
        self._copies.put_back(before)

    def took_over(self, discovery: Discovery, kinds: Collection[str]) -> None:
        """Cubes of these kinds are in force from now on: keep what they were loaded from."""
        fresh = {}
        for plugin in discovery.plugins:
            own = [cube for cube in plugin.cubes if cube.kind in kinds]
            last = self._last.get(plugin.name)
            if own and plugin.digest:
                fresh[plugin.name] = InForce(
                    plugin.name,
                    plugin.distribution,
                    plugin.version,
                    tuple(cube.kind for cube in own),
                    tuple(cube.kind for cube in own if cube.essential),
                    plugin.digest,
                )
            elif own and last:  # a copy could not be made: an older one is better than none
                fresh[plugin.name] = last
        self._note(discovery, fresh)

    def forget(self, discovery: Discovery, kind: str) -> Callable[[], None]:
        """Let go of what was in force of a kind; what is returned undoes that.

        The copy stays as long as it runs.
        """
        before = self._last
        rest = {name: each for name, each in before.items() if kind not in each.kinds}
        self._note(discovery, rest)
        return lambda: self._note(discovery, before)

    def tidy(self, discovery: Discovery) -> None:
        """Remove copies that are neither in force nor loaded."""
        self._note(discovery, self._last)

    def _note(self, discovery: Discovery, fresh: dict[str, InForce]) -> None:
        self._last = fresh
        try:
            using = None if self.trying else {plugin.digest for plugin in discovery.plugins}
            self._copies.put_in_force(fresh.values(), using)
        except OSError as error:
            self.problem = f"cannot keep copies of the cubes in force: {error}"
            log.error("cannot keep copies of the cubes in force", error=str(error))
        else:
            self.problem = ""


def _in_time(load: Callable[[], object]) -> object:
    """What a module gives when it is imported. Raises TimeoutError if it does not end."""
    if threading.current_thread() is not threading.main_thread():
        return load()

    def stop(_: int, __: FrameType | None) -> None:
        raise TimeoutError(f"its import did not end within {IMPORTING} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, IMPORTING, 1)
    try:
        return load()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _remedy(last: InForce) -> str:
    what = ", ".join(last.kinds)
    return f"remedy: install a release that works, or let it go: `cubelet cubes forget {what}`"
