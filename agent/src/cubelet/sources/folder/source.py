"""A folder of manifests as the source of objects: a cluster without an API server."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Callable, Mapping
from pathlib import Path

from watchfiles import awatch

from cubelet.sources.decode import KINDS, Kinds
from cubelet.sources.folder.catalog import Catalog
from cubelet.sources.folder.manifest import Manifest, read, unreadable
from cubelet.sources.problem import Problem
from cubelet_hooks.objects import Change

SUFFIXES = (".yaml", ".yml", ".json")
_EDITOR_PREFIXES = (".", "#")

Fingerprint = tuple[int, int, int]
Listing = Mapping[str, Fingerprint]


class FolderSource:
    """Emits the changes of the objects in the manifests of one folder, not its subfolders.

    Level-triggered: only the files' contents count, not the events about them. The folder is read
    when two listings, ``settle`` seconds apart, are equal, and at the latest ``patience`` seconds
    after a change is first seen, so that files are not read while they are being written or moved.
    It is listed on inotify events and every ``rescan`` seconds. While it cannot be listed, all
    objects stay as they were.

    ``emit`` gets one change at a time and ``report`` all problems whenever they change; both are
    called in the loop that ``run`` runs in. ``kinds`` are the kinds that are read.
    """

    def __init__(
        self,
        path: Path,
        emit: Callable[[Change], None],
        report: Callable[[list[Problem]], None],
        *,
        kinds: Kinds = KINDS,
        settle: float = 0.05,
        patience: float = 0.5,
        rescan: float = 5.0,
    ) -> None:
        self._path = path
        self._emit = emit
        self._report = report
        self._kinds = kinds
        self._settle = settle
        self._patience = patience
        self._rescan = rescan
        self._wake = asyncio.Event()
        self._catalog = Catalog()
        self._seen: Listing = {}
        self._anew = False
        self._problems: list[Problem] = []
        self._synced = False
        self._away = False
        self._waiting: list[asyncio.Future[None]] = []

    @property
    def has_synced(self) -> bool:
        """Whether all objects that the folder had at the start have been emitted."""
        return self._synced

    @property
    def away(self) -> bool:
        """Whether the folder could not be listed the last time."""
        return self._away

    async def run(self) -> None:
        """Follow the folder until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch())
            while True:
                self._wake.clear()
                waiting, self._waiting = self._waiting, []
                await self._follow()
                for each in waiting:
                    if not each.done():
                        each.set_result(None)
                await self._wake.wait()

    async def refresh(self) -> None:
        """Return once all objects that the folder has now have been emitted."""
        waiter = asyncio.get_running_loop().create_future()
        self._waiting.append(waiter)
        self._wake.set()
        await waiter

    async def learn(self, kinds: Kinds) -> None:
        """Read objects of these kinds from now on; returns once all files have been read anew."""
        if kinds.keys() != self._kinds.keys():
            self._kinds = kinds
            self._anew = True
        await self.refresh()

    async def _watch(self) -> None:
        """Wake on inotify events and every ``rescan`` seconds."""
        while True:
            try:
                await self._notices()
            except (OSError, RuntimeError):  # no such folder, or the limit of inotify watches
                await asyncio.sleep(self._rescan)
                self._wake.set()

    async def _notices(self) -> None:
        """Wake on each event until the folder has been replaced by another."""
        watched = os.stat(self._path).st_ino
        notices = awatch(
            self._path,
            watch_filter=None,
            recursive=False,
            step=10,
            debounce=20,
            rust_timeout=int(self._rescan * 1000),
            yield_on_timeout=True,
        )
        self._wake.set()  # for changes before the watch, which begins in this same loop step
        async with contextlib.aclosing(notices):
            async for _ in notices:
                self._wake.set()
                if os.stat(self._path).st_ino != watched:
                    return

    async def _follow(self) -> None:
        """Emit the changes of the folder since it was read last."""
        if self._anew:
            self._anew, self._seen = False, dict.fromkeys(self._seen, (0, 0, 0))
        try:
            listing = await self._settled()
        except OSError as error:
            self._away = True
            self._tell([_folder_problem(self._path, error), *self._catalog.problems()])
            return
        self._away = False
        manifests = await asyncio.to_thread(self._read, listing)
        for change in self._catalog.update(manifests):
            self._emit(change)
        self._tell(self._catalog.problems())
        self._seen = listing
        self._synced = True

    async def _settled(self) -> Listing:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self._patience
        listing = _list(self._path)
        while listing != self._seen and loop.time() < deadline:
            await asyncio.sleep(self._settle)
            before, listing = listing, _list(self._path)
            if listing == before:
                break
        return listing

    def _read(self, listing: Listing) -> dict[str, Manifest | None]:
        """The manifests that have changed since the last reading; None for those that are gone."""
        found: dict[str, Manifest | None] = {
            file: None for file in self._seen if file not in listing
        }
        for file, fingerprint in listing.items():
            if self._seen.get(file) == fingerprint:
                continue
            last = self._catalog.objects_of(file)
            try:
                data = (self._path / file).read_bytes()
            except OSError as error:
                found[file] = unreadable(file, 0, f"cannot be read: {error.strerror}", last)
            else:
                found[file] = read(file, data, last, self._kinds)
        return found

    def _tell(self, problems: list[Problem]) -> None:
        if problems != self._problems:
            self._problems = problems
            self._report(problems)


def _folder_problem(path: Path, error: OSError) -> Problem:
    return Problem(str(path), 0, "", "", "", f"the folder cannot be listed: {error.strerror}")


def _list(path: Path) -> Listing:
    """The manifests in the folder, each with file attributes that change with its contents."""
    listing = {}
    with os.scandir(path) as entries:
        for entry in entries:
            if entry.name.endswith(SUFFIXES) and not entry.name.startswith(_EDITOR_PREFIXES):
                with contextlib.suppress(FileNotFoundError):  # gone since it was listed
                    if entry.is_file():
                        status = entry.stat()
                        listing[entry.name] = (status.st_ino, status.st_ctime_ns, status.st_size)
    return listing
