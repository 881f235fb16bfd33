"""Inserts further cubes into a chain, or explains why their places contradict each other."""

from __future__ import annotations

import heapq
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from cubelet.composer.composition import Chain, CompositionError
from cubelet_hooks.cube import PORT_CLASSES, Direction, Placement

_OUTERMOST = -1.0


@dataclass(frozen=True)
class Insertion:
    """An instance that joins one port class's stack at a place; ``origin`` names who asks for it.

    A place that the cube itself declares (not ``strict``) may name cubes that are not there.
    """

    instance: str
    place: Placement
    origin: str
    strict: bool = True


@dataclass(frozen=True)
class _Rule:
    """``first`` must stand nearer to the port than ``then``; the rule comes from ``origin``."""

    first: str
    then: str
    reason: str

    def __str__(self) -> str:
        return f"{self.first} before {self.then} ({self.reason})"


def insert(chain: Chain, insertions: Sequence[Insertion]) -> Chain:
    """The chain with these cubes in it. "Before" is nearer to the port, as stacks are listed.

    Without a ``before`` or an ``after`` a cube stands outermost, next to the port; else as near as
    it can to the cubes it names. Cubes with equal wishes keep the order in which they are given.
    Raises CompositionError for places that contradict each other, with the circle of rules, and
    for named cubes that are not there.
    """
    stacks = {name: tuple(chain.stacks.get(name, ())) for name in PORT_CLASSES}
    directions: dict[str, dict[str, Direction]] = {
        name: dict(chain.directions.get(name, {})) for name in PORT_CLASSES
    }
    for name in PORT_CLASSES:
        joining = [each for each in insertions if each.place.port_class == name]
        if not joining:
            continue
        _refuse_twice(name, stacks[name], joining)
        stacks[name] = _ordered(name, stacks[name], joining)
        for each in joining:
            if each.place.direction != "both":
                directions[name][each.instance] = each.place.direction
    used = {name: found for name, found in directions.items() if found}
    return Chain(core=chain.core, stacks=stacks, directions=used)


def _refuse_twice(name: str, stack: Sequence[str], joining: Sequence[Insertion]) -> None:
    there = set(stack)
    for each in joining:
        if each.instance in there:
            raise CompositionError(
                f"{each.origin}: {each.instance} stands on {name} already; "
                "remedy: give the second one a name of its own"
            )
        there.add(each.instance)


def _ordered(name: str, stack: Sequence[str], joining: Sequence[Insertion]) -> tuple[str, ...]:
    """All cubes of a stack in an order that keeps every rule, including the chain's own order."""
    nodes = [*stack, *(each.instance for each in joining)]
    rules = [_Rule(a, b, "the chain") for a, b in pairwise(stack)]
    for each in joining:
        rules += _rules(name, each, nodes)
    wishes = _wishes(stack, joining)
    waiting = {node: sum(rule.then == node for rule in rules) for node in nodes}
    ready = [(wishes[node], i, node) for i, node in enumerate(nodes) if not waiting[node]]
    heapq.heapify(ready)
    order: list[str] = []
    while ready:
        _, _, node = heapq.heappop(ready)
        order.append(node)
        for rule in rules:
            if rule.first == node:
                waiting[rule.then] -= 1
                if not waiting[rule.then]:
                    heapq.heappush(ready, (wishes[rule.then], nodes.index(rule.then), rule.then))
    if len(order) < len(nodes):
        circle = _circle([r for r in rules if r.first not in order and r.then not in order])
        raise CompositionError(f"{name}: no order is possible: " + ", ".join(map(str, circle)))
    return tuple(order)


def _rules(name: str, each: Insertion, nodes: Sequence[str]) -> Iterable[_Rule]:
    for other in (*each.place.before, *each.place.after):
        found = _named(other, nodes)
        if found == each.instance:
            raise CompositionError(f"{each.origin}: {other} cannot stand before or after itself")
        if found is None and each.strict:
            known = ", ".join(nodes)
            raise CompositionError(
                f"{each.origin}: {other} is not on the stack of {name}, which has {known}"
            )
        if found is not None and other in each.place.before:
            yield _Rule(each.instance, found, each.origin)
        if found is not None and other in each.place.after:
            yield _Rule(found, each.instance, each.origin)


def _named(text: str, nodes: Sequence[str]) -> str | None:
    """An instance by its name; a kind stands for its first instance."""
    return next((node for node in (text, f"{text}0") if node in nodes), None)


def _wishes(stack: Sequence[str], joining: Sequence[Insertion]) -> Mapping[str, float]:
    """Each cube's wished position: just before or after the cubes it names, else outermost."""
    wishes = {node: float(i) for i, node in enumerate(stack)}
    nodes = [*stack, *(each.instance for each in joining)]
    for each in joining:
        before = [_named(other, nodes) for other in each.place.before]
        after = [_named(other, nodes) for other in each.place.after]
        near = [wishes[n] - 0.5 for n in before if n in wishes]
        near += [wishes[n] + 0.5 for n in after if n in wishes]
        wishes[each.instance] = near[0] if near else _OUTERMOST
    return wishes


def _circle(rules: Sequence[_Rule]) -> list[_Rule]:
    """Rules that lead from a cube back to itself; the caller knows that there is such a circle."""
    path = [rules[0]]
    while True:
        following = next(rule for rule in rules if rule.first == path[-1].then)
        for i, rule in enumerate(path):
            if rule.first == following.first:
                return path[i:]
        path.append(following)
