"""The example flowlog on a real node: it names who talked to whom, and nobody notices it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cubelet.lab.kinds import Key
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT

from .foreign import NODE, command, configuration, configure, example, plugins, start
from .load import connections, datagrams, loads, stream
from .manifests import pod, policy, service
from .world import Space, World, eventually

ECHO = 7
METRICS = "127.0.0.1:9882"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the cube is installed."""
    folder = tmp_path_factory.mktemp("packages")
    example(folder, "flowlog")
    return folder


@pytest.fixture(scope="module")
def node(small: World, packages: Path) -> Iterator[World]:
    """The small lab with the cube installed but excluded; as before afterwards."""
    small.stop(NODE)
    small.objects.store.put(configuration({"exclude": ["flowlog"]}))
    start(small, command(small, metrics=METRICS), packages)
    yield small
    small.delete(Key("ConfigMap", "kube-system", "cubelet"))
    small.stop(NODE)
    small.start(NODE)
    assert small.call(NODE, "status")["problems"] == []


def ask(world: World, folder: Path, *arguments: str) -> subprocess.Popen[str]:
    """`cubelet flowlog`, begun."""
    return subprocess.Popen(
        [sys.executable, "-m", "cubelet", "flowlog", *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env={
            **os.environ,
            "CUBELET_SOCKET": str(world.layout.socket(NODE)),
            "PYTHONPATH": str(folder),
        },
    )


def flowlog(world: World, folder: Path, *arguments: str) -> str:
    """What `cubelet flowlog` says."""
    with ask(world, folder, *arguments) as asked:
        said, _ = asked.communicate(timeout=30)
    assert asked.returncode == 0
    return said


@contextmanager
def following(world: World, folder: Path, heard: list[str]) -> Iterator[None]:
    """`cubelet flowlog tail -f` while something happens, from a line on that it has said before."""
    with ask(world, folder, "tail", "-n1", "-f") as asked:
        assert asked.stdout is not None
        asked.stdout.readline()
        yield
        asked.terminate()
        heard += asked.stdout.readlines()


def tail(world: World, folder: Path) -> list[dict[str, Any]]:
    """All records that the agent still has."""
    said = flowlog(world, folder, "tail", "-n1000", "--json")
    return [json.loads(line) for line in said.splitlines()]


def scrape() -> str:
    """The agent's metrics."""
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=10) as found:
        return str(found.read().decode())


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def serve(space: Space) -> None:
    """A client, a pod behind a Service, and one that nobody may ask."""
    space.apply(
        pod("a"),
        pod("b", ("TCP", ECHO), ("UDP", ECHO)),
        pod("c", ("TCP", ECHO)),
        service("web", "b", ("TCP", 80, ECHO)),
        policy("closed", "c", ingress=[]),
    )


def test_it_tells_of_flows_and_others_lose_nothing(
    node: World, small_space: Space, packages: Path, tmp_path: Path
) -> None:
    serve(small_space)
    heard: list[str] = []
    file, a, b = tmp_path / "flows", small_space.at("a"), small_space.ip("b")
    assert plugins(node)["flowlog"]["state"] != "active"
    with loads() as running:
        running.add("UDP", a, datagrams, b, ECHO)
        running.add("TCP", a, stream, b, ECHO)
        running.add("new TCP", a, connections, b, ECHO)
        time.sleep(0.3)
        assert configure(node, {"cubes": {"flowlog": {"file": str(file), "interval": 1}}}) == []
        assert plugins(node)["flowlog"]["state"] == "active"

        with following(node, packages, heard):
            assert small_space.who(a, small_space.vip("web"), 80) == "b"
            assert small_space.who(a, OUTSIDE_ADDRESS, OUTSIDE_PORT) == "outside"
            assert small_space.who(a, small_space.ip("c"), ECHO, timeout=0.3) == "timeout"
            # it is sure a second later that the last one has been denied
            eventually(lambda: any(r["event"] == "denied" for r in tail(node, packages)), 10)
        vip = small_space.vip("web")
        ended = lambda r: r["event"] == "ended" and r["destination"] == vip  # noqa: E731
        eventually(lambda: any(map(ended, tail(node, packages))), 60)
        seen = tail(node, packages)
        said = flowlog(node, packages, "tail") + flowlog(node, packages, "status")
        metrics = node.run(node.at_node(NODE), scrape)

        assert configure(node, {"exclude": ["flowlog"]}) == []
        assert plugins(node)["flowlog"]["state"] != "active"
        time.sleep(0.3)
    running.check(at_least=20)
    check_records(seen, small_space)
    eventually(lambda: all(record in lines(file) for record in seen), 3)
    assert any(f"({small_space.name}/a) -> {small_space.vip('web')}:80" in x for x in heard)
    assert f"({small_space.name}/a) -> " in said
    assert str(file) in said
    assert 'cubelet_flowlog_records_total{event="opened",instance="flowlog0"}' in metrics
    assert 'cubelet_flowlog_lost_records_total{instance="flowlog0"} 0.0' in metrics
    assert 'cubelet_cube_lost_events_total{instance="flowlog0"} 0.0' in metrics


def check_records(seen: list[dict[str, Any]], space: Space) -> None:
    """What was told of the three connections of a pod."""
    a, b, c = (f"{space.name}/{name}" for name in "abc")
    vip, address = space.vip("web"), space.world.node(NODE).address
    (served,) = [r for r in seen if r["destination"] == vip and r["event"] == "opened"]
    assert (served["source_pod"], served["destination_pod"]) == (a, b)
    assert (served["to_destination"], served["to_destination_port"]) == (space.ip("b"), ECHO)
    assert (served["node"], served["enters"], served["leaves"]) == (NODE, "pod", "pod")
    (left,) = [r for r in seen if r["destination"] == OUTSIDE_ADDRESS and r["event"] == "opened"]
    assert (left["to_source"], left["leaves"]) == (address, "uplink")
    denied = {(r["source_pod"], r["destination_pod"]) for r in seen if r["event"] == "denied"}
    assert denied == {(a, c)}
    ended = [r for r in seen if r["destination"] == vip and r["event"] == "ended"]
    assert ended
    assert all(r["source_pod"] == a and r["closed"] for r in ended)
    assert all(r["bytes"] > 100 and r["reply_bytes"] > 100 for r in ended)


def test_without_a_file_it_tells_the_agents_log(node: World, small_space: Space) -> None:
    small_space.apply(pod("a"), pod("b", ("TCP", ECHO)))
    assert configure(node, {"cubes": {"flowlog": {"sample": 1}}}) == []
    assert small_space.who(small_space.at("a"), small_space.ip("b"), ECHO) == "b"
    log, wanted = node.layout.log(f"agent.{NODE}"), f"{small_space.name}/b"

    def told() -> bool:
        return any("flow_event" in x and wanted in x for x in log.read_text().splitlines())

    eventually(told, 3)
