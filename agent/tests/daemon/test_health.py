"""What the agent says of itself: its problems, and what it is at."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from cubelet.daemon.health import Health


def health(**parts: Any) -> Health:
    """The health of an agent without problems, but for these parts."""
    reconciler = {
        "problems": {},
        "rejected": [],
        "complaints": frozenset(),
        "serving": True,
        "switchover": SimpleNamespace(sweeper=None),
    }
    known = {
        "reconciler": SimpleNamespace(**(reconciler | parts.pop("reconciler", {}))),
        "feed": SimpleNamespace(problems=[], usable=True),
        "configuration": SimpleNamespace(problem=""),
        "discovery": SimpleNamespace(quarantined=dict),
        "memory": SimpleNamespace(problem=""),
    }
    return Health(**(known | parts))


def test_what_keeps_an_essential_cube_from_running_is_one_problem() -> None:
    """It refuses the configuration, and is the problem of the place, too."""
    problem = "cube quiet: quiet.bpf.c:6: expected ';'"
    for refused in (problem, f"no such cube; nor can the last one be used: {problem}"):
        found = health(
            configuration=SimpleNamespace(problem=refused),
            reconciler={"problems": {"composition": problem, "pass": "another"}},
        )
        assert found.problems() == [refused, "another"]
    found = health(reconciler={"problems": {"composition": problem}})
    assert found.problems() == [problem]


def test_a_pass_is_told_when_it_takes_longer_than_a_moment() -> None:
    found = health()
    assert found.busy == ""
    found.pass_began = time.monotonic()
    assert found.busy == ""
    found.pass_began = time.monotonic() - 61
    assert found.busy == "a pass has been running for 61 s"
    assert found.unalive() == ""
    found.pass_began = time.monotonic() - 301
    assert found.unalive() == "a pass has been running for 301 s"
