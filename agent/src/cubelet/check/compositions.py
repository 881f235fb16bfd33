"""The compositions that a cube is tried in: only with cubes it requires, and the default stacks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import get_args

from cubelet.composer.composition import Composition, CompositionError, Mode
from cubelet.config.cluster import ClusterConfig, Insert
from cubelet.config.node import Settings, SettingsError
from cubelet.config.setup import make_setup
from cubelet.cubes.discovery import Discovery
from cubelet.testkit.outlet import Outlet
from cubelet_hooks.cube import PORT_CLASSES, Cube, Direction

MODES: tuple[Mode, ...] = get_args(Mode)
LINKS: Mode = "tailcall"
"""The mode in which a cube's functions are programs of their own."""


@dataclass(frozen=True)
class Wanted:
    """A composition to be made, with a name for people."""

    name: str
    mode: Mode
    core: tuple[type[Cube], ...]
    stacks: Mapping[str, tuple[type[Cube], ...]]
    directions: Mapping[str, Mapping[str, Direction]]


class NoDefaultError(Exception):
    """The default stacks cannot be made here; the text says why."""


def alone(cube: type[Cube], found: Mapping[str, type[Cube]]) -> Iterator[Wanted]:
    """The cube with only the cubes it requires, on every port class where it can stand.

    The core is :class:`Outlet`, unless the cube or one that it requires is a core cube. Raises
    NoDefaultError if a required cube is not installed.
    """
    cubes = (cube, *_required(cube, found))
    for mode in MODES:
        yield _of(cubes, mode, f"{mode}, alone")


def without(cube: type[Cube], found: Mapping[str, type[Cube]]) -> Wanted:
    """What :func:`alone` gives in the mode of links, without the cube itself."""
    return _of(_required(cube, found), LINKS, f"{LINKS}, without it")


def _of(cubes: Sequence[type[Cube]], mode: Mode, name: str) -> Wanted:
    """These cubes, each on every port class where it can stand."""
    core = tuple(each for each in cubes if each.core) or (Outlet,)
    stacks = {
        each: tuple(cube for cube in cubes if not cube.core and each in cube.places())
        for each in PORT_CLASSES
    }
    return Wanted(name, mode, core, stacks, {})


def _required(cube: type[Cube], found: Mapping[str, type[Cube]]) -> Sequence[type[Cube]]:
    kinds = list(cube.requires)
    for kind in kinds:  # the list grows by the kinds that required cubes require
        if kind not in found:
            raise NoDefaultError(f"it requires {kind}, which is not installed: pip install it")
        kinds += [each for each in found[kind].requires if each not in (*kinds, cube.kind)]
    return [found[kind] for kind in kinds]


def default(cube: type[Cube], discovery: Discovery) -> Iterator[Wanted]:
    """The default stacks with the cube in them: at its ``placement``, else wherever it can stand.

    Yields nothing for a core cube outside the default core. Raises NoDefaultError.
    """
    for mode in MODES:
        made = _composition(cube, discovery, mode)
        if cube.kind not in {each.kind for each in made.cubes}:
            return
        core = tuple(type(each) for each in made.core)
        stacks = {name: tuple(type(each) for each in cubes) for name, cubes in made.stacks.items()}
        yield Wanted(f"{mode}, default stacks", mode, core, stacks, made.directions)


def _composition(cube: type[Cube], discovery: Discovery, mode: Mode) -> Composition:
    known = replace(discovery, cubes={**discovery.cubes, cube.kind: cube})
    try:
        config = ClusterConfig(composition=mode)
        made = make_setup(Settings(), config, known).composition
        if cube.core or cube.kind in {each.kind for each in made.cubes}:
            return made
        ports = tuple(name for name in PORT_CLASSES if name in cube.places())
        config = ClusterConfig(composition=mode, insert=(Insert(cube=cube.kind, ports=ports),))
        return make_setup(Settings(), config, known).composition
    except (CompositionError, SettingsError, ValueError) as error:
        raise NoDefaultError(f"the default stacks: {error}") from error
