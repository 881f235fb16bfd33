"""Waiting for agents: what ends it, and when."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cubelet.ipc.client import AgentBusyError, AgentUnreachableError
from cubelet.lab import agents, processes
from cubelet.lab import layout as layout_module
from cubelet.lab.errors import LabError
from cubelet.lab.layout import LabSpec, Layout, plan_nodes

SPEC = LabSpec("lab", plan_nodes(2, ()), {})
BROKEN = "bridge.bpf.c:12: error: use of undeclared identifier"

Answer = Callable[[float], Mapping[str, Any] | None]
"""What an agent answers at a time in seconds; None: nothing."""


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(layout_module, "RUN_ROOT", tmp_path)
    layout = Layout("lab")
    layout.manifests.mkdir(parents=True)
    log = layout.log("agent.node2")
    log.parent.mkdir()
    log.write_text("what the log says\n")
    return layout


@pytest.fixture
def wait(lab: Layout, monkeypatch: pytest.MonkeyPatch) -> Callable[[Answer], list[str]]:
    """Wait for two agents, the first ready at once; a second passes with each look at the clock."""

    def start(second: Answer) -> list[str]:
        seconds = itertools.count()
        now = [0.0]

        def clock() -> float:
            now[0] = float(next(seconds))
            return now[0]

        def call(path: str, *_: object) -> Any:
            answer = second(now[0]) if "node2" in path else {"ready": True, "problems": []}
            if answer is None:
                raise AgentUnreachableError(path, "not there yet")
            return answer

        time = SimpleNamespace(monotonic=clock, sleep=lambda _: None)
        monkeypatch.setattr(agents, "time", time)
        monkeypatch.setattr(agents, "call", call)
        monkeypatch.setattr(processes, "alive", lambda *_: True)
        told: list[str] = []
        agents.wait_ready(lab, SPEC, told.append)
        return told

    return start


def answer(ready: bool, *problems: str) -> Mapping[str, Any]:
    return {"ready": ready, "problems": list(problems)}


def test_all_agents_are_waited_for(wait: Callable[[Answer], list[str]]) -> None:
    told = wait(lambda now: answer(now > 30) if now > 5 else None)
    assert [line.split(":")[0] for line in told] == ["node1", "node2"]


def test_a_problem_that_stays_ends_it_early_with_its_text(
    wait: Callable[[Answer], list[str]],
) -> None:
    times: list[float] = []

    def broken(now: float) -> Mapping[str, Any]:
        times.append(now)
        return answer(False, BROKEN)

    with pytest.raises(LabError) as failed:
        wait(broken)
    assert str(failed.value) == f"node2: {BROKEN}"
    assert failed.value.detail == "what the log says"
    assert agents.PROBLEM_LIMIT <= times[-1] <= agents.PROBLEM_LIMIT + 5


def test_an_agent_that_is_at_it_is_left_to_it(wait: Callable[[Answer], list[str]]) -> None:
    def composing(now: float) -> Mapping[str, Any]:
        """A quarantined cube's problem stays until the composition without it is compiled."""
        return {**answer(now > 60, BROKEN), "waiting": [f"a pass has been running for {now} s"]}

    assert wait(composing)


def test_problems_that_pass_do_not_end_it(wait: Callable[[Answer], list[str]]) -> None:
    assert wait(lambda now: answer(now > 60, f"problem {now // 8}"))


def test_an_agent_may_be_ready_with_problems(wait: Callable[[Answer], list[str]]) -> None:
    assert wait(lambda now: answer(True, BROKEN))


def test_what_is_wrong_in_a_manifest_does_not_end_it(
    lab: Layout, wait: Callable[[Answer], list[str]]
) -> None:
    (lab.manifests / "service.x.s.yaml").touch()
    wrong = ("service.x.s.yaml:3: Service x/s: spec.ports: is required", "service.x.s.yaml: no")
    assert wait(lambda now: answer(now > 60, *wrong))


def test_an_agent_that_never_becomes_ready_fails(wait: Callable[[Answer], list[str]]) -> None:
    with pytest.raises(LabError, match="not ready after"):
        wait(lambda now: None)


def refused_by_a_busy_agent(
    lab: Layout, monkeypatch: pytest.MonkeyPatch, status: Mapping[str, Any] | None
) -> str:
    """The error of a sync that node2's agent does not answer; its status is this, or nothing."""

    def call(path: str, method: str, params: object, timeout: float) -> Any:
        if "node2" in path and (method == "sync" or status is None):
            raise AgentBusyError(path, timeout)
        return status if method == "status" else {"problems": []}

    monkeypatch.setattr(agents, "call", call)
    with pytest.raises(LabError) as failed:
        agents.sync(lab, SPEC)
    assert failed.value.detail == "what the log says"
    return str(failed.value)


def test_an_agent_that_is_busy_says_with_what(lab: Layout, monkeypatch: pytest.MonkeyPatch) -> None:
    status = {"waiting": ["a pass has been running for 61 s"], "problems": ["map a: no memory"]}
    assert refused_by_a_busy_agent(lab, monkeypatch, status) == (
        "node2: not in force after 60 s: the agent is alive and busy: "
        "a pass has been running for 61 s; map a: no memory"
    )


@pytest.mark.parametrize(("alive", "said"), [(True, "the agent runs, but"), (False, "agent ended")])
def test_an_agent_that_tells_nothing_is_looked_for(
    lab: Layout, monkeypatch: pytest.MonkeyPatch, alive: bool, said: str
) -> None:
    monkeypatch.setattr(processes, "alive", lambda *_: alive)
    assert said in refused_by_a_busy_agent(lab, monkeypatch, None)


def test_problems_of_all_agents_come_back_from_a_sync(
    lab: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    def call(path: str, *_: object) -> Any:
        return {"problems": ["full"] if "node2" in path else []}

    monkeypatch.setattr(agents, "call", call)
    assert agents.sync(lab, SPEC) == {"node2": ["full"]}
