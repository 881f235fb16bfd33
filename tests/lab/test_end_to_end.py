"""The lab as its user runs it: real agents, real CNI calls, real packets, from the command line."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cubelet.lab import cluster, netns
from cubelet.lab.layout import BPFFS_ROOT, Layout

CUBELET = [sys.executable, "-m", "cubelet", "lab"]
POLICY = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "b-only-for-friends", "namespace": "default"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "b"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"friend": "yes"}}}]}],
    },
}

Run = Callable[..., subprocess.CompletedProcess[str]]


def pod(name: str, node: str, **labels: str) -> dict[str, Any]:
    ports = [{"containerPort": 80, "protocol": protocol} for protocol in ("TCP", "UDP", "SCTP")]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name, **labels}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "i", "ports": ports}]},
    }


def remains(layout: Layout) -> list[str]:
    """What is left of a lab."""
    found = [*netns.matching(layout.netns_prefix)]
    found += [str(path) for path in BPFFS_ROOT.glob(f"cubelet-{layout.name}*")]
    return found + [str(path) for path in (layout.root, layout.lock) if path.exists()]


@pytest.fixture(scope="module")
def lab() -> Iterator[Layout]:
    """A lab of two nodes that is up."""
    layout = Layout(f"e{os.getpid()}")
    try:
        subprocess.run([*CUBELET, "up", "--name", layout.name], check=True)
        yield layout
    finally:
        cluster.down(layout)


@pytest.fixture
def run(lab: Layout) -> Run:
    """Run a lab command; its status is checked unless it is told not to."""

    def command(*words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "CUBELET_LAB": lab.name}
        return subprocess.run(
            [*CUBELET, *words], env=environment, check=check, text=True, capture_output=True
        )

    return command


def apply(run: Run, folder: Path, *documents: dict[str, Any]) -> None:
    file = folder / "objects.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    run("apply", "-f", str(file))


def verdicts(run: Run, target: str) -> dict[tuple[str, str], str]:
    rows = json.loads(run("probe", "-o", "json").stdout)
    return {(r["from"], r["protocol"]): r["verdict"] for r in rows if r["to"] == target}


def test_pods_policies_and_probes(run: Run, tmp_path: Path) -> None:
    apply(run, tmp_path, pod("a", "node1"), pod("b", "node1"), pod("c", "node2", friend="yes"))
    protocols = ("SCTP", "TCP", "UDP")
    everyone = [(f"default/{name}", protocol) for name in "ac" for protocol in protocols]
    assert verdicts(run, "default/b") == dict.fromkeys(everyone, "allowed")

    apply(run, tmp_path, POLICY)
    denied = {("default/a", protocol): "denied" for protocol in protocols}
    assert verdicts(run, "default/b") == {**dict.fromkeys(everyone, "allowed"), **denied}
    assert "denied" not in verdicts(run, "default/a").values()

    apply(run, tmp_path, pod("a", "node1", friend="yes"))
    assert verdicts(run, "default/b") == dict.fromkeys(everyone, "allowed")
    apply(run, tmp_path, pod("a", "node1"))
    assert verdicts(run, "default/b")["default/a", "TCP"] == "denied"
    run("delete", "networkpolicy", "b-only-for-friends")
    assert verdicts(run, "default/b") == dict.fromkeys(everyone, "allowed")


def test_an_address_may_be_asked_for(run: Run, tmp_path: Path) -> None:
    asking = pod("fixed", "node2")
    asking["metadata"]["annotations"] = {"cubelet.io/ip": "10.244.2.77"}
    apply(run, tmp_path, asking)
    items = json.loads(run("get", "pods", "-o", "json").stdout)["items"]
    addresses = {item["metadata"]["name"]: item["status"]["podIP"] for item in items}
    assert addresses["fixed"] == "10.244.2.77"
    run("delete", "pod", "fixed")


def test_exec_runs_where_the_target_is_and_passes_its_status(run: Run, lab: Layout) -> None:
    for target, place in (
        ("node/node1", lab.node_netns("node1")),
        ("outside", lab.outside_netns),
    ):
        seen = run("exec", target, "--", "stat", "-L", "-c", "%i", "/proc/self/ns/net").stdout
        assert int(seen) == netns.path(place).stat().st_ino
    assert run("exec", "outside", "--", "sh", "-c", "exit 7", check=False).returncode == 7
    gone = run("exec", "nosuch", "--", "true", check=False)
    assert (gone.returncode, gone.stderr) == (1, "error: no pod 'nosuch' in namespace default\n")


def test_a_lab_is_not_started_twice(run: Run, lab: Layout) -> None:
    again = run("up", check=False)
    assert again.returncode == 1
    assert "is up" in again.stderr
    assert run("get", "nodes").stdout.count("10.244.") == 2


def test_an_agent_that_does_not_start_leaves_nothing_and_tells_why(layout: Layout) -> None:
    command = [*CUBELET, "up", "--name", layout.name, "--set", "no_such_setting=1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1
    assert "no_such_setting" in done.stderr
    assert remains(layout) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_start_leaves_nothing(layout: Layout, number: signal.Signals) -> None:
    with subprocess.Popen([*CUBELET, "up", "--name", layout.name]) as process:
        while process.poll() is None and not layout.processes.is_dir():
            time.sleep(0.01)
        process.send_signal(number)
        assert process.wait(20) == 130
    assert remains(layout) == []


def test_the_demo_holds_and_leaves_nothing(layout: Layout) -> None:
    command = [*CUBELET, "demo", "--name", layout.name, "-o", "json"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True)
    report = json.loads(done.stdout)
    assert [row for row in report["checks"] if not row["ok"]] == []
    assert done.returncode == 0
    assert remains(layout) == []
