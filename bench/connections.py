"""New connections: how many a second, and which of them fail, at full rate and for some time.

A lab of two nodes with real agents. Three ways that need a record and mostly a translated port for
each connection, each beside a bare one in the same lab, in turns: the same program makes the load
and serves it. What the bare path does without a failure, ours has to do so too.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.stats import Row, ratio_row, row
from cubelet.lab import cluster, netns
from cubelet.lab.kinds import Key, Manifest
from cubelet.lab.layout import OUTSIDE_ADDRESS, LabSpec, Layout, plan_nodes
from cubelet.lab.objects import Objects

SECONDS = 20.0
"""Of each measurement."""
AT_ONCE = 64
"""Connections under way: enough to keep two CPUs busy."""
PORT = 9_000
NODE_PORT = 30_900
_PER_PAIR = 4
"""Rounds, as the other benchmarks count them, for one more pair of measurements a way."""
_ENOUGH_FOR_INTERVAL = 6
_COMPILERS = ("gcc", "cc", "clang")
_SOURCE = Path(__file__).with_name("connections.c")
_BARE = ("bare-client", "bare-server")
_BARE_ADDRESSES = ("192.0.2.1", "192.0.2.2")
_PORTS = "1024 65535"
_NODE_PORTS = "33000 65535"
"""Above what is translated and what NodePorts are: a node's own clients stay out of both."""


class Counted(msgspec.Struct, frozen=True):
    """What the load maker says: see ``connections.c``. Latencies: p50, p90, p99, p99.9, longest."""

    seconds: float
    opened: int
    answered: int
    timeouts: int
    cut_short: int
    errors: Mapping[str, int]
    latency_us: tuple[int, int, int, int, int]

    @property
    def failed(self) -> int:
        """Connections that were not answered in full, in time."""
        return self.opened - self.answered

    @property
    def rate(self) -> float:
        """Answered connections a second."""
        return self.answered / self.seconds


@dataclass(frozen=True)
class Way:
    """From a network namespace to an address."""

    place: str
    address: str
    port: int = PORT


def run(rounds: int = 24) -> list[Row]:
    """Rates, failures and slowest connections of each way and of the bare one beside it."""
    pairs = max(1, rounds // _PER_PAIR)
    counted: dict[tuple[str, str], list[Counted]] = defaultdict(list)
    with tempfile.TemporaryDirectory() as folder, _lab() as (layout, objects):
        program = build(Path(folder, "connections"))
        with _served(program, layout):
            ways = _ways(layout, objects)
            for _ in range(pairs):
                for case, pair in ways.items():
                    for name, way in pair.items():
                        counted[case, name].append(load(program, way, SECONDS))
    return [each for case in ways for each in _rows(case, counted)]


def build(target: Path) -> Path:
    """The load maker, compiled. Raises RuntimeError where no compiler can."""
    said = "there is none of " + ", ".join(_COMPILERS)
    for compiler in filter(shutil.which, _COMPILERS):
        command = [compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", str(target), str(_SOURCE)]
        done = subprocess.run(command, capture_output=True, text=True)
        if not done.returncode:
            return target
        said = f"{compiler}: {done.stderr}"
    raise RuntimeError(f"{_SOURCE.name} cannot be compiled: {said}")


def load(program: Path, way: Way, seconds: float, rate: float = 0) -> Counted:
    """Make connections; as many as go, or so many a second."""
    asked = [str(program), "load", way.address, str(way.port), str(seconds), str(AT_ONCE)]
    command = netns.command(way.place, [*asked, *([str(rate)] if rate else [])])
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 60)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return msgspec.json.decode(done.stdout, type=Counted)


def _rows(case: str, counted: Mapping[tuple[str, str], list[Counted]]) -> Iterator[Row]:
    for name in ("cubelet", "bare"):
        series = counted[case, name]
        yield row(case, name, [each.rate for each in series], "1/s")
        yield row(f"{case}, failed", name, [each.failed for each in series], "count")
        yield row(f"{case}, p99", name, [each.latency_us[2] for each in series], "us")
        for error, count in sorted(_errors(series).items()):
            yield row(f"{case}, {error} in all", name, [count], "count")
    ours, bare = (counted[case, name] for name in ("cubelet", "bare"))
    if len(ours) >= _ENOUGH_FOR_INTERVAL:
        yield ratio_row(case, "to bare", [o.rate for o in ours], [b.rate for b in bare])


def _errors(series: list[Counted]) -> Mapping[str, int]:
    found: dict[str, int] = defaultdict(int)
    for each in series:
        for name, count in each.errors.items():
            found[name] += count
        found["timed out"] += each.timeouts
        found["cut short"] += each.cut_short
    return {name: count for name, count in found.items() if count}


# The lab


@contextmanager
def _lab() -> Iterator[tuple[Layout, Objects]]:
    """Two nodes with a client and servers, and two hosts with nothing between them."""
    layout = Layout(f"b{os.getpid()}")
    spec = LabSpec(layout.name, plan_nodes(2, ()), {})
    try:
        cluster.up(layout, spec, lambda _: None)
        _bare(layout)
        objects = Objects(layout, spec)
        failed = [each for each in objects.apply(_manifests()) if each.done == "failed"]
        if failed:
            raise RuntimeError(f"the lab refused {failed}")
        yield layout, objects
    finally:
        cluster.down(layout)


def _bare(layout: Layout) -> None:
    """Two namespaces and nothing but a veth between them."""
    client, server = (f"{layout.netns_prefix}{name}" for name in _BARE)
    netns.create(client)
    netns.create(server)
    netns.ip(
        ["link", "add", "eth0", "type", "veth", "peer", "name", "eth0", "netns", server], client
    )
    for place, address in zip((client, server), _BARE_ADDRESSES, strict=True):
        netns.ip_batch([f"address add {address}/24 dev eth0", "link set eth0 up"], place)


def _manifests() -> list[Manifest]:
    pods = [_pod("client", "node1"), _pod("near", "node1"), _pod("far", "node2")]
    return [*pods, _service("near"), _service("far", NODE_PORT)]


def _pod(name: str, node: str) -> Manifest:
    """The load maker is started in its namespace: the pod itself serves nothing."""
    return {
        "kind": "Pod",
        "metadata": {"namespace": "default", "name": name, "labels": {"app": name}},
        "spec": {"nodeName": node, "containers": [{"name": "c", "image": "lab", "ports": []}]},
    }


def _service(name: str, node_port: int = 0) -> Manifest:
    port = {"port": PORT, "targetPort": PORT, "protocol": "TCP", "name": "tcp"}
    if node_port:
        port["nodePort"] = node_port
    return {
        "kind": "Service",
        "metadata": {"namespace": "default", "name": name},
        "spec": {
            "type": "NodePort" if node_port else "ClusterIP",
            "selector": {"app": name},
            "ports": [port],
        },
    }


def _ways(layout: Layout, objects: Objects) -> Mapping[str, Mapping[str, Way]]:
    """By case: ours, and the bare one."""
    node1, node2 = (node.address for node in layout.load().nodes)
    client = layout.pod_netns("default", "client")
    stored = objects.store.get(Key("Service", "default", "near"))
    if stored is None:
        raise RuntimeError("the Service default/near is not there")
    vip = stored["spec"]["clusterIP"]
    bare = Way(f"{layout.netns_prefix}{_BARE[0]}", _BARE_ADDRESSES[1])
    return {
        "ClusterIP": {"cubelet": Way(client, vip), "bare": bare},
        "NodePort, remote backend": {
            "cubelet": Way(layout.outside_netns, node1, NODE_PORT),
            "bare": Way(layout.outside_netns, node2),
        },
        "masquerade": {
            "cubelet": Way(client, OUTSIDE_ADDRESS),
            "bare": Way(layout.node_netns("node1"), OUTSIDE_ADDRESS),
        },
    }


@contextmanager
def _served(program: Path, layout: Layout) -> Iterator[None]:
    """The server, wherever some way leads; clients that may use all their ports."""
    servers = [layout.pod_netns("default", name) for name in ("near", "far")]
    servers += [layout.node_netns("node2"), layout.outside_netns]
    servers += [f"{layout.netns_prefix}{_BARE[1]}"]
    clients = [layout.pod_netns("default", "client"), f"{layout.netns_prefix}{_BARE[0]}"]
    for place in (*clients, layout.outside_netns):
        netns.run(place, _use_ports, _PORTS)
    netns.run(layout.node_netns("node1"), _use_ports, _NODE_PORTS)
    with ExitStack() as stack:
        for place in servers:
            stack.callback(_serve(program, place))
        yield


def _serve(program: Path, place: str) -> Callable[[], None]:
    command = netns.command(place, [str(program), "serve", str(PORT)])
    server = subprocess.Popen(command, stdout=subprocess.PIPE)
    if server.stdout is None or server.stdout.readline() != b"ready\n":
        server.kill()
        raise RuntimeError(f"{' '.join(command)} does not serve")

    def end() -> None:
        server.kill()
        server.wait()
        if server.stdout is not None:
            server.stdout.close()

    return end


def _use_ports(ports: str) -> None:
    """For this namespace's clients."""
    Path("/proc/sys/net/ipv4/ip_local_port_range").write_text(ports)
