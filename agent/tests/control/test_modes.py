"""What this kernel's verifier really refuses: what becomes of a node that starts, or that runs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from cubelet.bpf.fs import BPFFS
from cubelet.composer.compiler import Compiled, compile_source, find_compiled, source_identity
from cubelet.composer.errors import CompileError
from cubelet.composer.source import Source
from cubelet.config.node import Settings
from cubelet.testkit.network import build_network, private_network

from ..helpers import tint
from .test_reconciler import NODE, Agent, Compiler, pod, service, serving, setup

LARGE = '__u32 i; for (i = 0; i < 50000; i++) asm volatile("" : "+r"(i)); ' + tint.FINE
"""Some 200,000 verified instructions in a program of its own; fused, many paths lead through it."""
BOUNDLESS = LARGE.replace("50000", "400000")
"""More than a million: in no program."""


@dataclass
class Anonymous(Compiler):
    """Names nobody, as where the verifier's log has neither files nor text; counts its jobs."""

    jobs: list[str] = field(default_factory=list)
    only_cached: bool = False

    def __call__(self, source: Source, cache: Path) -> Compiled:
        identity = source_identity(source)
        if find_compiled(source, cache, identity) is None:
            assert not self.only_cached, "nothing may be compiled"
            self.jobs.append("fused" if not source.owners else "tailcall")
        try:
            return compile_source(source, cache)
        except CompileError as error:
            if not error.refused:
                raise
            nobody = CompileError("", "", 0, error.message, error.log, refused=True)
            nobody.identity = identity
            raise nobody from error


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Agent]:
    """A node that has an uplink and two pods' devices, and nothing of ours."""
    bpffs = BPFFS / f"cubelet-test-modes-{os.getpid()}"
    settings = Settings(
        node_name="node1",
        bpffs=bpffs,
        cache_dir=tmp_path / "cache",
        state_dir=tmp_path,
        cni_bin=None,
        cni_conf=None,
        linger_seconds=0,
    )
    with private_network():
        made = Agent(settings, build_network(6), tmp_path / "tint.bpf.c", compiler=Anonymous())
        try:
            yield made
        finally:
            made.end()
            shutil.rmtree(bpffs, ignore_errors=True)


def mode(agent: Agent) -> str:
    composition = agent.reconciler.switchover.composition
    return composition.mode if composition else ""


def told(agent: Agent) -> str:
    return agent.reconciler.switchover.modes.problem


def jobs(agent: Agent) -> list[str]:
    """What was compiled since this was asked last, refused or not."""
    assert isinstance(agent.compiler, Anonymous)
    found, agent.compiler.jobs = agent.compiler.jobs, []
    return found


def test_what_is_too_large_fused_is_tail_called_and_again_fused_when_it_fits(agent: Agent) -> None:
    assert agent.run(NODE, service("a", 1), pod(agent, "a")) == {}
    assert (mode(agent), told(agent), jobs(agent)) == ("fused", "", ["fused"])
    tint.write(agent.source, LARGE)
    assert agent.run(service("b", 2, "203.0.113.1"), pod(agent, "b")) == {}
    assert (mode(agent), jobs(agent)) == ("tailcall", ["fused", "tailcall"])
    assert "program cubelet_slow is refused by the verifier: BPF program is too large" in told(
        agent
    )
    assert "remedy" in told(agent)
    assert agent.ports == {1, 2}
    assert {"pod0", "pod1"} <= set(agent.attached)
    names = {program.info().name for program in agent.reconciler.datapath.programs.others.values()}  # type: ignore[union-attr]
    assert "cubelet_finishe" in names, "the kernel has the chain's programs"
    # Constants are no reason to try it fused again; a proposed setup is.
    assert agent.run(service("c", 3, "203.0.113.2")) == {}
    assert (mode(agent), jobs(agent)) == ("tailcall", ["tailcall"])
    tint.write(agent.source, tint.FINE)
    agent.reconciler.propose(setup(agent.settings))
    assert agent.run() == {}
    assert (mode(agent), told(agent), jobs(agent)) == ("fused", "", ["fused"])
    assert agent.ports == {1, 2, 3}


def test_a_new_node_is_served_tail_called_and_starts_again_without_a_compiler(
    agent: Agent,
) -> None:
    tint.write(agent.source, LARGE)
    assert agent.run(NODE, service("a", 1), pod(agent, "a")) == {}
    assert (serving(agent), mode(agent)) == (True, "tailcall")
    assert agent.reconciler.blocker(pod(agent, "a")) == ""
    reason, identity = told(agent), agent.identity
    agent.close()
    compiler = Anonymous(only_cached=True)
    agent.successor = again = Agent(agent.settings, agent.network, agent.source, compiler=compiler)
    tint.write(again.source, LARGE)
    assert again.run(NODE, service("a", 1), pod(agent, "a")) == {}
    assert (serving(again), mode(again), again.identity) == (True, "tailcall", identity)
    assert "BPF program is too large" in told(again)
    assert told(again) == reason


def test_what_is_refused_in_both_ways_leaves_what_runs_and_the_cube_is_found(agent: Agent) -> None:
    agent.run(NODE, service("a", 1), pod(agent, "a"))
    before = agent.identity
    tint.write(agent.source, BOUNDLESS)
    problems = agent.run(service("b", 2, "203.0.113.1"))
    assert agent.identity == before
    assert (agent.ports, mode(agent), told(agent)) == ({1, 2}, "fused", "")
    assert problems.keys() == {"composition"}
    assert "cube tint: it cannot be composed with the other cubes" in problems["composition"]
    assert "BPF program is too large" in problems["composition"]
    assert agent.reconciler.switchover.faults.keys() == {"tint"}
    assert jobs(agent)[1:] == ["fused", "tailcall", "tailcall"], "the last one without the cube"
    agent.run(service("c", 3))
    assert jobs(agent) == [], "what was refused is not tried again and again"


@pytest.mark.parametrize("essential", [False, True])
def test_a_new_node_finds_the_cube_and_does_not_start_without_an_essential_one(
    agent: Agent, essential: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tint.Tint, "essential", essential)
    tint.write(agent.source, tint.TOUCHY)
    problems = agent.run(NODE, service("a", 1), pod(agent, "a"))
    assert "cube tint: it cannot be composed with the other cubes" in problems["composition"]
    switchover = agent.reconciler.switchover
    found, others = switchover.faults, switchover.suspects
    if essential:
        found, others = others, found
    assert (set(found), others) == ({"tint"}, {})
    assert (serving(agent), agent.identity) == (False, "")
    assert not (agent.settings.bpffs / "links").exists()
