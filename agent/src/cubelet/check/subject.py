"""Finds the cubes to be checked: those of a package's folder, or an installed one."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from typing import Any

import pluggy

from cubelet.check.findings import Finding
from cubelet.check.limits import EndlessError, asked, listed
from cubelet.console.output import CommandError
from cubelet_hooks import hookspecs
from cubelet_hooks.cube import Cube
from cubelet_hooks.hookspecs import ENTRY_POINT_GROUP


@dataclass(frozen=True)
class Package:
    """The metadata of the cube's package, from its folder or its installation."""

    name: str
    version: str
    requires: tuple[str, ...]
    file: str
    """The metadata's source: the path of ``pyproject.toml``, or the installed package's name."""


@dataclass(frozen=True)
class Subject:
    """A cube, and the entry point that led to it."""

    cube: type[Cube]
    point: EntryPoint
    package: Package

    @property
    def source(self) -> Path:
        """The C file."""
        return self.cube.source()


@dataclass(frozen=True)
class Unusable:
    """An entry point that leads to no cube, and why."""

    point: EntryPoint
    finding: Finding


def find(text: str) -> Iterator[Subject | Unusable]:
    """The cubes of a folder, or the installed one of this kind. Raises CommandError for neither."""
    folder = Path(text)
    if folder.is_dir():
        return _in_folder(folder.resolve())
    points = entry_points(group=ENTRY_POINT_GROUP, name=text)
    if points:
        return (each for point in points for each in _load(point, _installed(point)))
    known = ", ".join(sorted(entry_points(group=ENTRY_POINT_GROUP).names)) or "none"
    raise CommandError(
        f"{text} is no folder, and no cube of this name is installed",
        f"name a package's folder, or one of the installed cubes: {known}",
    )


def _installed(point: EntryPoint) -> Package:
    if point.dist is None:
        return Package(point.name, "", (), point.value)
    requires = tuple(point.dist.requires or ())
    return Package(point.dist.name, point.dist.version, requires, point.dist.name)


def _in_folder(folder: Path) -> Iterator[Subject | Unusable]:
    settings = _pyproject(folder)
    project = settings.get("project", {})
    points = project.get("entry-points", {}).get(ENTRY_POINT_GROUP, {})
    file = folder / "pyproject.toml"
    if not points:
        raise CommandError(
            f"{file} offers no cube",
            f'add [project.entry-points."{ENTRY_POINT_GROUP}"] with NAME = "package.module"',
        )
    root = _root(folder, settings)
    sys.path.insert(0, str(root))
    importlib.invalidate_caches()
    package = Package(
        project.get("name", ""),
        project.get("version", ""),
        tuple(project.get("dependencies", ())),
        str(file),
    )
    for name, value in sorted(points.items()):
        _forget(value.partition(".")[0].partition(":")[0], root)
        yield from _load(EntryPoint(name, value, ENTRY_POINT_GROUP), package)


def _pyproject(folder: Path) -> Mapping[str, Any]:
    file = folder / "pyproject.toml"
    try:
        return tomllib.loads(file.read_text())
    except OSError as error:
        raise CommandError(f"{file}: {error.strerror}", "name a package's folder") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise CommandError(f"{file}: {error}", "mend it first") from error


def _root(folder: Path, settings: Mapping[str, Any]) -> Path:
    """The folder that contains the package: from hatchling's settings, else ``src``."""
    tool: Any = settings.get("tool", {})
    wheel = tool.get("hatch", {}).get("build", {}).get("targets", {}).get("wheel", {})
    packages: list[str] = wheel.get("packages", [])
    if packages:
        return (folder / packages[0]).parent
    return folder / "src" if (folder / "src").is_dir() else folder


def _forget(package: str, root: Path) -> None:
    """Unload a package of this name that was imported from elsewhere."""
    loaded = sys.modules.get(package)
    if loaded is None or str(loaded.__file__ or "").startswith(f"{root}/"):
        return
    for name in [each for each in sys.modules if each.split(".")[0] == package]:
        del sys.modules[name]


def _load(point: EntryPoint, package: Package) -> Iterator[Subject | Unusable]:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    try:
        manager.register(asked("import", point.load), name=point.name)
        manager.check_pending()
        hook = manager.hook.cubelet_cubes
        offered = asked("cubelet_cubes", lambda: [c for each in hook() for c in listed(each)])
    except (Exception, SystemExit, EndlessError) as error:  # any error of the package is a finding
        yield Unusable(point, _failure(error, point))
        return
    if not offered:
        message = f"{point.value} offers no cube"
        yield Unusable(point, Finding(message, "return its class from cubelet_cubes()"))
    for cube in offered:
        if isinstance(cube, type) and issubclass(cube, Cube) and hasattr(cube, "kind"):
            yield Subject(cube, point, package)
        else:
            message = f"cubelet_cubes returned {cube!r}, which is no subclass of Cube with a kind"
            yield Unusable(point, Finding(message, "return classes derived from Cube"))


def _failure(error: BaseException, point: EntryPoint) -> Finding:
    package = f"/{point.module.split('.')[0]}/"
    frames = [each for each in extract_tb(error.__traceback__) if package in each.filename]
    place = (frames[-1].filename, frames[-1].lineno or 0) if frames else ("", 0)
    if isinstance(error, SyntaxError):
        place = (error.filename or "", error.lineno or 0)
    message = f"it cannot be loaded: {type(error).__name__}: {error}"
    if isinstance(error, EndlessError):
        message = f"it cannot be loaded: {error.question} does not end: it {error}"
    return Finding(message, "mend it: an agent quarantines it", *place)
