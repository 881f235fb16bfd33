"""The example ddos on a real node: put in and taken out under traffic, it stops floods alone."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cubelet.lab import netns, traffic
from cubelet.lab.kinds import Key

from .foreign import NODE, command, configuration, configure, example, plugins, start
from .load import connections, datagrams, loads, stream
from .manifests import pod, service
from .world import Space, World, eventually

ECHO = 7
FLOODER, LISTED, OPERATORS = "172.18.0.150", "172.18.0.151", "172.18.0.152"
"""Further addresses of the outside."""
RATE = 20_000
METRICS = "127.0.0.1:9881"
BLOCKLIST = {
    "apiVersion": "ddos.cubelet.io/v1",
    "kind": "Blocklist",
    "metadata": {"name": "bots"},
    "spec": {"prefixes": [f"{LISTED}/32", "198.51.100.0/33"], "reason": "seen scanning"},
}


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cube is installed."""
    folder = tmp_path_factory.mktemp("packages")
    example(folder, "ddos")
    return folder


@pytest.fixture(scope="module")
def node(small: World, packages: Path) -> Iterator[World]:
    """The small lab with the cube installed but excluded; as before afterwards."""
    file = small.layout.manifests / "blocklists.yaml"
    added = [f"{address}/24" for address in (FLOODER, LISTED, OPERATORS)]
    small.stop(NODE)
    small.objects.store.put(configuration({"exclude": ["ddos"]}))
    start(small, command(small, metrics=METRICS), packages)
    for each in added:
        netns.ip(["address", "add", each, "dev", "eth0"], small.outside)
    yield small
    for each in added:
        netns.ip(["address", "delete", each, "dev", "eth0"], small.outside)
    file.unlink(missing_ok=True)
    small.delete(Key("ConfigMap", "kube-system", "cubelet"))
    small.stop(NODE)
    small.start(NODE)
    assert small.call(NODE, "status")["problems"] == []


def cubelet(world: World, folder: Path, *arguments: str) -> str:
    """What the command says."""
    done = subprocess.run(
        [sys.executable, "-m", "cubelet", *arguments],
        capture_output=True,
        text=True,
        timeout=30,
        env={
            **os.environ,
            "CUBELET_SOCKET": str(world.layout.socket(NODE)),
            "PYTHONPATH": str(folder),
        },
    )
    return done.stdout + done.stderr


def asks(source: str, address: str, port: int) -> bool:
    """Whether a connection from one of our addresses is answered."""
    try:
        with socket.create_connection((address, port), 0.4, (source, 0)) as client:
            client.sendall(b"who\n")
            return bool(client.recv(100))
    except OSError:
        return False


def flood(source: str, address: str, packets: int) -> float:
    """Send so many datagrams to a port that nobody serves, as fast as it goes; the seconds."""
    began = time.perf_counter()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind((source, 0))
        for _ in range(packets):
            client.sendto(bytes(18), (address, 9))
    return time.perf_counter() - began


def scrape() -> str:
    """The agent's metrics."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=10) as found:
        return str(found.read().decode())


def in_driver(world: World) -> bool:
    """Whether the uplink's driver runs a program."""
    command = ["ip", "-netns", world.at_node(NODE), "-json", "link", "show", "eth0"]
    done = subprocess.run(command, capture_output=True, check=True)
    return "xdp" in json.loads(done.stdout)[0]


def drops(world: World) -> dict[str, int]:
    """The cube's drops by reason."""
    rows = world.call(NODE, "get", noun="drops")
    return {row["reason"]: row["packets"] for row in rows if row["cube"] == "ddos"}


def blocked(world: World) -> dict[str, dict[str, Any]]:
    return {row["source"]: row for row in world.call(NODE, "get", noun="blocked")}


def serve(space: Space) -> tuple[int, int]:
    """A pod that answers, and its node ports for TCP and UDP."""
    ports = (("TCP", ECHO, ECHO), ("UDP", ECHO, ECHO))
    space.apply(
        pod("a"),
        pod("b", ("TCP", ECHO), ("UDP", ECHO)),
        service("web", "b", *ports, type="NodePort"),
    )
    return space.node_port("web"), space.node_port("web", "UDP")


def test_it_comes_works_and_goes_and_others_lose_nothing(
    node: World, small_space: Space, packages: Path
) -> None:
    tcp, udp = serve(small_space)
    address, outside = node.node(NODE).address, node.outside
    a, b = small_space.at("a"), small_space.ip("b")
    assert plugins(node)["ddos"]["state"] != "active"
    with loads() as running:
        running.add("from outside, UDP", outside, datagrams, address, udp)
        running.add("from outside, TCP", outside, stream, address, tcp)
        running.add("from outside, new", outside, connections, address, tcp)
        running.add("pod to pod", a, datagrams, b, ECHO)
        time.sleep(0.3)
        assert configure(node, {"cubes": {"ddos": {"rate": RATE}}}) == []
        assert plugins(node)["ddos"]["state"] == "active"
        assert in_driver(node)

        assert node.run(outside, asks, LISTED, address, tcp)
        (node.layout.manifests / "blocklists.yaml").write_text(yaml.safe_dump(BLOCKLIST))
        node.sync()
        assert not node.run(outside, asks, LISTED, address, tcp)
        assert blocked(node)[f"{LISTED}/32"]["reason"] == "seen scanning"
        (row,) = node.call(NODE, "get", noun="blocklists")
        assert "198.51.100.0/33" in row["ignored"][0]

        assert "is an address of node node1" in cubelet(node, packages, "ddos", "block", address)
        assert (
            cubelet(node, packages, "ddos", "block", OPERATORS)
            == f"{OPERATORS} is blocked for 600 s\n"
        )
        assert not node.run(outside, asks, OPERATORS, address, tcp)
        assert f"{OPERATORS}   operator" in cubelet(node, packages, "ddos", "list")
        shown = [line.split() for line in cubelet(node, packages, "get", "blocked").splitlines()]
        assert shown[0] == ["SOURCE", "CAUSE", "SECONDS", "PACKETS", "LISTS", "REASON"]
        assert shown[1][:2] == [OPERATORS, "operator"]
        assert shown[2] == [
            f"{LISTED}/32",
            "listed",
            "<none>",
            "<none>",
            "bots",
            "seen",
            "scanning",
        ]
        assert "no longer blocked" in cubelet(node, packages, "ddos", "unblock", OPERATORS)
        assert node.run(outside, asks, OPERATORS, address, tcp)
        seen = drops(node)
        assert seen["listed"] >= 1
        assert seen["blocked"] >= 1

        assert configure(node, {"exclude": ["ddos"]}) == []
        assert not in_driver(node)
        assert plugins(node)["ddos"]["state"] != "active"
        assert node.run(outside, asks, LISTED, address, tcp)
    running.check(at_least=20)


def test_a_flood_ends_and_a_client_goes_on(node: World, small_space: Space) -> None:
    tcp, _ = serve(small_space)
    address, outside = node.node(NODE).address, node.outside
    assert configure(node, {"cubes": {"ddos": {"rate": RATE, "block_seconds": 2}}}) == []
    packets = 3 * RATE
    before = drops(node).get("rate", 0)
    with loads() as running:
        running.add("a client", outside, stream, address, tcp)
        took = node.run(outside, flood, FLOODER, address, packets)
        row = blocked(node)[FLOODER]
        assert row["cause"] == "rate"
        assert 0 < row["seconds"] <= 2
        metrics = node.run(node.at_node(NODE), scrape)
        assert 'cubelet_ddos_blocked_sources{cause="rate",instance="ddos0"} 1.0' in metrics
        assert 'cubelet_dropped_packets_total{class="uplink",cube="ddos",reason="rate"}' in metrics
        assert not node.run(outside, asks, FLOODER, address, tcp)
        assert node.run(outside, traffic.transfer, address, tcp, 1 << 20).answered
    running.check(at_least=5)
    # All beyond what a source may send at once, and in the time that it took.
    dropped = drops(node)["rate"] - before
    assert packets - RATE * (1 + took) - 1 <= dropped
    eventually(lambda: node.run(outside, asks, FLOODER, address, tcp), 5)
    assert FLOODER not in blocked(node)
