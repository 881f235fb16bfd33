"""An agent with no more than the DaemonSet gives it: attaches pods, carries traffic, and goes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from cubelet.lab import agents, netns, processes, traffic
from cubelet.lab.layout import LabSpec, Layout, plan_nodes

from .cni import Runtime
from .manifests import pod, policy, service
from .test_uninstall import differences, everything, settled
from .unstarted import build
from .world import Space, World, eventually

DEPLOY = Path(__file__).parents[2] / "deploy"
# linux/capability.h
NUMBERS = {"NET_ADMIN": 12, "NET_RAW": 13, "SYS_ADMIN": 21, "PERFMON": 38, "BPF": 39}

# What container runtimes do: mounts of the host's appear, but the root and /proc/sys are read-only;
# what the DaemonSet mounts is not. Then the rest runs with few capabilities.
CONFINE = """
mount --rbind "$1" "$1"
mount --bind /tmp /tmp
mkdir -p "$1/sysctls"
mount --bind /proc/sys/net "$1/sysctls"
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
export CUBELET_SYSCTLS="$1/sysctls" PYTHONDONTWRITEBYTECODE=1
exec setpriv --inh-caps=-all --bounding-set="$2" "${@:3}"
"""


def capabilities(name: str) -> set[str]:
    """What the container of the manifest that changes the node is given."""
    for document in yaml.safe_load_all((DEPLOY / name).read_text()):
        if document["kind"] == "DaemonSet":
            spec: dict[str, Any] = document["spec"]["template"]["spec"]
            each = [*spec["initContainers"], *spec["containers"]]
            (found,) = (c for c in each if c["name"] in ("agent", "uninstall"))
            return set(found["securityContext"]["capabilities"]["add"])
    raise AssertionError(f"{name} has no DaemonSet")


def confined(layout: Layout, held: set[str], *arguments: str) -> list[str]:
    """The command line that runs `cubelet ARGUMENTS` so."""
    bounding = ",".join(["-all", *sorted(f"+{name.lower()}" for name in held)])
    cubelet = [sys.executable, "-m", "cubelet", *arguments]
    isolated = ["unshare", "--mount", "--propagation", "slave"]
    return [*isolated, "bash", "-ec", CONFINE, "_", str(layout.root), bounding, *cubelet]


def start(layout: Layout, spec: LabSpec, held: set[str]) -> int:
    """Start the first node's agent so; its pid."""
    (node,) = spec.nodes
    config = layout.node(node.name) / "agent.yaml"
    config.parent.mkdir(parents=True, exist_ok=True)
    config.write_text(yaml.safe_dump(agents.settings(layout, spec, node)))
    argv = confined(layout, held, "agent", "--config", str(config))
    return processes.spawn(layout, agents.process(node), layout.node_netns(node.name), argv)


@pytest.fixture
def one_node(layout: Layout) -> LabSpec:
    folder = layout.node("node1")
    own: dict[str, object] = {
        "cache_dir": str(folder / "cache"),
        "cni_bin": str(folder / "bin"),
        "cni_conf": str(folder / "10-cubelet.conflist"),
    }
    spec = LabSpec(layout.name, plan_nodes(1, ()), own)
    build(layout, spec)
    return spec


def test_it_works_with_what_the_manifests_grant(layout: Layout, one_node: LabSpec) -> None:
    held = capabilities("cubelet.yaml")
    pid = start(layout, one_node, held)
    agents.wait_ready(layout, one_node, lambda _: None)
    effective = re.search(
        r"^CapEff:\t(\w+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE
    )
    assert effective
    assert int(effective[1], 16) == sum(1 << NUMBERS[name] for name in held)

    space = Space(World(layout, one_node), "shop")
    space.apply(
        pod("web", ("TCP", 7)),
        pod("client", ("TCP", 7)),
        pod("stranger"),
        service("web", "web", ("TCP", 80, 7), type="NodePort"),
        policy(
            "web", "web", ingress=[{"from": [{"podSelector": {"matchLabels": {"app": "client"}}}]}]
        ),
    )
    assert space.who(space.at("client"), space.vip("web"), 80) == "web"
    assert space.who(space.at("stranger"), space.vip("web"), 80, timeout=0.5) == "timeout"
    assert space.world.call("node1", "status")["problems"] == []
    assert space.world.call("node1", "get", noun="flows")

    processes.end(layout, [agents.process(one_node.nodes[0])])
    config = str(layout.node("node1") / "agent.yaml")
    removing = confined(layout, capabilities("uninstall.yaml"), "uninstall", "--force")
    command = netns.command(layout.node_netns("node1"), [*removing, "--config", config])
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "removed program on uplink" in done.stdout
    assert not layout.bpffs_of("node1").exists()


def test_a_node_is_installed_upgraded_drained_and_uninstalled(
    layout: Layout, one_node: LabSpec
) -> None:
    """By the documents' steps, with what the manifests grant; it is as before in the end."""
    place, config = layout.node_netns("node1"), layout.node("node1") / "agent.yaml"
    eventually(lambda: "fe80::" in settled(place), 10)
    before = netns.run(place, everything)
    world, held = World(layout, one_node), capabilities("cubelet.yaml")
    early, late = (Runtime(world, "node1", name) for name in ("early", "late"))
    agent = [agents.process(one_node.nodes[0])]

    def uninstall() -> subprocess.CompletedProcess[str]:
        removing = confined(layout, capabilities("uninstall.yaml"), "uninstall")
        command = netns.command(place, [*removing, "--config", str(config)])
        return subprocess.run(command, capture_output=True, text=True)

    start(layout, one_node, held)
    agents.wait_ready(layout, one_node, lambda _: None)
    added = {}
    for each in (early, late):
        each.make()
        added[each] = each("ADD", f"K8S_POD_NAMESPACE=shop;K8S_POD_NAME={each.id}")
        assert each("CHECK", prevResult=added[each].document).status == 0

    processes.end(layout, agent)  # an upgrade replaces the agent's pod
    assert world.run(early.netns, traffic.ping, added[late].address).answered
    start(layout, one_node, held)
    agents.wait_ready(layout, one_node, lambda _: None)
    for each in (early, late):
        assert each("CHECK", prevResult=added[each].document).status == 0

    assert early("DEL").status == 0
    processes.end(layout, agent)  # the DaemonSet is deleted, before one pod has ended
    refused = uninstall()
    assert refused.returncode == 1
    assert "pods are still attached: shop/late; drain the node" in refused.stderr
    assert late("DEL").status == 0
    done = uninstall()
    assert (done.returncode, done.stderr) == (0, "")
    for each in (early, late):
        netns.delete(each.netns)
    after = netns.run(place, everything)
    assert differences(before, after) == {}
    assert {path.name for path in config.parent.iterdir()} <= {"agent.yaml", "bin"}
