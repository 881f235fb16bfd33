"""No change makes the verifier go through more of a program than it has a budget for."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from bench import verified
from bench.__main__ import BENCHMARKS
from cubelet.testkit.network import TestNetwork, build_network, private_network


@pytest.fixture(scope="module")
def network() -> Iterator[TestNetwork]:
    with private_network():
        yield build_network()


@pytest.mark.parametrize("name", verified.COMPOSITIONS)
def test_every_program_is_within_its_budget(network: TestNetwork, name: str) -> None:
    counts = verified.count(name, network)
    assert {"cubelet_pod", "cubelet_slow", "cubelet_fragment"} <= counts.keys()
    assert all(counts.values()), "this kernel is older than 5.16 and counts nothing"
    assert verified.excesses(name, counts) == []


def test_what_is_beyond_its_budget_is_named_with_both_figures() -> None:
    budget = verified.budget("fused", "cubelet_slow")
    counts = {"cubelet_slow": budget, "cubelet_pod": verified.BUDGETS["fused"][verified.OTHERS]}
    assert verified.excesses("fused", counts) == []
    (text,) = verified.excesses("fused", {**counts, "cubelet_slow": budget + 1})
    assert f"cubelet_slow of the composition fused: {budget + 1:,} verified instructions" in text
    assert f"budget of {budget:,} (bench/verified.py)" in text


def test_budgets_are_for_what_is_composed_and_far_from_the_kernels_limit() -> None:
    assert verified.BUDGETS.keys() == verified.COMPOSITIONS.keys()
    for programs in verified.BUDGETS.values():
        assert max(programs.values()) < 0.6 * verified.LIMIT


def test_the_figures_are_a_benchmark(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verified, "COMPOSITIONS", {"fused": verified.COMPOSITIONS["fused"]})
    rows = {(row.case, row.variant): row.median for row in BENCHMARKS["verified"][0](6)}
    assert 0 < rows["cubelet_slow", "fused"] <= rows["cubelet_slow", "fused, budget"]
