"""Measures an agent in a large cluster: first sync, memory, changes.

A real agent runs in a lab node's namespace, with maps and programs of its own; a process outside
the cluster serves 10,000 Services, 100,000 endpoints and 5,000 Nodes to it over HTTP. Both share
the machine's CPUs, so the wall-clock time of a sync includes the server's work; the agent's CPU
time does not.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from bench import fleet
from bench.fleet import Fleet
from bench.stats import Row, percentile, row
from cubelet.bpf.maps import BpfMap
from cubelet.ipc.client import AgentError, call
from cubelet.lab import agents, cluster, netns, processes, wire
from cubelet.lab.layout import OUTSIDE_ADDRESS, LabSpec, Layout, plan_nodes
from cubelet_lbrp.records import FrontendKey, Scope

LARGE = Fleet(nodes=5_000, services=10_000, endpoints=100_000)
WITH_PODS = LARGE._replace(pods=100_000)
SMALL = Fleet(nodes=3, services=10, endpoints=30, pods=30)
SYNCS = 3
MOVES = 200
CHURN = 20.0
"""Changes per second, the rate that the project is designed for."""
_LAYOUT = Layout("benchsync")
_PORT = 6443
_LIMIT = 180.0
_SETTLE = 3.0
_CHURN_SECONDS = 20.0
_TICK = os.sysconf("SC_CLK_TCK")
_KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: it
contexts: [{name: it, context: {cluster: it, user: it}}]
clusters: [{name: it, cluster: {server: "http://%s:%d"}}]
users: [{name: it, user: {token: it}}]
"""


class Usage(msgspec.Struct, frozen=True):
    """A process' CPU seconds (without its children's), and its MB resident, now and at most."""

    cpu: float
    resident: float
    peak: float


class Server:
    """The process that serves a fleet."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, line: str) -> float:
        """Send a command and return the number that is answered."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return float(self.read())

    def read(self) -> str:
        """The next line that the process prints."""
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise RuntimeError("bench.apiserver ended; run it by hand to see why")
        return line


def run(rounds: int = SYNCS) -> list[Row]:
    """Measure; at most ``SYNCS`` first syncs of each cluster."""
    syncs = min(rounds, SYNCS)
    small, _ = _first_syncs(SMALL, 1)
    rows = [row("small cluster", "resident", [small[0].usage.resident], "MB")]
    for size, name in ((LARGE, "large cluster"), (WITH_PODS, "the same with 100,000 pods")):
        found, changes = _first_syncs(size, syncs, MOVES)
        rows += [
            row(name, "first sync", [each.seconds for each in found], "s"),
            row(name, "agent's CPU for it", [each.usage.cpu for each in found], "s"),
            row(name, "resident", [each.usage.resident for each in found], "MB"),
            row(name, "resident at most", [each.usage.peak for each in found], "MB"),
            *(msgspec.structs.replace(each, case=name) for each in changes),
        ]
    return rows


class Sync(msgspec.Struct, frozen=True):
    """A first sync: seconds from the agent's start until it was ready, and its usage."""

    seconds: float
    usage: Usage


def _first_syncs(size: Fleet, times: int, moves: int = 0) -> tuple[list[Sync], list[Row]]:
    """Start an agent on an empty node, several times; changes are measured with the last one."""
    found: list[Sync] = []
    changes: list[Row] = []
    for number in range(times):
        with _lab(size) as server:
            began = time.monotonic()
            agents.start(_LAYOUT, _LAYOUT.load())
            _wait_ready()
            seconds, cpu = time.monotonic() - began, usage().cpu
            _check(size)
            time.sleep(_SETTLE)
            found.append(Sync(seconds, msgspec.structs.replace(usage(), cpu=cpu)))
            if moves and number == times - 1:
                changes = _changes(server, moves)
    return found, changes


def _changes(server: Server, moves: int) -> list[Row]:
    """The agent's share of a CPU at 20 changes a second, and a change's delay to its map."""
    before, began = usage().cpu, time.monotonic()
    done = server.ask(f"churn {CHURN}")
    time.sleep(_CHURN_SECONDS)
    cpu, seconds = usage().cpu - before, time.monotonic() - began
    rate = (server.ask(f"churn {CHURN}") - done) / seconds
    if rate < CHURN * 0.9:
        raise RuntimeError(f"the server made {rate:.1f} changes a second instead of {CHURN:g}")
    delays = list(_delays(server, moves))
    return [
        row("", "CPU at 20 changes a second", [100 * cpu / seconds], "%"),
        row("", "change to map", delays, "ms"),
        row("", "change to map, p99", [percentile(delays, 0.99)], "ms"),
    ]


def _delays(server: Server, moves: int) -> Iterator[float]:
    """Milliseconds from a change in the server until the datapath's map has it."""
    (pin,) = _pins("lbrp0_services")
    key = FrontendKey(fleet.vip(0), 80, 6, Scope.INSIDE).pack()
    chance = random.Random(1)
    services = BpfMap.open(pin)
    try:
        for _ in range(moves):
            time.sleep(chance.uniform(0.02, 0.2))
            old = services.lookup(key)
            changed = server.ask("move")
            while services.lookup(key) == old:
                if time.monotonic() - changed > _LIMIT:
                    raise RuntimeError("a change never came to the map")
                time.sleep(0.0005)
            yield (time.monotonic() - changed) * 1000
    finally:
        services.close()


@contextmanager
def _lab(size: Fleet) -> Iterator[Server]:
    """A node without an agent yet, and a server outside the cluster; removed at the end."""
    cluster.tear_down(_LAYOUT)
    try:
        _LAYOUT.root.mkdir(parents=True)
        _LAYOUT.bpffs.mkdir(exist_ok=True)
        kubeconfig = _LAYOUT.root / "kubeconfig"
        kubeconfig.write_text(_KUBECONFIG % (OUTSIDE_ADDRESS, _PORT))
        settings: dict[str, object] = {
            "source": "kubernetes",
            "kubernetes": {"kubeconfig": str(kubeconfig)},
        }
        spec = LabSpec(_LAYOUT.name, plan_nodes(1, ()), settings)
        _LAYOUT.spec.write_bytes(msgspec.json.encode(spec))
        wire.build(_LAYOUT, spec)
        manifest = msgspec.json.encode(cluster.node_manifest(spec.nodes[0])).decode()
        arguments = [OUTSIDE_ADDRESS, str(_PORT), *map(str, size), manifest]
        with _serving([sys.executable, "-m", "bench.apiserver", *arguments]) as server:
            yield server
    finally:
        cluster.tear_down(_LAYOUT)


@contextmanager
def _serving(command: Sequence[str]) -> Iterator[Server]:
    """The server, in the namespace of the nodes' default gateway; it ends with its input."""
    with subprocess.Popen(
        netns.command(_LAYOUT.outside_netns, command),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        server = Server(process)
        server.read()
        yield server


def _wait_ready() -> None:
    socket, deadline = str(_LAYOUT.socket("node1")), time.monotonic() + _LIMIT
    status: object = "no answer yet"
    while time.monotonic() < deadline:
        try:
            status = call(socket, "status", {}, _LIMIT)
        except AgentError as error:
            status = error
        if isinstance(status, dict) and status["ready"]:
            return
        time.sleep(0.2)  # each call costs the agent a millisecond
    log = processes.tail(_LAYOUT.log("agent.node1"))
    raise RuntimeError(f"the agent is not ready after {_LIMIT:g} s: {status}\n{log}")


def _check(size: Fleet) -> None:
    """Check that the maps hold entries for all of the server's objects."""
    for name, wanted in (("lbrp0_services", size.services), ("lbrp0_backends", size.endpoints)):
        (pin,) = _pins(name)
        opened = BpfMap.open(pin)
        found = sum(1 for _ in opened.items())
        opened.close()
        if found < wanted:
            raise RuntimeError(f"{name} has {found} entries, less than {wanted}")


def _pins(name: str) -> list[Path]:
    return list(_LAYOUT.bpffs_of("node1").glob(f"maps/{name}-*"))


def usage() -> Usage:
    """The agent's usage so far."""
    record = (_LAYOUT.processes / "agent.node1.json").read_bytes()
    process = Path("/proc") / str(msgspec.json.decode(record, type=processes.Record).pid)
    fields = (process / "stat").read_text().rpartition(")")[2].split()
    status = dict(
        line.split(":", 1) for line in (process / "status").read_text().splitlines() if ":" in line
    )
    return Usage(
        (int(fields[11]) + int(fields[12])) / _TICK,
        int(status["VmRSS"].split()[0]) / 1000,
        int(status["VmHWM"].split()[0]) / 1000,
    )
