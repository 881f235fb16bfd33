"""Measures how long a pod waits for its network: CNI's ADD, from the plugin's exec to its answer.

It uses one node of a lab, with a real agent and a full node's pods. The agent knows all Pods, and a
Service and a NetworkPolicy that select them, before; a round then calls ADD and DEL for each pod as
a container runtime does. Both plugins call the same agent, in turns.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from bench.stats import Row, percentile, row
from cubelet.cni import install
from cubelet.lab import agents, cluster, netns
from cubelet.lab.kinds import Manifest
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.lab.store import Store

PODS = 110
"""As many as a kubelet runs by default."""
AT_ONCE = {"one at a time": 1, "10 at a time": 10}
_PER_REPEAT = 24
"""Rounds of other benchmarks that equal one run through all pods."""


@dataclass(frozen=True)
class Runtime:
    """A container runtime: calls one plugin for the pods of a lab's only node."""

    layout: Layout
    plugin: Path

    def call(self, command: str, number: int) -> float:
        """Milliseconds from the start of the plugin's process to its end."""
        pod = self.layout.pod_netns("default", _name(number))
        environment = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": _name(number),
            "CNI_NETNS": str(netns.path(pod)),
            "CNI_IFNAME": "eth0",
            "CNI_PATH": str(self.plugin.parent),
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={_name(number)}",
        }
        config = {
            "cniVersion": "1.1.0",
            "name": "cubelet",
            "type": install.PLUGIN,
            "socket": str(self.layout.socket("node1")),
        }
        began = time.perf_counter()
        done = subprocess.run(
            [self.plugin], input=json.dumps(config).encode(), env=environment, capture_output=True
        )
        took = time.perf_counter() - began
        if done.returncode:
            raise RuntimeError(f"{command} of {_name(number)}: {done.stdout.decode()}")
        return took * 1000


def run(rounds: int = _PER_REPEAT) -> list[Row]:
    """All rows: ADD and DEL by plugin and by number of concurrent calls."""
    series: dict[tuple[str, str], list[float]] = defaultdict(list)
    with _lab() as layout:
        runtimes = {name: Runtime(layout, path) for name, path in _plugins(layout).items()}
        for _ in range(max(1, rounds // _PER_REPEAT)):
            for at_once, workers in AT_ONCE.items():
                for name, runtime in runtimes.items():
                    for command in ("ADD", "DEL"):
                        taken = _all(partial(runtime.call, command), workers)
                        series[f"{command}, {at_once}", name] += taken
    return [each for (case, name), values in series.items() for each in _rows(case, name, values)]


def _rows(case: str, name: str, values: list[float]) -> list[Row]:
    slowest = [percentile(values, 0.99)]
    return [row(case, name, values, "ms"), row(f"{case}, p99", name, slowest, "ms")]


def _all(call: Callable[[int], float], workers: int) -> list[float]:
    with ThreadPoolExecutor(workers) as pool:
        return list(pool.map(call, range(PODS)))


@contextmanager
def _lab() -> Iterator[Layout]:
    """A node that knows its pods, which have network namespaces but are not attached yet."""
    layout = Layout(f"b{os.getpid()}")
    spec = LabSpec(layout.name, plan_nodes(1, ()), {})
    try:
        cluster.up(layout, spec, lambda _: None)
        store = Store(layout)
        for manifest in _objects():
            store.put(manifest)
        for number in range(PODS):
            netns.create(layout.pod_netns("default", _name(number)))
        agents.sync(layout, spec)
        yield layout
    finally:
        cluster.down(layout)


def _plugins(layout: Layout) -> Mapping[str, Path]:
    """The compiled plugin, and the script that replaces it where there is no compiler."""
    program, script = layout.root / "program" / install.PLUGIN, layout.root / "script.py"
    install.build_plugin(program)
    script.write_bytes(install.script())
    script.chmod(0o755)
    return {"C": program, "Python": script}


def _name(number: int) -> str:
    return f"pod{number}"


def _objects() -> Iterator[Manifest]:
    port = {"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}
    yield _object("v1", "Service", "all", {"selector": {"app": "all"}, "ports": [port]})
    policy = {
        "podSelector": {"matchLabels": {"app": "all"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "all"}}}]}],
    }
    yield _object("networking.k8s.io/v1", "NetworkPolicy", "all", policy)
    for number in range(PODS):
        containers = [{"name": "c", "ports": [{"containerPort": 8080}]}]
        yield _object("v1", "Pod", _name(number), {"nodeName": "node1", "containers": containers})


def _object(version: str, kind: str, name: str, spec: Mapping[str, Any]) -> Manifest:
    metadata = {"name": name, "namespace": "default", "labels": {"app": "all"}}
    return {"apiVersion": version, "kind": kind, "metadata": metadata, "spec": dict(spec)}
