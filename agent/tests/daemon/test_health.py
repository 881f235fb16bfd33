"""What an agent says of itself: its problems, and what it waits for."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from cubelet.daemon.health import Health


class Parts:
    """What a health asks: an agent that serves and waits for nothing."""

    def __init__(self) -> None:
        self.reconciler = SimpleNamespace(
            serving=True,
            problems={},
            rejected=[],
            complaints=(),
            switchover=SimpleNamespace(sweeper=None, modes=SimpleNamespace(problem="")),
        )
        self.feed = SimpleNamespace(synced=True, usable=True, problems=[])
        self.compiling: float | None = None
        self.broken: list[str] = []
        parts: Any = self
        discovery: Any = SimpleNamespace(quarantined=dict)
        self.configuration: Any = SimpleNamespace(problem="")
        memory: Any = SimpleNamespace(problem="")
        self.health = Health(
            parts.reconciler,
            parts.feed,
            parts.configuration,
            discovery,
            memory,
            lambda: self.broken,
            lambda: self.compiling,
        )


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_an_agent_at_rest_waits_for_nothing(parts: Parts) -> None:
    assert (parts.health.ready, parts.health.waiting(), parts.health.problems()) == (True, [], [])


def test_a_composition_in_another_mode_is_told_and_serves(parts: Parts) -> None:
    parts.reconciler.switchover.modes.problem = "tail-called, since fused it is refused"
    assert parts.health.problems() == ["tail-called, since fused it is refused"]
    assert parts.health.ready


def test_it_says_for_how_long_it_has_been_compiling(parts: Parts) -> None:
    parts.compiling = 12.4
    assert parts.health.waiting() == [
        "compiling a composition for 12 s; the last one serves meanwhile"
    ]
    assert parts.health.ready
    parts.reconciler.serving = False
    assert parts.health.unready() == "compiling a composition for 12 s; it is the first"


def test_it_says_what_it_has_not_read(parts: Parts) -> None:
    parts.feed.synced = parts.feed.usable = False
    assert parts.health.unready() == "the source's objects have not all been read yet"


def test_it_says_that_a_pass_is_long(parts: Parts) -> None:
    parts.health.pass_began = time.monotonic() - 7.3
    assert parts.health.waiting() == ["a pass has been running for 7 s"]
    parts.health.pass_began = time.monotonic()
    assert parts.health.waiting() == []


def test_an_agent_that_is_not_ready_always_says_why(parts: Parts) -> None:
    parts.reconciler.serving = False
    assert parts.health.unready() == "nothing is composed yet"


def test_files_that_were_broken_are_problems(parts: Parts) -> None:
    parts.broken = ["ipam.json was broken"]
    assert parts.health.problems() == ["ipam.json was broken"]
    assert parts.health.ready


def test_what_keeps_an_essential_cube_from_running_is_one_problem(parts: Parts) -> None:
    """It refuses the configuration, and is the problem of the place, too."""
    problem = "cube quiet: quiet.bpf.c:6: expected ';'"
    parts.reconciler.problems = {"composition": problem, "pass": "another"}
    for refused in (problem, f"no such cube; nor can the last one be used: {problem}"):
        parts.configuration.problem = refused
        assert parts.health.problems() == [refused, "another"]
    parts.configuration.problem = ""
    assert parts.health.problems() == [problem, "another"]


def test_an_agent_is_dead_when_a_pass_does_not_end(parts: Parts) -> None:
    parts.health.pass_began = time.monotonic() - 61
    assert parts.health.unalive() == ""
    parts.health.pass_began = time.monotonic() - 301
    assert parts.health.unalive() == "a pass has been running for 301 s"
