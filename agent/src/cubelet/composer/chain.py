"""Composing by tail calls: the order of the programs, and each one's slot in the jump table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from cubelet.composer.composition import Composition
from cubelet_hooks.cube import PORT_CLASSES, Cube

FIRST_SLOT = 8
FINISH_SLOT = 4
_LinkKind = Literal["INWARD", "CORE", "CORE_OUTWARD", "OUTWARD"]


@dataclass(frozen=True)
class Link:
    """One program of the chain; ``next_slot`` 0 means that its part of the chain ends with it."""

    name: str
    slot: int
    cube: Cube
    function: str
    kind: _LinkKind
    next_slot: int


class _Chain:
    def __init__(self) -> None:
        self.links: list[Link] = []

    def add(self, part: str, kind: _LinkKind, cubes: list[Cube], after: int) -> int:
        """Append a part whose last link leads to ``after``; returns the slot it begins with."""
        direction = "outward" if kind.endswith("OUTWARD") else "inward"
        first = FIRST_SLOT + len(self.links)
        for i, cube in enumerate(cubes):
            slot = first + i
            self.links.append(
                Link(
                    f"cubelet_{part}_{cube.instance}",
                    slot,
                    cube,
                    f"{cube.instance}_{direction}",
                    kind,
                    slot + 1 if i + 1 < len(cubes) else after,
                )
            )
        return first if cubes else after


def _build(composition: Composition) -> tuple[list[Link], dict[str, int]]:
    chain, slots = _Chain(), {}
    inward = [stage.cube for stage in composition.core_stages("inward")]
    begin = chain.add("core", "CORE", inward, 0)
    for name in PORT_CLASSES:
        first = next((i for i, cube in enumerate(inward) if name in cube.inward), None)
        core = FINISH_SLOT if first is None else begin + first
        slots[f"CORE_{name.upper()}"] = core
        slots[f"INWARD_{name.upper()}"] = chain.add(
            f"{name}_in", "INWARD", composition.inward(name), core
        )
        slots[f"OUTWARD_{name.upper()}"] = chain.add(
            f"{name}_out", "OUTWARD", composition.outward(name), FINISH_SLOT
        )
    outward = [stage.cube for stage in composition.core_stages("outward")]
    slots["CORE_OUTWARD_FIRST"] = chain.add("core_out", "CORE_OUTWARD", outward, 0)
    return chain.links, slots


def chain_links(composition: Composition) -> list[Link]:
    """Every program of the chain."""
    return _build(composition)[0]


def chain_slots(composition: Composition) -> list[str]:
    """The C constants with the first slot of each part of the chain."""
    slots = _build(composition)[1]
    return [f"#define CUBELET_{name} {slot}" for name, slot in slots.items()]


def chain_programs(composition: Composition) -> list[str]:
    """The C programs of the links, a line each."""
    numbers = {cube.instance: i + 1 for i, cube in enumerate(composition.cubes)}
    return [
        f"int {link.name}(struct __sk_buff *skb) {{ return cubelet_chain_link(skb, "
        f"{numbers[link.cube.instance]}, {link.function}, CUBELET_LINK_{link.kind}, "
        f"{link.next_slot}); }}"
        for link in chain_links(composition)
    ]
