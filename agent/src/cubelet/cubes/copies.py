"""Copies of cubes' packages in the agent's state folder, which it imports them from.

What runs keeps running: a package that is upgraded, broken or removed on disk changes nothing until
another composition has taken over, and an agent that starts finds what was in force last. A copy is
a folder named by the hash of its contents. A file beside it, with the same name, says that it was
put in force, and what of.
"""

from __future__ import annotations

import hashlib
import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, distributions
from pathlib import Path
from types import ModuleType

import msgspec
import structlog

from cubelet.bpf.folders import trusted_folder
from cubelet.cni.files import write_atomic

log = structlog.get_logger()
MOST = 64 << 20
"""Bytes of one package: a cube is code, and what it weighs is copied at each upgrade."""
_CACHE = "__pycache__"


class CopyError(Exception):
    """A package cannot be copied, or a copy not be used; the text names it and says why."""


class InForce(msgspec.Struct, frozen=True):
    """A copy that was in force: the entry point ``name`` of a distribution, and its ``kinds``.

    ``essential`` are those that the node must not run without.
    """

    name: str
    distribution: str
    version: str
    kinds: tuple[str, ...] = ()
    essential: tuple[str, ...] = ()
    digest: str = ""


@dataclass(frozen=True)
class Copy:
    """A package's files below ``root``, whose name is their hash."""

    root: Path

    @property
    def digest(self) -> str:
        """The hash of the files."""
        return self.root.name

    @property
    def names(self) -> frozenset[str]:
        """The top-level modules and packages in it."""
        found = (each.name for each in self.root.iterdir()) if self.root.is_dir() else ()
        return frozenset(each.partition(".")[0] for each in found if ".dist-info" not in each)

    def point(self, group: str, name: str) -> EntryPoint:
        """The copy's own entry point. Raises CopyError if the files are not what they were."""
        if not self.root.is_dir():
            raise CopyError(f"its copy {self.root} is missing")
        trusted_folder(self.root)
        if _digest(_files_below(self.root)) != self.digest:
            raise CopyError(f"its copy {self.root} has been changed")
        for found in distributions(path=[str(self.root)]):
            for point in found.entry_points.select(group=group, name=name):
                return point
        raise CopyError(f"its copy {self.root} has no entry point {name}")


@dataclass(frozen=True)
class Imported:
    """Modules by name, and the import path."""

    path: list[str]
    modules: Mapping[str, ModuleType]


class Copies:
    """The copies in a folder. Raises UnsafeFolderError if it is not ours alone to change."""

    def __init__(self, folder: Path) -> None:
        self._folder = trusted_folder(folder, 0o700)

    def make(self, point: EntryPoint) -> Copy:
        """Copy the package of an installed entry point, unless there is such a copy.

        Raises CopyError, and OSError if there is no room.
        """
        files = dict(_files_of(point, self._folder))
        copy = Copy(self._folder / _digest(files))
        if copy.root.is_dir():
            if _digest(_files_below(copy.root)) == copy.digest:
                return copy
            shutil.rmtree(copy.root)
        unfinished = Path(tempfile.mkdtemp(prefix=".", dir=self._folder))
        try:
            for name, content in files.items():
                target = unfinished / name
                target.parent.mkdir(parents=True, exist_ok=True)
                with target.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
            unfinished.rename(copy.root)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        return copy

    def load_installed(self, point: EntryPoint) -> object:
        """Import the entry point's module as it is installed, from no copy."""
        _make_way(self._folder, frozenset({point.module.partition(".")[0]}))
        return point.load()

    def at(self, digest: str) -> Copy:
        """The copy with this hash, which may be missing."""
        return Copy(self._folder / digest)

    def in_force(self) -> dict[str, InForce]:
        """What was in force last, by the name of the entry point."""
        found: dict[str, InForce] = {}
        marks = sorted(self._folder.glob("*.json"), key=lambda each: each.stat().st_mtime_ns)
        for mark in marks:
            try:
                each = msgspec.json.decode(mark.read_bytes(), type=InForce)
            except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
                log.error("cannot read what was in force", path=str(mark), error=str(error))
                continue
            found[each.name] = each
        return found

    def imported(self) -> Imported:
        """The modules that were imported from copies, and the way to them."""
        root = f"{self._folder}{os.sep}"
        modules = {
            name: module
            for name, module in [*sys.modules.items()]
            if str(getattr(module, "__file__", None) or "").startswith(root)
        }
        return Imported([*sys.path], modules)

    def put_back(self, before: Imported) -> None:
        """Have these be what is imported again."""
        for name in self.imported().modules:
            del sys.modules[name]
        sys.path[:] = before.path
        sys.modules.update(before.modules)
        importlib.invalidate_caches()

    def put_in_force(self, wanted: Iterable[InForce], using: Collection[str] | None) -> None:
        """These are in force from now on; other copies go, but for those with a hash in ``using``.

        None: all stay. Raises OSError.
        """
        marks = {f"{each.digest}.json": each for each in wanted}
        for name, each in marks.items():
            write_atomic(self._folder / name, msgspec.json.encode(each))
        needed = {*marks, *(each.digest for each in marks.values()), *(using or ())}
        for path in self._folder.iterdir():
            stale = path.suffix == ".json" or using is not None
            if stale and path.name not in needed:
                shutil.rmtree(path) if path.is_dir() else path.unlink()


def load(copy: Copy, point: EntryPoint) -> object:
    """Import the entry point's module from the copy. Raises what the module raises.

    Modules of its names that were imported from elsewhere are forgotten, but go on working for
    those who have them.
    """
    _make_way(copy.root.parent, copy.names, f"{copy.root}{os.sep}")
    sys.path.insert(0, str(copy.root))
    writes, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        return point.load()
    finally:
        sys.dont_write_bytecode = writes


def _make_way(copies: Path, names: frozenset[str], spared: str = "") -> None:
    """Forget modules of these names, but for those in files that begin with ``spared``."""
    for name in [each for each in sys.modules if each.partition(".")[0] in names]:
        file = str(getattr(sys.modules[name], "__file__", None) or "")
        if not (spared and file.startswith(spared)):
            del sys.modules[name]
    others = {str(each) for each in copies.iterdir() if names & Copy(each).names}
    sys.path[:] = [each for each in sys.path if each not in others]
    importlib.invalidate_caches()


def _files_of(point: EntryPoint, copies: Path) -> Iterator[tuple[str, bytes]]:
    """The files of an entry point's distribution that can be imported, and its metadata."""
    dist = point.dist
    if dist is None:
        raise CopyError(f"{point.name} belongs to no installed distribution")
    left = MOST
    for top in sorted(_tops(point)):
        if top in sys.stdlib_module_names:
            raise CopyError(f"{dist.name} has a module called {top}, as Python itself does")
        for name, path in _importable(top, copies):
            left -= path.stat().st_size
            if left < 0:
                raise CopyError(f"{dist.name} has over {MOST >> 20} MB")
            yield name, path.read_bytes()
    for name in ("METADATA", "entry_points.txt"):
        text = dist.read_text(name)
        if text is not None:
            yield f"{dist.name.replace('-', '_')}-{dist.version}.dist-info/{name}", text.encode()


def _tops(point: EntryPoint) -> set[str]:
    """The names that the distribution can be imported by; an editable one lists no modules."""
    files = (point.dist.files or ()) if point.dist else ()
    listed = {each.parts[0].removesuffix(".py") for each in files if each.suffix == ".py"}
    return {each for each in listed if each.isidentifier()} | {point.module.partition(".")[0]}


def _importable(top: str, copies: Path) -> Iterator[tuple[str, Path]]:
    """The files of a package or module as it is installed: not of a copy."""
    spec = _installed_spec(top, copies)
    if spec is None:
        raise CopyError(f"there is no module {top}")
    places = list(spec.submodule_search_locations or ())
    if not places and spec.origin and Path(spec.origin).is_file():
        yield Path(spec.origin).name, Path(spec.origin)
    for place in places:
        for path in sorted(Path(place).rglob("*")):
            if path.is_file() and _CACHE not in path.parts:
                yield f"{top}/{path.relative_to(place)}", path


def _installed_spec(top: str, copies: Path) -> ModuleSpec | None:
    """Where a module is found on the import path; nothing of it is run."""
    importlib.invalidate_caches()
    path = [each for each in sys.path if Path(each).parent != copies]
    found = PathFinder.find_spec(top, path)
    for finder in sys.meta_path:  # editable installs may bring one of their own
        if found is None and finder is not PathFinder:
            found = finder.find_spec(top, None)
    return found


def _files_below(root: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and _CACHE not in path.parts
    }


def _digest(files: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(files.items()):
        digest.update(f"{name}\0{len(content)}\0".encode() + content)
    return digest.hexdigest()[:32]
