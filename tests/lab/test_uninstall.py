"""A node from which cubelet was removed is as it was before its agent first ran."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from cubelet.lab import agents, cluster, netns, processes
from cubelet.lab.kinds import Key
from cubelet.lab.layout import LabSpec, Layout, plan_nodes

from .manifests import pod, service
from .unstarted import build
from .world import Space, World, eventually

SYSCTLS = Path("/proc/sys/net")
_IP = ("link", "address", "route show table all", "rule", "neighbor show nud permanent")


def everything() -> dict[str, Any]:
    """The devices, addresses, routes, rules, neighbours and sysctls of this namespace."""
    found: dict[str, Any] = {}
    for what in _IP:
        command = ["ip", "-j", "-d", *what.split()]
        shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found[what] = json.loads(shown or "[]")
    for path in SYSCTLS.rglob("*"):
        try:
            found[str(path)] = path.read_text()
        except OSError:
            continue  # a folder, or a setting that can only be written
    return found


def differences(before: dict[str, Any], after: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    return {
        key: (before.get(key), after.get(key))
        for key in before.keys() | after.keys()
        if before.get(key) != after.get(key)
    }


def bare(layout: Layout, spec: LabSpec) -> dict[str, Any]:
    """A lab whose agents have not been started, and what its first node looks like."""
    build(layout, spec)
    place = layout.node_netns("node1")
    netns.run(place, (SYSCTLS / "ipv4/ip_forward").write_text, "0")
    eventually(lambda: "fe80::" in settled(place), 10)
    return netns.run(place, everything)


def settled(place: str) -> str:
    """The namespace's addresses once the kernel has given each device its own."""
    shown = subprocess.run(
        ["ip", "-netns", place, "address"], check=True, capture_output=True, text=True
    ).stdout
    return "" if "tentative" in shown else shown


def uninstall(layout: Layout, *arguments: str) -> tuple[int, dict[str, Any]]:
    config = layout.node("node1") / "agent.yaml"
    argv = [sys.executable, "-m", "cubelet", "uninstall", "--config", str(config), "-o", "json"]
    done = subprocess.run(
        netns.command(layout.node_netns("node1"), [*argv, *arguments]),
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, json.loads(done.stdout)


def test_a_node_is_as_before(layout: Layout) -> None:
    node = layout.node("node1")
    own: dict[str, object] = {"cache_dir": str(node / "cache"), "cni_bin": str(node / "bin")}
    spec = LabSpec(layout.name, plan_nodes(1, ()), own)
    before = bare(layout, spec)
    agents.start(layout, spec)
    agents.wait_ready(layout, spec, lambda _: None)
    world = World(layout, spec)
    space = Space(world, "shop")
    space.apply(pod("web", ("TCP", 80)), service("web", "web", ("TCP", 80, 80), type="NodePort"))
    assert differences(before, netns.run(layout.node_netns("node1"), everything))

    status, refused = uninstall(layout)
    assert status == 1
    assert "an agent answers on" in refused["error"]["message"]
    assert world.call("node1", "status")["ready"]

    processes.end(layout, [agents.process(spec.nodes[0])])
    status, refused = uninstall(layout)
    assert status == 1
    assert "pods are still attached: shop/web" in refused["error"]["message"]

    assert {"state", "cache", "10-cubelet.conflist"} <= {path.name for path in node.iterdir()}
    status, done = uninstall(layout, "--force")
    assert (status, done["failed"]) == (0, [])
    assert "program on uplink" in done["removed"]
    assert "sysctl net/ipv4/ip_forward = 0" in done["removed"]
    assert differences(before, netns.run(layout.node_netns("node1"), everything)) == {}
    assert not layout.bpffs_of("node1").exists()
    assert {path.name for path in node.iterdir()} <= {"agent.yaml", "bin"}
    assert not list((node / "bin").glob("*"))

    assert uninstall(layout) == (0, {"removed": [], "failed": []})


def test_a_node_serves_again_after_it(layout: Layout) -> None:
    spec = LabSpec(layout.name, plan_nodes(1, ()), {"cache_dir": str(layout.node("n") / "cache")})
    cluster.up(layout, spec, lambda _: None)
    world = World(layout, spec)
    world.stop("node1")
    assert uninstall(layout)[0] == 0
    world.start("node1")
    space = Space(world, "shop")
    space.apply(pod("web", ("TCP", 7)))
    assert space.who(world.at_node("node1"), space.ip("web"), 7) == "web"
    world.delete(Key("Namespace", "", "shop"))
