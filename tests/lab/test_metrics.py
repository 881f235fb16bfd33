"""A real agent scraped over HTTP, with a cube of somebody else that offers all it can."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cubelet.lab import traffic

from .foreign import NODE, command, install, plugins, start
from .manifests import pod, policy
from .world import Space, World, eventually

ADDRESS = "127.0.0.1:9879"
Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]

QUOTA_CUBE = '''
from cubelet_hooks.command import AgentError
from cubelet_hooks.cube import Cube, Entry, Placement
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.metrics import Metric, Sample
from cubelet_hooks.records import U32, U64, Record
from cubelet_hooks.resources import Resource


class PortKey(Record):
    """A pod's port."""
    ifindex: U32


class Budget(Record):
    """What it may send."""
    bytes: U64


class Quota(Cube):
    """Keeps what Budgets and annotations say."""
    kind = "quota"
    inward = frozenset({"pod"})
    placement = (Placement("pod"),)
    commands = "cubelet_quota.commands:app"
    watches = (Resource("Budget", "example.com/v1", "budgets"),)
    annotations = ("quota.example.com/",)
    metrics = (
        Metric("budget_bytes", "gauge", "Bytes that pods may send.", ("pod",)),
        Metric("asked", "counter", "Nothing that is ever told."),
    )
    maps = (Map("budgets", MapType.HASH, PortKey, Budget, 64),)

    def units(self, change, view):
        if change.kind in ("Namespace", "Budget"):
            named = change.key.partition("/")[0]
            return [("pod", key) for key, port in view.ports.items() if port.namespace == named]
        return [("pod", change.key)] if change.kind in ("Pod", "Port") else ()

    def plan(self, unit, view):
        port, pod = view.ports.get(unit[1]), view.pods.get(unit[1])
        if port is None or pod is None:
            return
        namespace = view.namespaces.get(pod.namespace)
        given = {**(namespace.annotations if namespace else {}), **pod.annotations}
        budget = view.custom("Budget").get(f"{pod.namespace}/{pod.name}")
        wanted = budget.spec["bytes"] if budget else int(given.get("quota.example.com/bytes", 0))
        if wanted:
            yield Entry("budgets", PortKey(port.ifindex), Budget(wanted))

    def collect(self, read, view):
        held = read("budgets")
        for key, port in view.ports.items():
            budget = held.get(PortKey(port.ifindex))
            if budget is not None:
                yield Sample("budget_bytes", budget.bytes, (key,))

    def answer(self, method, params, context):
        if method != "budget":
            return super().answer(method, params, context)
        port = context.view.ports.get(params["pod"])
        if port is None:
            raise AgentError(1, f"there is no pod {params['pod']} on this node")
        return {"bytes": context.table("budgets")[PortKey(port.ifindex)].bytes}


@hookimpl
def cubelet_cubes():
    return [Quota]
'''
QUOTA_COMMANDS = '''
import typer
from cubelet_hooks.command import ask

app = typer.Typer(help="Budgets of pods.")


@app.command()
def budget(pod: str) -> None:
    """Print what a pod may send."""
    print(ask("quota", "budget", pod=pod)["bytes"])
'''
QUOTA_C = """
#include "cubelet.h"

static __always_inline int quota_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return cubelet_next(pkt);
}
"""


@pytest.fixture
def node(small: World, small_space: Space, tmp_path: Path) -> Iterator[World]:
    """The small lab with the cube installed and its figures served; as before afterwards."""
    small.stop(NODE)
    install(tmp_path, "quota", QUOTA_CUBE, QUOTA_C)
    (tmp_path / "cubelet_quota" / "commands.py").write_text(QUOTA_COMMANDS)
    start(small, command(small, metrics=ADDRESS, health=ADDRESS), tmp_path)
    yield small
    small.stop(NODE)
    small.start(NODE)
    assert small.call(NODE, "status")["problems"] == []


def fetch(path: str) -> str:
    with urllib.request.urlopen(f"http://{ADDRESS}{path}", timeout=10) as found:
        return str(found.read().decode())


def scrape(world: World) -> Samples:
    text = world.run(world.at_node(NODE), fetch, "/metrics")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(found: Samples, name: str, **labels: str) -> float:
    return found.get((name, frozenset(labels.items())), 0.0)


def cubelet(world: World, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "cubelet", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={
            **os.environ,
            "CUBELET_SOCKET": str(world.layout.socket(NODE)),
            "PYTHONPATH": os.pathsep.join((str(folder), os.environ.get("PYTHONPATH", ""))),
        },
    )


def test_a_scrape_tells_what_was_dropped_and_what_runs(node: World, small_space: Space) -> None:
    small_space.apply(pod("a"), pod("b", ("UDP", 53)), policy("p", "b", ingress=[]))
    a, b = small_space.at("a"), small_space.ip("b")
    assert node.run(node.at_node(NODE), fetch, "/readyz") == "ok\n"
    denied = {"cube": "firewall", "reason": "ingress_denied", "class": "pod"}
    before = scrape(node)
    for _ in range(5):
        node.run(a, traffic.udp, b, 53, b"x", 0.05)
    after = scrape(node)
    for name, grown in (("packets", 5), ("bytes", 5 * (14 + 20 + 8 + 1))):
        full = f"cubelet_dropped_{name}_total"
        assert value(after, full, **denied) - value(before, full, **denied) == grown
    isolated = {"instance": "firewall0", "direction": "ingress"}
    assert value(after, "cubelet_firewall_isolated_pods", **isolated) == 1
    assert value(after, "cubelet_ports_attached") == 2
    assert value(after, "cubelet_source_synced", source="manifests") == 1
    assert value(after, "cubelet_recompositions_total") >= 2
    assert value(after, "cubelet_pass_duration_seconds_count") >= 3
    adds = {"command": "ADD", "code": "0"}
    assert value(after, "cubelet_cni_call_duration_seconds_count", **adds) == 2
    assert {n for (name, _), n in after.items() if name == "cubelet_problems"} == {0}
    assert not [name for name, _ in after if "failures" in name and after[name, _]]
    bridge = {"instance": "bridge0", "map": "fdb"}
    assert value(after, "cubelet_map_entries", **bridge) == 2
    assert value(after, "cubelet_map_max_entries", **bridge) == 1024
    (composed,) = (dict(labels) for name, labels in after if name == "cubelet_composition_info")
    assert composed["identity"] == node.call(NODE, "status")["composition"]["identity"]


def test_a_cubes_own_objects_figures_and_commands(
    node: World, small_space: Space, tmp_path: Path
) -> None:
    budget = {
        "apiVersion": "example.com/v1",
        "kind": "Budget",
        "metadata": {"name": "a", "namespace": small_space.name},
        "spec": {"bytes": 5000},
    }
    small_space.apply(pod("a"), pod("b"))
    key = f"{small_space.name}/a"
    labels = {"instance": "quota0", "pod": key}
    assert value(scrape(node), "cubelet_quota_budget_bytes", **labels) == 0
    file = node.layout.manifests / "budgets.yaml"
    try:
        file.write_text(yaml.safe_dump(budget))
        node.sync()
        assert value(scrape(node), "cubelet_quota_budget_bytes", **labels) == 5000
        done = cubelet(node, tmp_path, "quota", "budget", key)
        assert (done.returncode, done.stdout, done.stderr) == (0, "5000\n", "")
        done = cubelet(node, tmp_path, "quota", "budget", "nobody")
        assert (done.returncode, done.stderr) == (
            1,
            "error: there is no pod nobody on this node\n",
        )
    finally:
        file.unlink()
    eventually(lambda: not value(scrape(node), "cubelet_quota_budget_bytes", **labels), 10)

    # A namespace's annotation stands in for it, and for its other pods.
    annotated = {
        "kind": "Namespace",
        "metadata": {
            "name": small_space.name,
            "annotations": {"quota.example.com/bytes": "7", "example.org/other": "8"},
        },
    }
    node.apply(annotated)
    found = scrape(node)
    for name in ("a", "b"):
        labels = {"instance": "quota0", "pod": f"{small_space.name}/{name}"}
        assert value(found, "cubelet_quota_budget_bytes", **labels) == 7
    row = plugins(node)["quota"]
    assert (row["state"], row["commands"]) == ("active", "cubelet quota")
    assert row["metrics"] == ["cubelet_quota_budget_bytes", "cubelet_quota_asked_total"]
    assert row["watches"] == ["budgets.example.com"]
    assert "quota0" in str(node.call(NODE, "get", noun="cubes"))
