"""Labs that come and go: whole or not at all, and without a trace."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cubelet.lab import cluster, netns
from cubelet.lab.kinds import Key
from cubelet.lab.layout import BPFFS_ROOT, RUN_ROOT, LabSpec, Layout, plan_nodes

from .load import connections, datagrams, loads
from .manifests import pod, service
from .world import Space, World

LAB = [sys.executable, "-m", "cubelet", "lab"]
PORTS = (("TCP", 7), ("UDP", 7))


def remains(layout: Layout) -> list[str]:
    """What is left of a lab: namespaces, pins, files, processes; links go with namespaces."""
    found = netns.matching(layout.netns_prefix)
    found += [str(path) for path in BPFFS_ROOT.glob(f"cubelet-{layout.name}*")]
    found += [str(path) for path in RUN_ROOT.glob(f"{layout.name}*")]
    return found + processes_of(layout)


def processes_of(layout: Layout) -> list[str]:
    """The command lines that name the lab's folder or one of its namespaces."""
    marks = (f"{layout.root}/".encode(), f"/{layout.netns_prefix}".encode())
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue  # ended meanwhile
            if any(mark in line for mark in marks):
                found.append(line.replace(b"\0", b" ").decode())
    return found


def links() -> set[str]:
    """The devices of the machine's own namespace."""
    return {path.name for path in Path("/sys/class/net").iterdir()}


def test_a_lab_leaves_nothing_and_disturbs_no_other(world: World, space: Space) -> None:
    """The other one has the same addresses, nodes and pods, and comes and goes meanwhile."""
    space.apply(
        pod("client", nodeName="node1", ip="192.168.1.77"),
        pod("server", *PORTS, nodeName="node2"),
        service("server", "server", ("TCP", 80, 7)),
    )
    layout = Layout(f"o{os.getpid()}")
    before, mine = links(), world.planned("node1")
    with loads() as running:
        client = space.at("client")
        running.add("UDP", client, datagrams, space.ip("server"), 7)
        running.add("TCP", client, connections, space.vip("server"), 80)
        try:
            spec = LabSpec(layout.name, plan_nodes(1, ("192.168.1.0/24",)), {})
            cluster.up(layout, spec, lambda _: None)
            other = Space(World(layout, spec), space.name)
            other.apply(
                pod("client", nodeName="node1", ip="192.168.1.77"),
                pod("server", *PORTS, nodeName="node1"),
                service("server", "server", ("TCP", 80, 7), clusterIP=space.vip("server")),
            )
            assert other.ip("client") == space.ip("client")
            assert other.who(other.at("client"), other.vip("server"), 80) == "server"
            other.world.delete(Key("Namespace", "", other.name))
            assert other.who(client, space.vip("server"), 80) == "server"
        finally:
            cluster.down(layout)
        time.sleep(0.2)
    running.check(at_least=50)
    assert remains(layout) == []
    assert links() == before
    assert world.planned("node1") == mine
    assert processes_of(world.layout) != []


def test_an_agent_that_does_not_start_leaves_nothing_and_tells_why(layout: Layout) -> None:
    command = [*LAB, "up", "--name", layout.name, "--set", "no_such_setting=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no_such_setting" in done.stderr
    assert remains(layout) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing(layout: Layout, number: signal.Signals) -> None:
    with subprocess.Popen([*LAB, "up", "--name", layout.name]) as process:
        while process.poll() is None and not layout.processes.is_dir():
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(20) == 130
    assert remains(layout) == []


def test_down_takes_what_a_killed_start_left(layout: Layout) -> None:
    """SIGKILL leaves no time to tear down; agents may be compiling still."""
    with subprocess.Popen([*LAB, "up", "--name", layout.name]) as process:
        while process.poll() is None and len(list(layout.processes.glob("agent.*.json"))) < 2:
            time.sleep(0.01)
        process.kill()
    assert remains(layout) != []
    assert subprocess.run([*LAB, "down", "--name", layout.name]).returncode == 0
    assert remains(layout) == []
    assert subprocess.run([*LAB, "down", "--name", layout.name]).returncode == 0


@pytest.mark.parametrize("mode", ["fused", "tailcall"])
def test_the_demo_holds_and_leaves_nothing(layout: Layout, mode: str) -> None:
    from cubelet.lab.demo import run

    report = run(layout, mode, lambda _: None)
    assert [row for row in report.checks if not row.ok] == []
    assert report.ok
    assert {each["mode"] for each in report.composition.values()} == {mode}
    assert remains(layout) == []
