"""Starts the nodes' agents, waits until they are ready, and until changes are in force."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import msgspec
import yaml

from cubelet.ipc.client import AgentBusyError, AgentUnreachableError, call
from cubelet.lab import api, processes
from cubelet.lab.errors import LabError
from cubelet.lab.layout import LabNode, LabSpec, Layout

PROBLEM_LIMIT: Final = 10.0  # seconds; an agent that is not ready and has a problem longer fails
START_LIMIT: Final = 90.0  # seconds for all agents together, compilation included
SYNC_LIMIT: Final = 60.0  # seconds until an agent has put a change in force
_STATUS_LIMIT: Final = 5.0  # seconds until an agent has told its status
_POLL: Final = 0.05


def process(node: LabNode) -> str:
    """The name under which a node's agent is recorded, and logs."""
    return f"agent.{node.name}"


def settings(layout: Layout, spec: LabSpec, node: LabNode) -> dict[str, Any]:
    """The settings of a node's agent: those of the lab, overridden by its user's."""
    own: dict[str, Any] = {
        "node_name": node.name,
        **(api.settings(layout) if spec.api else {"manifests": str(layout.manifests)}),
        "socket": str(layout.socket(node.name)),
        "state_dir": str(layout.node(node.name) / "state"),
        "bpffs": str(layout.bpffs_of(node.name)),
        "cni_bin": str(layout.cni_bin(node.name)),
        "cni_conf": str(layout.node(node.name) / "10-cubelet.conflist"),
    }
    return merge(own, spec.settings)


def merge(base: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with the values of `extra`, mappings inside them merged likewise."""
    merged = dict(base)
    for key, value in extra.items():
        old = merged.get(key)
        both = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[key] = merge(old, value) if both else value  # type: ignore[arg-type]
    return merged


def start(layout: Layout, spec: LabSpec) -> None:
    """Start the agents of all nodes at once; they may not be ready yet."""
    for node in spec.nodes:
        config = layout.node(node.name) / "agent.yaml"
        config.parent.mkdir(parents=True, exist_ok=True)
        config.write_text(yaml.safe_dump(settings(layout, spec, node), sort_keys=False))
        processes.spawn(
            layout,
            process(node),
            layout.node_netns(node.name),
            [sys.executable, "-m", "cubelet", "agent", "--config", str(config)],
        )


def chosen(spec: LabSpec, names: Sequence[str]) -> LabSpec:
    """The lab with these of its nodes; with all if none is named. Raises LabError."""
    unknown = set(names) - {node.name for node in spec.nodes}
    if unknown:
        known = ", ".join(node.name for node in spec.nodes)
        raise LabError(f"lab {spec.name} has no node {', '.join(sorted(unknown))}; it has {known}")
    some = tuple(node for node in spec.nodes if not names or node.name in names)
    return msgspec.structs.replace(spec, nodes=some)


def restart(layout: Layout, spec: LabSpec, tell: Callable[[str], None]) -> None:
    """End these nodes' agents as an upgrade does (SIGTERM), and start them, also dead ones.

    Returns when they are ready. Raises LabError as `wait_ready` does.
    """
    processes.end(layout, map(process, spec.nodes))
    start(layout, spec)
    wait_ready(layout, spec, tell)


def kill(layout: Layout, spec: LabSpec) -> list[LabNode]:
    """End these nodes' agents as a crash does (SIGKILL); returns the nodes where one ran."""
    running = [node for node in spec.nodes if processes.alive(layout, process(node))]
    processes.end(layout, map(process, running), [signal.SIGKILL])
    return running


def wait_ready(layout: Layout, spec: LabSpec, tell: Callable[[str], None]) -> None:
    """Wait until all agents are ready, reporting each; raises LabError with the log of one that
    ended, has a lasting problem, or took too long."""
    began = time.monotonic()
    waiting = {node: Symptoms() for node in spec.nodes}
    while waiting:
        for node, symptoms in tuple(waiting.items()):
            status = _status(layout, node)
            elapsed = time.monotonic() - began
            lasting = symptoms.lasting(_obstacles(layout, status), elapsed)
            if status["ready"]:
                del waiting[node]
                tell(f"{node.name}: agent ready after {elapsed:.1f} s")
            elif not processes.alive(layout, process(node)):
                raise LabError(f"{node.name}: the agent ended", _log(layout, node))
            elif lasting and not status.get("waiting"):  # what it is at may be the way out
                raise LabError(f"{node.name}: {'; '.join(lasting)}", _log(layout, node))
            elif elapsed > START_LIMIT:
                message = f"{node.name}: the agent is not ready after {elapsed:.0f} s"
                raise LabError(message, _log(layout, node))
        time.sleep(_POLL if waiting else 0)


class Symptoms:
    """An agent's problems, and since when it has each."""

    def __init__(self) -> None:
        self._since: dict[str, float] = {}

    def lasting(self, problems: Sequence[str], now: float) -> list[str]:
        """Take in the problems of the time `now` (seconds); returns those that last too long."""
        self._since = {problem: self._since.get(problem, now) for problem in problems}
        return [each for each, since in self._since.items() if now - since > PROBLEM_LIMIT]


def sync(layout: Layout, spec: LabSpec) -> dict[str, list[str]]:
    """Wait until every agent has put the stored objects in force; returns problems by node.

    Nodes without problems are left out. Raises LabError with the agent's log if an agent is gone,
    AgentError with an agent's own error.
    """

    def one(node: LabNode) -> list[str]:
        try:
            found = call(str(layout.socket(node.name)), "sync", {}, SYNC_LIMIT)
        except AgentBusyError as error:
            message = f"{node.name}: not in force after {SYNC_LIMIT:g} s: {_busy(layout, node)}"
            raise LabError(message, _log(layout, node)) from error
        except AgentUnreachableError as error:
            message = f"{node.name}: {error.message}: {error.details}"
            raise LabError(message, _log(layout, node)) from error
        return list(found.get("problems", ()))

    with ThreadPoolExecutor(len(spec.nodes)) as pool:
        problems = zip(spec.nodes, pool.map(one, spec.nodes), strict=True)
        return {node.name: found for node, found in problems if found}


def _busy(layout: Layout, node: LabNode) -> str:
    """What an agent says of itself that has not answered in time."""
    try:
        status = call(str(layout.socket(node.name)), "status", {}, _STATUS_LIMIT)
    except AgentUnreachableError:
        alive = processes.alive(layout, process(node))
        return "the agent runs, but does not even tell its status" if alive else "the agent ended"
    said = [*status["waiting"], *status["problems"]]
    return f"the agent is alive and busy: {'; '.join(said) or 'it does not say why'}"


def _status(layout: Layout, node: LabNode) -> dict[str, Any]:
    try:
        status: dict[str, Any] = call(str(layout.socket(node.name)), "status", {}, _STATUS_LIMIT)
    except AgentUnreachableError:
        return {"ready": False}  # it does not listen yet
    return status


def _obstacles(layout: Layout, status: Mapping[str, Any]) -> list[str]:
    """The problems that may keep an agent from being ready: those of manifests never do."""
    manifests = set(os.listdir(layout.manifests)) if layout.manifests.is_dir() else set()
    problems = status.get("problems", ())
    return [problem for problem in problems if problem.partition(":")[0] not in manifests]


def _log(layout: Layout, node: LabNode) -> str:
    return processes.tail(layout.log(process(node)))
