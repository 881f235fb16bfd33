"""What is installed decides what runs: a missing cube, a broken one, one of somebody else's."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from cubelet.lab import agents, netns, processes, traffic
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT

from .manifests import pod, service
from .world import Space, World, eventually

NODE = "node1"
HIDING = """
import sys
from importlib import metadata
real = metadata.entry_points
def entry_points(**params):
    return [point for point in real(**params) if point.name not in {hidden!r}]
metadata.entry_points = entry_points
from cubelet.cli import main
main()
"""
"""The command `cubelet` as it is when packages are not installed."""

QUIET_CUBE = '''
from cubelet_hooks.cube import Cube
from cubelet_hooks.hookspecs import hookimpl

class Quiet(Cube):
    """Lets everything through."""
    kind = "quiet"
    inward = frozenset({"pod"})

@hookimpl
def cubelet_cubes():
    return [Quiet]
'''
QUIET_C = """
#include "cubelet.h"

static __always_inline int quiet_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return cubelet_next(pkt);
}
"""


@pytest.fixture
def node(small: World, small_space: Space) -> Iterator[World]:
    """The small lab with its agent stopped; it runs again before the namespace goes."""
    small.stop(NODE)
    yield small
    small.stop(NODE)
    small.start(NODE)
    assert small.call(NODE, "status")["problems"] == []


def command(world: World, *hidden: str) -> list[str]:
    """The agent's command line where the cubes of these kinds are not installed."""
    config = world.layout.node(NODE) / "agent.yaml"
    config.write_text(yaml.safe_dump(agents.settings(world.layout, world.spec, world.node(NODE))))
    return [sys.executable, "-c", HIDING.format(hidden=hidden), "agent", "--config", str(config)]


def spawn(world: World, argv: list[str], path: Path | None = None) -> None:
    """Start an agent by hand, with packages from a further folder if given."""
    found = os.pathsep.join(filter(None, (str(path or ""), os.environ.get("PYTHONPATH"))))
    processes.spawn(
        world.layout,
        agents.process(world.node(NODE)),
        world.at_node(NODE),
        argv,
        environment={"PYTHONPATH": found} if found else None,
    )


def start(world: World, argv: list[str], path: Path | None = None) -> None:
    """The same, and wait until it is ready."""
    spawn(world, argv, path)
    agents.wait_ready(world.layout, world.spec, lambda _: None)


def install(folder: Path, name: str, code: str) -> None:
    """What pip leaves of a package `cubelet-NAME` that offers cubes in `cubelet_NAME`."""
    package = folder / f"cubelet_{name}"
    package.mkdir()
    (package / "__init__.py").write_text(code)
    info = folder / f"cubelet_{name}-0.3.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: cubelet-{name}\nVersion: 0.3\n")
    (info / "entry_points.txt").write_text(f"[cubelet.cubes]\n{name} = cubelet_{name}\n")


def plugins(world: World) -> dict[str, dict[str, object]]:
    return {row["kind"]: row for row in world.call(NODE, "plugins")}


def test_without_nat_the_rest_works(node: World, small_space: Space) -> None:
    start(node, command(node, "nat"))
    found = plugins(node)
    assert "nat" not in found
    assert {row["state"] for row in found.values()} == {"active"}
    stacks = node.call(NODE, "status")["composition"]["stacks"]
    assert stacks == {
        "pod": ["lbrp", "firewall"],
        "host": ["lbrp"],
        "overlay": [],
        "uplink": ["lbrp"],
    }
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
    others = {row["state"] for kind, row in found.items() if kind != "broken"}
    assert others == {"active"}
    small_space.apply(pod("a"), pod("b", ("TCP", 7)))
    assert small_space.who(small_space.at("a"), small_space.ip("b"), 7) == "b"
    assert node.call(NODE, "status")["problems"] == []


def test_a_cube_of_somebody_else_is_inactive_until_it_is_placed(
    node: World, small_space: Space, tmp_path: Path
) -> None:
    install(tmp_path, "quiet", QUIET_CUBE)
    (tmp_path / "cubelet_quiet" / "bpf").mkdir()
    source = tmp_path / "cubelet_quiet" / "bpf" / "quiet.bpf.c"
    source.write_text(QUIET_C)
    start(node, command(node), tmp_path)
    assert plugins(node)["quiet"]["state"] == "inactive"
    small_space.apply(pod("a"), pod("b", ("TCP", 7)))
    node.stop(NODE)

    config = node.layout.node(NODE) / "agent.yaml"
    argv = command(node)
    chain = {
        "core": ["bridge", "router"],
        "stacks": {"pod": ["quiet", "lbrp", "nat", "firewall"], "host": ["lbrp", "nat"]},
    }
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "chain": chain}))
    start(node, argv, tmp_path)
    assert plugins(node)["quiet"]["state"] == "active"
    assert small_space.who(small_space.at("a"), small_space.ip("b"), 7) == "b"

    # What it gets wrong is told at its own line, and what runs goes on.
    node.sync()
    identity = node.call(NODE, "status")["composition"]["identity"]
    node.stop(NODE)
    source.write_text(QUIET_C.replace("cubelet_next(pkt)", "no_such_function(pkt)"))
    spawn(node, argv, tmp_path)
    eventually(lambda: "quiet.bpf.c:6" in tail(node), 20)
    status = node.call(NODE, "status")
    assert not status["ready"]
    assert "cube quiet: quiet.bpf.c:6" in " ".join(status["problems"])
    folder = node.layout.bpffs_of(NODE) / "programs"
    assert [each.name.partition("-")[0] for each in folder.iterdir()] == [identity]
    assert small_space.who(small_space.at("a"), small_space.ip("b"), 7) == "b"


def tail(world: World) -> str:
    return processes.tail(world.layout.log(agents.process(world.node(NODE))))
