"""The lab as its user runs it: from the command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from cubelet.lab import netns

from .manifests import pod, policy
from .world import Space, World

Run = Callable[..., subprocess.CompletedProcess[str]]
NODES = ("node1", "node2")


@pytest.fixture
def run(world: World) -> Run:
    """Run a lab command; its status is checked unless it is told not to."""

    def command(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "cubelet", "lab", *words],
            env={**os.environ, "CUBELET_LAB": world.layout.name},
            check=check,
            text=True,
            capture_output=True,
        )

    return command


def test_apply_probe_and_delete(run: Run, space: Space, tmp_path: Path) -> None:
    ports = [(protocol, 80) for protocol in ("TCP", "UDP", "SCTP")]
    objects = [
        pod("a", nodeName="node1"),
        pod("b", *ports, nodeName="node2"),
        pod("c", nodeName="node2"),
        policy("p", "b", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "c"}}}]}]),
    ]
    for each in objects:
        each["metadata"]["namespace"] = space.name
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(objects))
    said = run("apply", "-f", str(file)).stdout
    assert [line.split() for line in said.splitlines()][-3:] == [
        [f"pod/{name}", "created"] for name in "abc"
    ]
    rows = json.loads(run("probe", "-o", "json").stdout)
    assert [row for row in rows if row["to"].startswith(space.name)] == [
        {
            "from": f"{space.name}/{source}",
            "to": f"{space.name}/b",
            "protocol": protocol,
            "port": 80,
            "verdict": verdict,
        }
        for source, verdict in (("a", "denied"), ("c", "allowed"))
        for protocol in ("SCTP", "TCP", "UDP")
    ]
    run("delete", "-f", str(file))
    found = json.loads(run("get", "pods", "-n", space.name, "-o", "json").stdout)
    assert found["items"] == []


def test_exec_runs_where_the_target_is_and_passes_its_status(run: Run, world: World) -> None:
    for target, place in (("node/node1", world.at_node("node1")), ("outside", world.outside)):
        seen = run("exec", target, "--", "stat", "-L", "-c", "%i", "/proc/self/ns/net").stdout
        assert int(seen) == netns.path(place).stat().st_ino
    assert run("exec", "outside", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    gone = run("exec", "nosuch", "--", "true", check=False)
    assert (gone.returncode, gone.stderr) == (1, "error: no pod 'nosuch' in namespace default\n")


def test_a_lab_is_not_started_twice(run: Run) -> None:
    again = run("up", check=False)
    assert again.returncode == 1
    assert "is up" in again.stderr
    assert run("get", "nodes").stdout.count("172.18.0.") == 2


def test_agents_are_killed_and_restarted_by_node(run: Run, world: World, space: Space) -> None:
    space.apply(pod("a", nodeName="node1"), pod("b", ("TCP", 80), nodeName="node2"))
    a, b = space.at("a"), space.ip("b")
    before = {node: world.call(node, "status")["composition"]["identity"] for node in NODES}
    try:
        assert run("kill", "node1").stdout == "agent/node1 killed\n"
        assert space.who(a, b, 80) == "b", "programs forward on"
        assert run("kill").stdout == "agent/node1 not running\nagent/node2 killed\n"
    finally:
        restarted = run("restart")
    assert restarted.stdout == "agent/node1 restarted\nagent/node2 restarted\n"
    for node in NODES:
        status = world.call(node, "status")
        assert (status["ready"], status["composition"]["identity"]) == (True, before[node])
    unknown = run("restart", "node1", "node9", check=False)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    assert "has no node node9; it has node1, node2" in unknown.stderr
    records = [world.layout.processes / f"agent.{node}.json" for node in NODES]
    other, one = (record.read_bytes() for record in records)
    run("restart", "node2")
    assert records[0].read_bytes() == other
    assert records[1].read_bytes() != one
