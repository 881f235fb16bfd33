"""What is installed decides what runs: a missing cube, a broken one, one of somebody else's."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cubelet.ipc.client import AgentUnreachableError
from cubelet.lab import netns, traffic
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT

from .foreign import (
    NODE,
    QUIET_C,
    QUIET_CUBE,
    command,
    forget_copies,
    install,
    plugins,
    spawn,
    start,
)
from .manifests import pod, policy, service
from .world import Space, World, eventually


@pytest.fixture
def node(small: World, small_space: Space) -> Iterator[World]:
    """The small lab with its agent stopped; it runs again before the namespace goes."""
    small.stop(NODE)
    forget_copies(small)  # a cube that is essential and was in force would stay
    yield small
    small.stop(NODE)
    small.start(NODE)
    assert small.call(NODE, "status")["problems"] == []


def test_without_nat_the_rest_works(node: World, small_space: Space) -> None:
    start(node, command(node, "nat"))
    found = plugins(node)
    assert "nat" not in found
    assert {row["state"] for kind, row in found.items() if kind != "firewall"} == {"active"}
    stacks = node.call(NODE, "status")["composition"]["stacks"]
    assert "nat" not in str(stacks)
    assert stacks["pod"] == ["lbrp"]
    small_space.apply(
        pod("a"), pod("b", ("TCP", 7)), pod("c", ("TCP", 7)), service("b", "b", ("TCP", 80, 7))
    )
    a = small_space.at("a")
    assert small_space.who(a, small_space.ip("c"), 7) == "c"
    assert small_space.who(a, small_space.vip("b"), 80) == "b"
    # Nobody translates: the outside has no route back to a pod.
    result = node.run(a, traffic.who, OUTSIDE_ADDRESS, OUTSIDE_PORT, "TCP", 0.4)
    assert result.outcome == "timeout"


def test_pods_keep_their_network_when_a_cube_goes_and_comes(
    small: World, small_space: Space
) -> None:
    small_space.apply(pod("a"), pod("b", ("TCP", 7)))
    a, b = small_space.at("a"), small_space.ip("b")
    assert small_space.who(a, OUTSIDE_ADDRESS, OUTSIDE_PORT) == "outside"
    small.stop(NODE)
    forget_copies(small)
    start(small, command(small, "nat", "lbrp"))
    assert small_space.who(a, b, 7) == "b"
    small.stop(NODE)
    small.start(NODE)
    assert small_space.who(a, b, 7) == "b"
    assert small_space.who(a, OUTSIDE_ADDRESS, OUTSIDE_PORT) == "outside"


@pytest.mark.parametrize("kind", ["router", "bridge"])
def test_what_is_needed_is_named_with_its_remedy(node: World, kind: str) -> None:
    done = subprocess.run(
        netns.command(node.at_node(NODE), command(node, kind)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert f"pip install cubelet-{kind}" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_package_of_somebody_else_is_quarantined(
    node: World, small_space: Space, tmp_path: Path
) -> None:
    install(tmp_path, "broken", "import no_such_module\n")
    start(node, command(node), tmp_path)
    found = plugins(node)
    assert found["broken"]["state"] == "quarantined"
    assert "no_such_module" in str(found["broken"]["reason"])
    assert found["broken"]["distribution"] == "cubelet-broken"
    assert found["broken"]["version"] == "0.3"
    others = {row["state"] for kind, row in found.items() if kind not in ("broken", "firewall")}
    assert others == {"active"}
    small_space.apply(pod("a"), pod("b", ("TCP", 7)))
    assert small_space.who(small_space.at("a"), small_space.ip("b"), 7) == "b"
    (problem,) = node.call(NODE, "status")["problems"]
    assert problem.startswith("cube broken is quarantined: ModuleNotFoundError")


def test_a_cube_of_somebody_else_is_inactive_until_it_is_placed(
    node: World, small_space: Space, tmp_path: Path
) -> None:
    source = install(tmp_path, "quiet", QUIET_CUBE, QUIET_C)
    start(node, command(node), tmp_path)
    assert plugins(node)["quiet"]["state"] == "inactive"
    small_space.apply(pod("a"), pod("b", ("TCP", 7)))
    node.stop(NODE)

    chain = {
        "core": ["bridge", "router"],
        "stacks": {"pod": ["quiet", "lbrp", "nat", "firewall"], "host": ["lbrp", "nat"]},
    }
    start(node, command(node, chain=chain), tmp_path)
    assert plugins(node)["quiet"]["state"] == "active"
    assert small_space.who(small_space.at("a"), small_space.ip("b"), 7) == "b"

    # What a new version gets wrong is told at its own line, and the one that was in force goes on.
    node.stop(NODE)
    source.write_text(QUIET_C.replace("cubelet_next(pkt)", "no_such_function(pkt)"))
    start(node, command(node, chain=chain), tmp_path)
    found = plugins(node)["quiet"]
    assert found["state"] == "kept"
    assert "quiet.bpf.c:6" in str(found["reason"])
    status = node.call(NODE, "status")
    assert status["composition"]["stacks"]["pod"] == ["quiet", "lbrp", "nat"]
    (problem,) = status["problems"]
    assert problem.startswith("cube quiet is kept: ")
    assert "quiet.bpf.c:6" in problem
    assert small_space.who(small_space.at("a"), small_space.ip("b"), 7) == "b"


def test_what_ran_runs_on_when_an_essential_cube_is_broken(
    node: World, small_space: Space, tmp_path: Path
) -> None:
    node.start(NODE)
    small_space.apply(pod("a"), pod("b", ("TCP", 7)))
    identity = node.call(NODE, "status")["composition"]["identity"]
    essential = QUIET_CUBE.replace("kind =", "essential = True\n    kind =")
    install(tmp_path, "quiet", essential, QUIET_C.replace("(pkt);", "(none);"))
    chain = {"core": ["bridge", "router"], "stacks": {"pod": ["quiet", "lbrp", "nat"]}}
    node.stop(NODE)
    spawn(node, command(node, chain=chain), tmp_path)
    eventually(lambda: "cube quiet: quiet.bpf.c:6" in problems(node), 20)
    status = node.call(NODE, "status")
    assert not status["ready"]
    assert len([each for each in status["problems"] if "quiet.bpf.c:6" in each]) == 1
    composition = status["composition"]
    assert (composition["identity"], composition["earlier"]) == ("", [identity])
    folder = node.layout.bpffs_of(NODE) / "programs"
    assert [each.name.partition("-")[0] for each in folder.iterdir()] == [identity]
    assert small_space.who(small_space.at("a"), small_space.ip("b"), 7) == "b"


def test_drops_keep_their_cubes_name_when_it_has_left(small: World, small_space: Space) -> None:
    small_space.apply(pod("a"), pod("b", ("TCP", 7)), policy("closed", "b", ingress=[]))
    tried = small.run(small_space.at("a"), traffic.who, small_space.ip("b"), 7, "TCP", 0.4)
    assert tried.outcome == "timeout"

    def denied() -> list[str]:
        rows = small.call(NODE, "get", noun="drops", limit=100)
        assert "unknown" not in {row["cube"] for row in rows}
        return [row["reason"] for row in rows if row["cube"] == "firewall"]

    before = denied()
    assert before
    small_space.delete("NetworkPolicy", "closed")
    eventually(lambda: "firewall" not in str(small.call(NODE, "status")["composition"]), 20)
    assert denied() == before


def problems(world: World) -> str:
    """What the agent says is wrong; nothing while it does not answer yet."""
    try:
        return " ".join(world.call(NODE, "status")["problems"])
    except AgentUnreachableError:
        return ""
