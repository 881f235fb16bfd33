"""The benchmark of connections counts what happens to them, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import connections
from bench.connections import Way
from cubelet.lab import netns
from cubelet.lab.layout import RUN_ROOT

CASES = ("ClusterIP", "NodePort, remote backend", "masquerade")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return connections.build(tmp_path_factory.mktemp("connections") / "connections")


@pytest.fixture
def alone() -> Iterator[str]:
    """A network namespace with a loopback device."""
    name = f"cubelet-c{os.getpid()}-alone"
    netns.create(name)
    try:
        yield name
    finally:
        netns.delete(name)


@pytest.fixture
def served(program: Path, alone: str) -> Iterator[Way]:
    """A server in there."""
    server = subprocess.Popen(
        netns.command(alone, [str(program), "serve", "9000"]), stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        yield Way(alone, "127.0.0.1")
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_all_are_answered_where_nothing_is_in_the_way(program: Path, served: Way) -> None:
    counted = connections.load(program, served, 0.5)
    assert counted.failed == counted.timeouts == counted.cut_short == 0
    assert counted.errors == {}
    assert counted.answered > 100
    assert list(counted.latency_us) == sorted(counted.latency_us)
    assert 0 < counted.latency_us[0] < 1_000_000


def test_a_rate_is_kept(program: Path, served: Way) -> None:
    assert connections.load(program, served, 1, rate=200).opened == 200


def test_who_does_not_listen_refuses(program: Path, alone: str) -> None:
    counted = connections.load(program, Way(alone, "127.0.0.1"), 0.2, rate=100)
    assert counted.errors == {"ECONNREFUSED": counted.opened}
    assert counted.answered == 0


def test_silence_times_out(program: Path, alone: str) -> None:
    netns.ip(["route", "add", "198.51.100.0/24", "dev", "lo"], alone)
    counted = connections.load(program, Way(alone, "198.51.100.9"), 0.2, rate=100)
    assert (counted.timeouts, counted.failed) == (counted.opened, counted.opened)


def test_every_way_has_a_bare_one_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "SECONDS", 0.3)
    monkeypatch.setattr(connections, "AT_ONCE", 4)
    rows = {(row.case, row.variant): row for row in connections.run(1)}
    for case in CASES:
        for variant in ("cubelet", "bare"):
            assert rows[case, variant].median > 100
            assert rows[f"{case}, p99", variant].median > 0
            assert rows[f"{case}, failed", variant].median == 0
    assert not (RUN_ROOT / f"b{os.getpid()}").exists()
    assert not list(Path("/run/netns").glob(f"cubelet-b{os.getpid()}-*"))
