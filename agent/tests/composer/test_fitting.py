"""What a kernel refuses in one program, in programs of each cube's own, or with one cube alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from cubelet.composer.composition import Chain, Composition, Facts, compose
from cubelet.composer.errors import CompileError
from cubelet.composer.fitting import fit
from cubelet.composer.refusals import Refusals
from cubelet.testkit.outlet import Outlet
from cubelet_hooks.cube import Cube

ESSENTIAL, BUILT_IN, OTHERS = "guard", ("nat",), ("a", "b", "c", "d")
"""Kinds on the pods' stack, listed so that those that are needed most do not come first."""


def composition(mode: Any = "fused") -> Composition:
    cubes: dict[str, type[Cube]] = {"outlet": Outlet}
    for name in (*OTHERS, *BUILT_IN, ESSENTIAL):

        class Made(Cube):
            kind = name
            essential = name == ESSENTIAL
            inward = frozenset({"pod"})

        cubes[name] = Made
    stack = (*OTHERS, *BUILT_IN, ESSENTIAL)
    return compose(Chain(("outlet",), {"pod": stack}), cubes, mode=mode).specialised(Facts())


@dataclass
class Kernel:
    """Refuses what ``refuses`` says of a mode and the kinds; ``names`` is whom its log leads to."""

    refuses: Callable[[str, set[str]], bool]
    names: str = ""
    passing: bool = False
    asked: list[tuple[str, int]] = field(default_factory=list)

    def __call__(self, each: Composition) -> str:
        kinds = {cube.kind for cube in each.cubes} - {"outlet"}
        self.asked.append((each.mode, len(kinds)))
        if self.passing:
            raise CompileError("", "", 0, "no memory", "", final=False)
        if self.refuses(each.mode, kinds):
            cube = self.names if self.names in kinds else ""
            raise CompileError(cube, "", 0, f"{each.mode} refused", "", refused=True)
        return f"{each.mode} of {len(kinds)}"


def fault(kernel: Kernel, mode: str = "fused") -> CompileError:
    with pytest.raises(CompileError) as caught:
        fit(composition(mode), kernel, kernel)
    return caught.value


def test_what_is_taken_is_made_as_it_is_wanted() -> None:
    for mode in ("fused", "tailcall"):
        kernel = Kernel(lambda *_: False)
        found = fit(composition(mode), kernel, kernel)
        assert (found.made, found.refusal, found.composition.mode) == (f"{mode} of 6", None, mode)
        assert kernel.asked == [(mode, 6)]


def test_what_is_refused_fused_is_tail_called() -> None:
    kernel = Kernel(lambda mode, _: mode == "fused")
    found = fit(composition(), kernel, kernel)
    assert (found.made, str(found.refusal)) == ("tailcall of 6", "fused refused")
    assert [cube.kind for cube in found.composition.cubes][-1] == "outlet"
    kernel.asked.clear()
    again = fit(composition(), kernel, kernel, found.refusal)
    assert (again.made, again.refusal) == ("tailcall of 6", found.refusal)
    assert kernel.asked == [("tailcall", 6)], "what is known to be refused is not tried"


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_who_is_named_is_at_fault(mode: str) -> None:
    kernel = Kernel(lambda _, kinds: "c" in kinds, names="c")
    error = fault(kernel, mode)
    assert (error.cube, len(kernel.asked)) == ("c", 2 if mode == "fused" else 1)


@pytest.mark.parametrize("kind", [*OTHERS, *BUILT_IN, ESSENTIAL])
@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_the_cube_that_makes_the_difference_is_found(kind: str, mode: str) -> None:
    kernel = Kernel(lambda _, kinds: kind in kinds)
    error = fault(kernel, mode)
    assert (error.cube, error.refused, error.final) == (kind, True, True)
    assert f"cube {kind}: it cannot be composed with the other cubes" in str(error)
    assert "tailcall refused" in str(error)
    assert len(kernel.asked) <= (2 if mode == "fused" else 1) + 4
    assert {each for each, count in kernel.asked if count < 6} == {"tailcall"}


def test_of_two_cubes_that_are_refused_one_is_found_and_then_the_other() -> None:
    kernel = Kernel(lambda _, kinds: bool({"b", "d"} & kinds))
    first = fault(kernel).cube
    rest = {"nat", "guard", *OTHERS} - {first}
    with pytest.raises(CompileError) as caught:
        fit(composition().only(rest), kernel, kernel)
    assert {first, caught.value.cube} == {"b", "d"}


def test_of_what_is_too_much_together_what_is_needed_least_is_at_fault() -> None:
    for most in range(1, 6):
        error = fault(Kernel(lambda _, kinds, most=most: len(kinds) > most))  # type: ignore[misc]
        assert error.cube not in (ESSENTIAL, *BUILT_IN) or most < 2, most
    assert fault(Kernel(lambda _, kinds: len(kinds) > 1)).cube == "nat"


def test_if_the_core_alone_is_refused_no_cube_is_at_fault() -> None:
    kernel = Kernel(lambda *_: True)
    error = fault(kernel)
    assert (error.cube, str(error)) == ("", "tailcall refused; fused: fused refused")
    assert kernel.asked == [("fused", 6), ("tailcall", 6), ("tailcall", 0)]


def test_what_may_pass_is_not_tried_in_another_way() -> None:
    kernel = Kernel(lambda *_: False, passing=True)
    assert not fault(kernel).final
    assert len(kernel.asked) == 1


@pytest.mark.parametrize("named", ["", "a"])
def test_what_is_wrong_in_the_c_is_tried_in_no_other_way_and_its_cube_is_found(named: str) -> None:
    tried: list[int] = []

    def misspelt(each: Composition) -> str:
        tried.append(len(each.cubes))
        if "a" in {cube.kind for cube in each.cubes}:
            raise CompileError(named, "send.h", 97, "too many arguments", "")
        return each.mode

    with pytest.raises(CompileError, match="too many arguments") as caught:
        fit(composition(), misspelt, misspelt)
    assert (caught.value.cube, caught.value.refused) == ("a", False)
    assert tried[0] == 7
    assert len(tried) == (1 if named else 5)


def test_a_fault_that_passes_while_the_culprit_is_sought_blames_nobody() -> None:
    kernel = Kernel(lambda *_: True)

    def forgetful(_: Composition) -> str:
        raise CompileError("", "", 0, "no memory", "", final=False)

    with pytest.raises(CompileError, match="no memory") as caught:
        fit(composition(), kernel, forgetful)
    assert not caught.value.final


def test_what_was_refused_is_not_compiled_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cubelet.composer.refusals.source_identity", lambda source: source)
    compiled: list[str] = []

    def compiler(source: Any, cache: Path) -> Any:
        compiled.append(source)
        if source == "good":
            return source
        error = CompileError("", "", 0, f"{source} it is", "", refused=source != "misspelt")
        error.identity = source
        raise error

    refusals: Any = Refusals(compiler, {"old": "it was so before"})
    for source in ("good", "large", "misspelt", "old") * 2:
        if source == "good":
            assert refusals(source, Path()) == "good"
        else:
            told = "it was so before" if source == "old" else f"{source} it is"
            with pytest.raises(CompileError, match=told) as caught:
                refusals(source, Path())
            assert caught.value.identity == source
    assert sorted(compiled) == ["good", "good", "large", "misspelt", "misspelt"]
    for number in range(64):
        with pytest.raises(CompileError):
            refusals(f"{number}", Path())
    compiled.clear()
    with pytest.raises(CompileError):
        refusals("large", Path())
    assert compiled == ["large"], "the oldest are forgotten"


def test_a_composition_of_a_part_keeps_its_core_and_facts() -> None:
    whole = replace(composition(), facts=Facts({"a0": {"X": 1}}))
    part = whole.only({"a", ESSENTIAL})
    assert [cube.kind for cube in part.cubes] == ["a", ESSENTIAL, "outlet"]
    assert [cube.kind for cube in part.stacks["pod"]] == ["a", ESSENTIAL]
    assert (part.core, part.facts) == (whole.core, whole.facts)
