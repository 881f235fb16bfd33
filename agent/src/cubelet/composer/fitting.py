"""Finds how cubes run that the kernel does not take as they are wanted, or whose fault that is.

What is refused as one program may be taken as a program for each cube. What is refused in that way,
too, leads to a cube: by the verifier's log, by the program that was refused, or by composing a part
of the cubes. All of this compiles, and is asked again from the start while something is compiling:
so what was taken has to be in a cache then, and what was refused known.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from cubelet.composer.composition import Composition, default_chain
from cubelet.composer.errors import CompileError

T = TypeVar("T")


@dataclass(frozen=True)
class Fit(Generic[T]):
    """What was made of a ``composition``. ``refusal`` says why it is not in the wanted mode."""

    made: T
    composition: Composition
    refusal: CompileError | None = None


def fit(
    wanted: Composition,
    make: Callable[[Composition], T],
    verify: Callable[[Composition], object],
    refusal: CompileError | None = None,
) -> Fit[T]:
    """Make the composition as it is wanted or, if it is refused so, tail-called.

    ``make`` and ``verify`` raise CompileError, and may raise others. ``refusal`` is that of the
    wanted mode, if it is known. Raises the error of the cube at fault, if one is found; it is in no
    case left out here.
    """
    tries = [wanted]
    if wanted.mode != "tailcall":
        tries.append(replace(wanted, mode="tailcall"))
    errors = [refusal] if refusal else []
    for each in tries[len(errors) :]:
        try:
            return Fit(make(each), each, errors[0] if errors else None)
        except CompileError as error:
            errors.append(error)
            if not error.refused:
                break
    raise _blamed(tries[len(errors) - 1], verify, errors)


def _blamed(
    composition: Composition,
    verify: Callable[[Composition], object],
    errors: Sequence[CompileError],
) -> CompileError:
    """The error that names a cube, if one does, else with the cube that makes the difference.

    ``errors`` are of the modes that were tried, fused first if it was; the composition's is last.
    """
    last = errors[-1]
    if not last.final:
        return last
    for each in reversed(errors):
        if each.cube:
            return each
    kind = _culprit(composition, verify)
    text = "; fused: ".join(map(str, reversed(errors)))
    if kind:
        text = f"it cannot be composed with the other cubes, which can without it: {text}"
    return CompileError(kind, "", 0, text, last.log, refused=last.refused)


def _culprit(composition: Composition, verify: Callable[[Composition], object]) -> str:
    """The kind with which a composition is refused that is taken without it; '' if none is.

    Kinds join the core in an order, and all compositions from one on are refused: that one is
    found by halving.
    """
    kinds = _joining(composition)

    def taken(count: int) -> bool:
        try:
            verify(composition.only(kinds[:count]))
        except CompileError as error:
            if not error.final:
                raise
            return False
        return True

    if not taken(0):
        return ""
    most, least = 0, len(kinds)  # so many are taken, so many are not
    while least - most > 1:
        middle = (most + least) // 2
        if taken(middle):
            most = middle
        else:
            least = middle
    return kinds[most] if kinds else ""


def _joining(composition: Composition) -> Sequence[str]:
    """The kinds on the stacks: first those that a node needs, last what others have added.

    So of what is too much together, what is least needed is at fault.
    """
    built_in = default_chain().names()
    standing = {cube.kind: cube for cube in composition.cubes if not cube.core}
    return sorted(standing, key=lambda kind: (not standing[kind].essential, kind not in built_in))
