"""Checks the declarations of a cube's class and of its package."""

from __future__ import annotations

import typing
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import InvalidRequirement, Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from cubelet.check.findings import Finding
from cubelet.check.places import at
from cubelet.check.subject import Package
from cubelet.check.workbench import Workbench
from cubelet.cubes.discovery import CONTRACT, BadCubeError, check_cube, unmet_requirement
from cubelet_hooks.cube import PORT_CLASSES, Cube, Direction


def check(bench: Workbench) -> Iterator[Finding]:
    """Check kind, version, ABI, places and tables: all declarations that are not compiled."""
    cube = bench.cube
    try:
        check_cube(cube, bench.others)
    except BadCubeError as error:
        yield at(cube, "kind", str(error), "an agent quarantines it until this is mended")
    yield from _package(bench)
    yield from _places(cube)
    yield from _tables(cube)
    yield from _callbacks(cube)


def _package(bench: Workbench) -> Iterator[Finding]:
    package, point = bench.subject.package, bench.subject.point
    if point.name != bench.cube.kind:
        message = f"the entry point is called {point.name}, the kind {bench.cube.kind}"
        remedy = f"call it {bench.cube.kind}: that is how its commands are found"
        yield _said(package, f"{point.name} =", message, remedy)
    try:
        Version(package.version)
    except InvalidVersion:
        message = f"{package.version!r} is no version"
        yield _said(package, "version =", message, "give [project] a version (PEP 440)")
    try:
        needs = [Requirement(each) for each in package.requires]
    except InvalidRequirement as error:
        message = f"a dependency cannot be read: {error}"
        yield _said(package, "dependencies", message, "mend it (PEP 508)")
        return
    ranges = [each for each in needs if canonicalize_name(each.name) == CONTRACT]
    if not any(each.specifier for each in ranges):
        message = f"no range of releases of {CONTRACT} is named among its dependencies"
        remedy = f'add such as "{CONTRACT}>=0.1,<0.2": else nobody knows what it was built for'
        yield _said(package, "dependencies", message, remedy)
    problem = unmet_requirement(package.name, map(str, ranges))
    if problem:
        remedy = "an agent of this release quarantines it"
        yield _said(package, CONTRACT, problem, remedy)


def _said(package: Package, text: str, message: str, remedy: str) -> Finding:
    """A finding about the package, at the first line of its file that contains ``text``."""
    file = Path(package.file)
    lines = file.read_text().splitlines() if file.is_file() else []
    found = (number for number, line in enumerate(lines, 1) if text in line)
    return Finding(message, remedy, package.file, next(found, 0))


def _places(cube: type[Cube]) -> Iterator[Finding]:
    sees = cube.places()
    if not sees:
        remedy = "name port classes in Cube.inward, Cube.outward or Cube.per_packet"
        yield at(cube, "inward", "it sees no packets of any port class", remedy)
    if cube.core and cube.placement:
        remedy = "leave Cube.placement out: the chain names the core's cubes"
        yield at(cube, "placement", "a core cube has no place on a stack", remedy)
    for place in cube.placement:
        where = f"placement on {place.port_class}"
        if place.port_class not in PORT_CLASSES:
            message = f"{where}: that is no port class"
            yield at(cube, "placement", message, f"name one of {', '.join(PORT_CLASSES)}")
        elif place.port_class not in sees:
            message = f"{where}: it has nothing to do there"
            yield at(cube, "placement", message, "declare the class, or leave the place out")
        if place.direction not in typing.get_args(Direction):
            known = ", ".join(typing.get_args(Direction))
            message = f"{where}: {place.direction!r} is no direction"
            yield at(cube, "placement", message, f"name one of {known}")
        elif place.direction != "both" and place.port_class not in getattr(cube, place.direction):
            message = f"{where}: only {place.direction}, where it sees nothing of that class"
            yield at(cube, "placement", message, f"add the class to Cube.{place.direction}")


def _tables(cube: type[Cube]) -> Iterator[Finding]:
    known = {declared.name for declared in cube.maps}
    if len(known) < len(cube.maps):
        yield at(cube, "maps", "two maps have one name", "rename one of them")
    for noun, name in cube.shows.items():
        if name not in known:
            message = f"shows {noun!r} of the map {name!r}, which is not declared"
            yield at(cube, "shows", message, f"name one of {', '.join(sorted(known)) or 'none'}")


def _callbacks(cube: type[Cube]) -> Iterator[Finding]:
    """Those that are never called, and those that are called and not there."""
    for name, attribute, remedy in (
        ("on_event", "event", "say by Cube.event which record the C sends"),
        ("on_packet", "punts", "set Cube.punts"),
        ("on_tick", "every", "say in Cube.every after how many seconds, or by which setting"),
        ("on_ended", "ended", "say in Cube.ended how many a second, or by which setting"),
        ("on_gone", "gone", "name in Cube.gone the kinds of objects"),
    ):
        wanted = bool(getattr(cube, attribute))
        defined = getattr(cube, name) is not getattr(Cube, name)
        if defined and not wanted:
            yield at(cube, name, f"{name} is never called: {attribute} is not set", remedy)
        if wanted and not defined:
            message = f"{attribute} is set, but there is no {name}"
            yield at(cube, attribute, message, f"define {name}, or leave Cube.{attribute} out")
