"""What is composed: stacks and core, instances and settings. Data, validated as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any, Literal

import msgspec
import yaml

from cubelet_hooks.cube import PORT_CLASSES, Cube, Settings

Mode = Literal["fused", "tailcall"]


class CompositionError(Exception):
    """The composition cannot be made; the text names the cube and the remedy."""


class Chain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which kinds stand where: the core, and per port class a stack from the port inward."""

    core: tuple[str, ...]
    stacks: Mapping[str, tuple[str, ...]]

    def __post_init__(self) -> None:
        """Refuse stacks on what is no port class: they would silently stand nowhere."""
        unknown = sorted(set(self.stacks) - set(PORT_CLASSES))
        if unknown:
            known = ", ".join(PORT_CLASSES)
            raise ValueError(f"stacks: {', '.join(unknown)} is none of {known}")

    def kinds(self) -> tuple[str, ...]:
        """Every kind once, in the order of first mention."""
        stacked = [kind for name in PORT_CLASSES for kind in self.stacks.get(name, ())]
        return tuple(dict.fromkeys((*stacked, *self.core)))


@dataclass(frozen=True)
class Stage:
    """A cube's function in the chain. ``classes`` are the port classes whose packets it sees."""

    cube: Cube
    direction: Literal["inward", "outward", "packet"]
    classes: tuple[str, ...]

    @property
    def function(self) -> str:
        """The C function's name."""
        return f"{self.cube.instance}_{self.direction}"


@dataclass(frozen=True)
class Composition:
    """A validated chain of cube instances."""

    mode: Mode
    cubes: tuple[Cube, ...]
    core: tuple[Cube, ...]
    stacks: Mapping[str, tuple[Cube, ...]]

    def inward(self, port_class: str) -> list[Cube]:
        """The stack's cubes that see packets entering by the class, in order."""
        return [c for c in self.stacks.get(port_class, ()) if port_class in c.inward]

    def outward(self, port_class: str) -> list[Cube]:
        """The stack's cubes that see packets leaving by the class, in order."""
        return [c for c in reversed(self.stacks.get(port_class, ())) if port_class in c.outward]

    def stack_stages(self, direction: Literal["inward", "outward"]) -> list[Stage]:
        """All classes' stacks merged into one order, each cube once where the orders allow it."""
        select = self.inward if direction == "inward" else self.outward
        pending = {name: select(name) for name in PORT_CLASSES}
        return [Stage(cube, direction, classes) for cube, classes in _merge(pending)]

    def packet_stages(self) -> list[Stage]:
        """The cubes that see every packet, with the classes on whose stacks they stand."""
        stages = []
        for cube in self.cubes:
            stands = [n for n in PORT_CLASSES if cube.core or cube in self.stacks.get(n, ())]
            classes = tuple(name for name in stands if name in cube.per_packet)
            if classes:
                stages.append(Stage(cube, "packet", classes))
        return stages

    def core_stages(self, direction: Literal["inward", "outward"]) -> list[Stage]:
        """The core's functions in order; outward in reverse."""
        ordered = self.core if direction == "inward" else tuple(reversed(self.core))
        stages = []
        for cube in ordered:
            declared = cube.inward if direction == "inward" else cube.outward
            classes = tuple(name for name in PORT_CLASSES if name in declared)
            if classes:
                stages.append(Stage(cube, direction, classes))
        return stages


def _merge(pending: dict[str, list[Cube]]) -> Iterable[tuple[Cube, tuple[str, ...]]]:
    """Merge sequences: take a head that stands in no other's tail; else the first head."""
    while any(pending.values()):
        heads = [cubes[0] for cubes in pending.values() if cubes]
        tails = [cube for cubes in pending.values() for cube in cubes[1:]]
        free = [head for head in heads if head not in tails]
        chosen = (free or heads)[0]
        classes = tuple(name for name, cubes in pending.items() if cubes[:1] == [chosen])
        for name in classes:
            pending[name].pop(0)
        yield chosen, classes


def default_chain() -> Chain:
    """The chain that ships with cubelet."""
    text = resources.files("cubelet.composer").joinpath("default.yaml").read_text()
    return msgspec.convert(yaml.safe_load(text), Chain)


def compose(
    chain: Chain,
    found: Mapping[str, type[Cube]],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    mode: Mode = "fused",
    optional: Iterable[str] = (),
) -> Composition:
    """Instantiate a chain. Kinds in ``optional`` are left out when their package is missing.

    Raises CompositionError for a missing cube, an unmet requirement, a misplaced cube, or bad
    settings, naming each.
    """
    missing = [kind for kind in chain.kinds() if kind not in found]
    needed = [kind for kind in missing if kind not in set(optional)]
    if needed:
        raise CompositionError(_missing_text(needed))
    present = [kind for kind in chain.kinds() if kind in found]
    for kind in present:
        absent = [other for other in found[kind].requires if other not in present]
        if absent:
            raise CompositionError(f"{kind} needs {', '.join(absent)}; {_missing_text(absent)}")
    cubes = {kind: _instance(found[kind], (settings or {}).get(kind, {})) for kind in present}
    stacks = {
        name: tuple(cubes[kind] for kind in chain.stacks.get(name, ()) if kind in cubes)
        for name in PORT_CLASSES
    }
    core = tuple(cubes[kind] for kind in chain.core if kind in cubes)
    _check_places(core, stacks)
    return Composition(mode, tuple(cubes.values()), core, stacks)


def _missing_text(kinds: Sequence[str]) -> str:
    packages = " ".join(f"cubelet-{kind}" for kind in kinds)
    return f"no working cube for {', '.join(kinds)}; remedy: pip install {packages}"


def _instance(cube_type: type[Cube], values: Mapping[str, Any]) -> Cube:
    try:
        settings: Settings = msgspec.convert(dict(values), cube_type.settings_type)
        return cube_type(f"{cube_type.kind}0", settings)
    except (msgspec.ValidationError, ValueError) as error:
        raise CompositionError(f"settings of {cube_type.kind}: {error}") from error


def _check_places(core: Sequence[Cube], stacks: Mapping[str, Sequence[Cube]]) -> None:
    if not core:
        raise CompositionError("the core is empty: nothing would forward packets")
    for cube in core:
        if not cube.core:
            raise CompositionError(f"{cube.kind} stands in the core but is not a core cube")
    for name, cubes in stacks.items():
        for cube in cubes:
            if cube.core:
                raise CompositionError(f"{cube.kind} is a core cube and cannot stand on {name}")
            if name not in cube.inward | cube.outward | cube.per_packet:
                raise CompositionError(f"{cube.kind} has nothing to do on port class {name}")
