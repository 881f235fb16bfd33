"""A lab that is up, as tests use it: objects in, real traffic, agents ended and started."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import msgspec

from cubelet.bpf.maps import BpfMap
from cubelet.composer.layout import map_specs
from cubelet.config.cluster import ClusterConfig
from cubelet.config.node import Settings
from cubelet.config.setup import make_setup
from cubelet.cubes.discovery import discover
from cubelet.ipc import client
from cubelet.lab import agents, netns, processes, traffic
from cubelet.lab.kinds import Key, Manifest
from cubelet.lab.layout import LabNode, LabSpec, Layout
from cubelet.lab.objects import Objects
from cubelet.net import sysctl
from cubelet.net.netns import enter, opened

T = TypeVar("T")

QUICK: dict[str, Any] = {"sweep_seconds": 1, "linger_seconds": 0}
"""Settings of agents that do at once what otherwise waits for more of the same."""

Contents = dict[str, dict[bytes, bytes]]
"""Records by map."""


class World:
    """One lab."""

    def __init__(self, layout: Layout, spec: LabSpec) -> None:
        self.layout = layout
        self.spec = spec
        self.objects = Objects(layout, spec)

    def apply(self, *manifests: Manifest) -> None:
        """Create or change objects; all must succeed and are in force afterwards."""
        outcomes = self.objects.apply(manifests)
        failed = [o for o in outcomes if o.done in ("failed", "ignored")]
        assert not failed, failed

    def delete(self, *keys: Key) -> None:
        """Remove objects; what was not there is no error."""
        failed = [o for o in self.objects.delete(keys) if o.done == "failed"]
        assert not failed, failed

    def run(self, place: str, function: Callable[..., T], *args: Any, timeout: float = 30) -> T:
        """A function's result, run in a namespace."""
        return netns.run(place, function, *args, timeout=timeout)

    def set(self, place: str, key: str, value: str) -> None:
        """Write a kernel setting below ``net`` of a namespace."""
        self.run(place, sysctl.write, key, value)

    def node(self, name: str) -> LabNode:
        """One of the lab's nodes."""
        return next(node for node in self.spec.nodes if node.name == name)

    def at_node(self, name: str) -> str:
        """A node's namespace."""
        return self.layout.node_netns(name)

    @property
    def outside(self) -> str:
        """The namespace of what is not part of the cluster."""
        return self.layout.outside_netns

    # Agents

    def call(self, node: str, method: str, **params: Any) -> Any:
        """What a node's agent answers."""
        return client.call(str(self.layout.socket(node)), method, params, 30)

    def sync(self) -> None:
        """Return once the agents have taken in what the folder holds."""
        agents.sync(self.layout, self.spec)

    def pid(self, node: str) -> int:
        """The process of a node's agent."""
        record = self.layout.processes / f"{agents.process(self.node(node))}.json"
        return msgspec.json.decode(record.read_bytes(), type=processes.Record).pid

    def signal(self, node: str, number: signal.Signals) -> int:
        """Send a node's agent a signal; returns its process id."""
        pid = self.pid(node)
        os.kill(pid, number)
        return pid

    def kill(self, node: str) -> None:
        """End a node's agent as a crash does: SIGKILL."""
        agents.kill(self.layout, agents.chosen(self.spec, [node]))

    def stop(self, *nodes: str) -> None:
        """End nodes' agents as an upgrade does: SIGTERM."""
        processes.end(self.layout, [agents.process(self.node(node)) for node in nodes])

    def start(self, *nodes: str, **settings: Any) -> None:
        """Start nodes' agents, with further settings, and wait until they are ready."""
        merged = agents.merge(self.spec.settings, settings)
        some = tuple(map(self.node, nodes))
        spec = msgspec.structs.replace(self.spec, nodes=some, settings=merged)
        agents.start(self.layout, spec)
        agents.wait_ready(self.layout, spec, lambda _: None)

    def made_in(self, place: str, make: Callable[[], T]) -> T:
        """What a thread in a namespace makes, such as a socket of that network."""

        def enter_and_make() -> T:
            with opened(str(netns.path(place))) as descriptor:
                enter(descriptor)
            return make()

        with ThreadPoolExecutor(1) as pool:  # a thread has a namespace of its own
            return pool.submit(enter_and_make).result()

    # What the kernel holds

    def pinned(self, node: str) -> dict[str, int]:
        """The ids of a node's pinned maps, by pin."""
        found = {}
        for path in sorted((self.layout.bpffs_of(node) / "maps").iterdir()):
            with BpfMap.open(path) as table:
                found[path.name] = table.info.id
        return found

    def planned(self, node: str) -> Contents:
        """What a node's planned maps hold, by C name; empty records of arrays left out."""
        found: Contents = {}
        for name, path in self.planned_pins(node).items():
            with BpfMap.open(path) as table:
                found[name] = {key: value for key, value in table.items() if any(value)}
        return found

    def planned_pins(self, node: str) -> Mapping[str, str]:
        """Where a node's planned maps are pinned, by C name; those of composed cubes are."""
        setup = make_setup(Settings(), ClusterConfig(), discover())
        folder = self.layout.bpffs_of(node) / "maps"
        places = {
            spec.c_name: folder / f"{spec.c_name}-{spec.identity}"
            for spec in map_specs(setup.core, setup.composition.cubes)
            if spec.declared and spec.declared.planned
        }
        return {name: str(path) for name, path in places.items() if path.exists()}


class Space:
    """A Kubernetes namespace that one test has for itself, and its pods and Services by name."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name

    def apply(self, *manifests: Manifest) -> None:
        """Create or change objects of this namespace; they are in force afterwards."""
        for manifest in manifests:
            manifest["metadata"]["namespace"] = self.name
        self.world.apply(*manifests)

    def delete(self, kind: str, *names: str) -> None:
        """Remove objects of this namespace."""
        self.world.delete(*(Key(kind, self.name, name) for name in names))

    def get(self, kind: str, name: str) -> Manifest:
        """An object as it is stored."""
        found = self.world.objects.store.get(Key(kind, self.name, name))
        assert found is not None, f"there is no {kind} {name}"
        return found

    def at(self, pod: str) -> str:
        """The network namespace of a pod that is not on its host's network."""
        return self.world.layout.pod_netns(self.name, pod)

    def ip(self, pod: str) -> str:
        """A pod's address."""
        return str(self.get("Pod", pod)["status"]["podIP"])

    def vip(self, service: str) -> str:
        """A Service's ClusterIP."""
        return str(self.get("Service", service)["spec"]["clusterIP"])

    def node_port(self, service: str, protocol: str = "TCP") -> int:
        """The node port of a Service's first port of a protocol."""
        ports = self.get("Service", service)["spec"]["ports"]
        return next(int(port["nodePort"]) for port in ports if port["protocol"] == protocol)

    def who(
        self, place: str, address: str, port: int, protocol: str = "TCP", timeout: float = 2
    ) -> str:
        """Which pod of this namespace answers; else what came of it."""
        result = self.world.run(place, traffic.who, address, port, protocol, timeout)
        return result.server.removeprefix(f"{self.name}/") or result.outcome

    def backends(self, place: str, address: str, port: int, protocol: str = "TCP") -> set[str]:
        """Who answers, over a number of connections that reaches each of two backends."""
        return self.world.run(place, _ask_often, address, port, protocol, self.name)


def _ask_often(address: str, port: int, protocol: str, namespace: str) -> set[str]:
    """All of 20 connections reach the same one of two backends once in half a million."""
    results = [traffic.who(address, port, protocol) for _ in range(20)]
    return {r.server.removeprefix(f"{namespace}/") or r.outcome for r in results}


def eventually(holds: Callable[[], bool], seconds: float) -> float:
    """How long it takes, at most so many seconds, until a condition holds."""
    began = time.monotonic()
    while not holds():
        elapsed = time.monotonic() - began
        assert elapsed < seconds, f"not so within {seconds:g} s"
        time.sleep(0.02)
    return time.monotonic() - began
