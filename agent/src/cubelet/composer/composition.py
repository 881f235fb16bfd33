"""A composition as data: stacks and core, instances and settings, validated as a whole."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from typing import Any, Literal

import msgspec
import yaml

from cubelet.composer.provided import check_provided
from cubelet.composer.reasons import allot
from cubelet.composer.slots import Slots, allot_slots
from cubelet_hooks.cube import PORT_CLASSES, UPLINK_EGRESS, Cube, Direction, Settings
from cubelet_hooks.records import Family
from cubelet_hooks.view import View

Mode = Literal["fused", "tailcall"]
NEEDED = (*PORT_CLASSES, UPLINK_EGRESS)
"""What a cube can be needed on."""
_ERROR = 300
"""Letters of a cube's error that are told."""


class CompositionError(Exception):
    """The composition cannot be made; the text names the cube and the remedy.

    ``kind`` is that of the cube at fault, '' if no single one is.
    """

    def __init__(self, message: str, kind: str = "") -> None:
        super().__init__(message)
        self.kind = kind


class Chain(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The places of the cubes: the core, and per port class a stack from the port inward.

    Each is named by its kind, or by an instance of it such as ``policer1``. ``directions`` holds,
    by port class, the instances that stand there for one direction only.
    """

    core: tuple[str, ...]
    stacks: Mapping[str, tuple[str, ...]]
    directions: Mapping[str, Mapping[str, Direction]] = {}

    def __post_init__(self) -> None:
        """Refuse stacks on unknown port classes, whose cubes would silently see nothing."""
        unknown = sorted({*self.stacks, *self.directions} - set(PORT_CLASSES))
        if unknown:
            known = ", ".join(PORT_CLASSES)
            raise ValueError(f"stacks: {', '.join(unknown)} is none of {known}")

    def names(self) -> tuple[str, ...]:
        """Every cube once, in the order of first mention."""
        stacked = [name for each in PORT_CLASSES for name in self.stacks.get(each, ())]
        return tuple(dict.fromkeys((*stacked, *self.core)))


@dataclass(frozen=True)
class Stage:
    """A cube's function in the chain. ``classes`` are the port classes whose packets it sees."""

    cube: Cube
    direction: Literal["inward", "outward", "packet", "early"]
    classes: tuple[str, ...]

    @property
    def function(self) -> str:
        """The C function's name."""
        return f"{self.cube.instance}_{self.direction}"


class Facts(msgspec.Struct, frozen=True):
    """The values from the cluster's objects that are compiled in, by instance.

    ``defines`` are constants; ``needed`` the port classes on which a cube of a stack has
    something to do, and the uplink's egress if it asks for that; ``versions`` hash the sources and
    settings that the constants go with.
    """

    defines: Mapping[str, Mapping[str, int]] = {}
    needed: Mapping[str, tuple[str, ...]] = {}
    versions: Mapping[str, str] = {}

    def joined(self, earlier: Facts) -> Facts:
        """These facts, with the needed classes and the constants of ``earlier`` added.

        Constants of ``earlier`` win if they belong to the same sources and settings, else ours do.
        """
        needed = {
            name: tuple(
                each for each in NEEDED if each in classes or each in earlier.needed.get(name, ())
            )
            for name, classes in self.needed.items()
        }
        defines = {
            name: {**values, **earlier.defines.get(name, {})}
            if self.versions.get(name) == earlier.versions.get(name)
            else values
            for name, values in self.defines.items()
        }
        return Facts(defines, needed, self.versions)


@dataclass(frozen=True)
class Composition:
    """A validated chain of cube instances, with the ``facts`` that are compiled in.

    ``reasons`` gives each kind the place of its drop reasons, ``slots`` each instance the place of
    its flow fields.
    """

    mode: Mode
    cubes: tuple[Cube, ...]
    core: tuple[Cube, ...]
    stacks: Mapping[str, tuple[Cube, ...]]
    directions: Mapping[str, Mapping[str, Direction]] = field(default_factory=dict)
    reasons: Mapping[str, int] = field(default_factory=dict)
    facts: Facts = field(default_factory=Facts)
    slots: Slots = field(default_factory=Slots)

    def facts_of(
        self,
        view: View,
        before: Facts | None = None,
        changed: Collection[str] | None = None,
        failures: dict[str, str] | None = None,
    ) -> Facts:
        """The facts to compile in for this view of the cluster.

        Given the facts of ``before``, only cubes that look at the ``changed`` kinds are asked
        again (None: all). One whose ``defines`` or ``needed_on`` fails keeps those of before, and
        is in ``failures``, by kind: some object that the cube did not expect must not take it out.
        Raises CompositionError, naming the cube, if there are none of its present C and settings.
        """
        before, failures = before or Facts(), {} if failures is None else failures
        versions = before.versions
        if changed is None:
            versions = {cube.instance: _version(cube) for cube in self.cubes}
        defines: dict[str, Mapping[str, int]] = {}
        needed: dict[str, tuple[str, ...]] = {}
        for cube in self.cubes:
            name, kinds = cube.instance, cube.specialised_by
            if changed is None or kinds is None or not kinds.isdisjoint(changed):
                try:
                    defines[name] = dict(cube.defines(view))
                    wanted = frozenset(cube.needed_on(view))
                    needed[name] = tuple(each for each in NEEDED if each in wanted)
                    failures.pop(cube.kind, None)
                    continue
                except Exception as error:
                    text = f"cube {cube.kind}: {error!r}"[:_ERROR]
                    if before.versions.get(name) != versions[name]:
                        raise CompositionError(text, cube.kind) from error
                    failures[cube.kind] = text
            defines[name], needed[name] = before.defines[name], before.needed.get(name, ())
        for cube in self.core:
            del needed[cube.instance]
        return Facts(defines, needed, versions)

    def specialised(self, facts: Facts) -> Composition:
        """The composition without the cubes that have nothing to do, and with the facts.

        A cube that the facts do not mention keeps its places.
        """
        stacks = {
            name: tuple(
                cube for cube in cubes if name in facts.needed.get(cube.instance, PORT_CLASSES)
            )
            for name, cubes in self.stacks.items()
        }
        return self._of(stacks, facts)

    def only(self, kinds: Collection[str]) -> Composition:
        """The composition with no cubes on its stacks but those of these kinds."""
        stacks = {
            name: tuple(cube for cube in cubes if cube.kind in kinds)
            for name, cubes in self.stacks.items()
        }
        return self._of(stacks, self.facts)

    def _of(self, stacks: Mapping[str, tuple[Cube, ...]], facts: Facts) -> Composition:
        standing = {id(cube) for cubes in (self.core, *stacks.values()) for cube in cubes}
        cubes = tuple(cube for cube in self.cubes if id(cube) in standing)
        return replace(self, cubes=cubes, stacks=stacks, facts=facts)

    @property
    def uplink_egress(self) -> bool:
        """Whether some cube asks for what the host sends out by the uplink to be looked up."""
        needed = self.facts.needed
        return any(UPLINK_EGRESS in needed.get(cube.instance, ()) for cube in self.cubes)

    def inward(self, port_class: str) -> list[Cube]:
        """The stack's cubes that see packets entering by the class, in order."""
        return self._seeing(port_class, "inward")

    def outward(self, port_class: str) -> list[Cube]:
        """The stack's cubes that see packets leaving by the class, in order."""
        return self._seeing(port_class, "outward")[::-1]

    def _seeing(self, port_class: str, direction: Literal["inward", "outward"]) -> list[Cube]:
        only = self.directions.get(port_class, {})
        return [
            cube
            for cube in self.stacks.get(port_class, ())
            if port_class in getattr(cube, direction)
            and only.get(cube.instance, "both") in ("both", direction)
        ]

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

    def early_stages(self) -> list[Stage]:
        """The cubes that see every packet from the uplink before anything else does, in order."""
        return [
            Stage(cube, "early", ("uplink",))
            for cube in self.stacks.get("uplink", ())
            if cube.early
        ]

    def policing(self) -> list[Cube]:
        """The cubes by which policies are in force on the pods' segment: those that admit."""
        return [cube for cube in self.stacks.get("pod", ()) if cube.admits]

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


def kind_of(name: str, found: Mapping[str, object]) -> str:
    """The kind that a cube's name in a chain stands for: itself, or that of ``policer1``."""
    return name if name in found else name.rstrip("0123456789") or name


def instance_of(name: str, found: Mapping[str, object]) -> str:
    """The instance that a name in a chain stands for: a kind stands for its first instance."""
    return f"{name}0" if kind_of(name, found) == name else name


def compose(
    chain: Chain,
    found: Mapping[str, type[Cube]],
    settings: Mapping[str, Mapping[str, Any]] | None = None,
    mode: Mode = "fused",
    optional: Iterable[str] = (),
    reasons: Mapping[str, int] | None = None,
    slots: Slots | None = None,
    family: Family = 4,
) -> Composition:
    """Instantiate a chain for one family. Kinds in ``optional`` may have no package: left out.

    ``settings`` are by kind or by instance; an instance's own win over its kind's. ``reasons`` are
    the known places of kinds' drop reasons, ``slots`` those of instances' flow fields.
    Raises CompositionError for a missing cube, an unmet requirement, a misplaced cube, flow fields
    without room, or bad settings, naming each.
    """
    names = {name: kind_of(name, found) for name in chain.names()}
    missing = [kind for kind in dict.fromkeys(names.values()) if kind not in found]
    needed = [kind for kind in missing if kind not in set(optional)]
    if needed:
        raise CompositionError(_missing_text(needed))
    present = {name: found[kind] for name, kind in names.items() if kind in found}
    kinds = {cube.kind for cube in present.values()}
    for cube in present.values():
        absent = [other for other in cube.requires if other not in kinds]
        if absent:
            raise CompositionError(
                f"{cube.kind} needs {', '.join(absent)}; {_missing_text(absent)}"
            )
    cubes: dict[str, Cube] = {}
    by_instance: dict[str, Cube] = {}
    for name, cube_type in present.items():
        instance = instance_of(name, found)
        if instance not in by_instance:
            by_instance[instance] = _instance(cube_type, instance, settings or {}, family)
        cubes[name] = by_instance[instance]
    stacks = {
        name: tuple(cubes[each] for each in chain.stacks.get(name, ()) if each in cubes)
        for name in PORT_CLASSES
    }
    core = tuple(cubes[name] for name in chain.core if name in cubes)
    _check_places(core, stacks)
    return Composition(
        mode,
        tuple(by_instance.values()),
        core,
        stacks,
        chain.directions,
        allot(kinds, reasons),
        slots=_slots(by_instance.values(), slots),
    )


def _slots(cubes: Iterable[Cube], known: Slots | None) -> Slots:
    try:
        return allot_slots(cubes, known or Slots())
    except ValueError as error:
        raise CompositionError(str(error)) from error


def _version(cube: Cube) -> str:
    """A hash of the C source and the settings that a cube's constants belong to."""
    source = cube.source()
    digest = hashlib.sha256(source.read_bytes() if source.is_file() else b"")
    digest.update(repr(cube.settings).encode())
    return digest.hexdigest()[:16]


def _missing_text(kinds: Sequence[str]) -> str:
    packages = " ".join(f"cubelet-{kind}" for kind in kinds)
    return f"no working cube for {', '.join(kinds)}; remedy: pip install {packages}"


def _instance(
    cube_type: type[Cube],
    instance: str,
    settings: Mapping[str, Mapping[str, Any]],
    family: Family,
) -> Cube:
    name = instance if instance in settings else cube_type.kind
    try:
        values: Settings = msgspec.convert(dict(settings.get(name, {})), cube_type.settings_type)
        cube = cube_type(instance, values, family)
    except (msgspec.ValidationError, ValueError) as error:
        raise CompositionError(f"settings of {name}: {error}", cube_type.kind) from error
    except Exception as error:  # the cube's code may raise anything
        raise CompositionError(f"cube {name} cannot be made: {error!r}", cube_type.kind) from error
    try:
        check_provided(cube)
    except ValueError as error:
        raise CompositionError(str(error)) from error
    return cube


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
            if name not in cube.places():
                raise CompositionError(f"{cube.kind} has nothing to do on port class {name}")
