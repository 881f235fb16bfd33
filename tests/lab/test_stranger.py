"""Somebody else's cube, from `cubelet new` to its removal, on nodes installed from wheels.

It joins, is upgraded, breaks and goes while one agent runs, under traffic that loses nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from cubelet.lab import cluster
from cubelet.lab.layout import LabSpec, Layout, plan_nodes

from .foreign import NODE, command, plugins, start
from .load import connections, datagrams, loads, stream
from .manifests import pod, service
from .world import QUICK, Space, World, eventually

ROOT: Final = Path(__file__).parents[2]
PACKAGES: Final = (".", "hooks", *(f"plugins/{p.name}" for p in (ROOT / "plugins").iterdir()))
SYSTEM_PYTHON: Final = "/usr/bin/python3"
METRICS: Final = "127.0.0.1:9880"
ECHO: Final = 7


def run(*argv: str | Path, cwd: Path | None = None) -> str:
    """A command's output; it has to succeed."""
    done = subprocess.run(list(map(str, argv)), cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, argv))}\n{done.stdout}\n{done.stderr}"
    return done.stdout


class Environment:
    """A fresh Python environment in which wheels alone are installed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "environment"
        self._wheels = folder / "wheels"
        run(SYSTEM_PYTHON, "-m", "venv", "--system-site-packages", self._folder)
        for package in PACKAGES:
            self.build(ROOT / package)
        self._pip(*self._wheels.iterdir())

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self._folder / "bin" / "python"

    def cubelet(self, *argv: str | Path) -> str:
        """What its command `cubelet` prints."""
        return run(self.python, "-m", "cubelet", *argv)

    def build(self, package: Path) -> Path:
        """Build a package's wheel with the build backend of this environment's tests."""
        before = set(self._wheels.glob("*.whl"))
        options = ("--no-deps", "--no-build-isolation", "--quiet", "--disable-pip-version-check")
        run(sys.executable, "-m", "pip", "wheel", *options, "-w", self._wheels, package)
        (made,) = set(self._wheels.glob("*.whl")) - before
        return made

    def install(self, wheel: Path) -> None:
        """Install a wheel, in place of an earlier version."""
        self._pip("--no-deps", wheel)

    def uninstall(self, name: str) -> None:
        run(self.python, "-m", "pip", "uninstall", "--yes", "--quiet", name)

    def _pip(self, *what: str | Path) -> None:
        options = ("--quiet", "--disable-pip-version-check")
        run(self.python, "-m", "pip", "install", *options, *what)


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """All packages of this tree, as anybody would install them."""
    return Environment(tmp_path)


@pytest.fixture
def world(layout: Layout) -> Iterator[World]:
    """A lab of one node with a client and a server."""
    spec = LabSpec(layout.name, plan_nodes(1, ()), {**QUICK, "metrics": METRICS})
    cluster.up(layout, spec, lambda _: None)
    try:
        yield World(layout, spec)
    finally:
        cluster.down(layout)


class Agent:
    """The node's agent, run from the environment; each start is a restart under load."""

    def __init__(self, world: World, environment: Environment) -> None:
        self._world = world
        command(world)  # writes the settings
        config = world.layout.node(NODE) / "agent.yaml"
        self.starts = 0
        self._argv = [str(environment.python), "-m", "cubelet", "agent", "--config", str(config)]

    def restart(self) -> None:
        self.starts += 1
        self._world.stop(NODE)
        start(self._world, self._argv)

    @property
    def stack(self) -> list[str]:
        """The cubes of the pods' ports."""
        return list(self._world.call(NODE, "status")["composition"]["stacks"]["pod"])

    @property
    def identity(self) -> str:
        """The composition in force."""
        return str(self._world.call(NODE, "status")["composition"]["identity"])

    def metrics(self) -> str:
        """What the agent tells a scraper on its node."""
        return self._world.run(self._world.at_node(NODE), _scrape)


def _scrape() -> str:
    with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=5) as found:
        return str(found.read().decode())


def versions(environment: Environment, folder: Path) -> Iterator[Path]:
    """The wheels of a generated cube, of its second version, and of a third one that is broken."""
    environment.cubelet("new", "stranger", "--directory", folder)
    package = folder / "cubelet-stranger"
    source = package / "src" / "cubelet_stranger" / "bpf" / "stranger.bpf.c"
    yield environment.build(package)
    for version, old, new in (
        ("0.2.0", "first[1] >> 2", "(first[1] & 0xfc) >> 2"),
        ("0.3.0", "(first[1] & 0xfc)", "(none[1] & 0xfc)"),
    ):
        described = re.sub('version = "[^"]*"', f'version = "{version}"', _text(package), count=1)
        (package / "pyproject.toml").write_text(described)
        assert old in source.read_text()
        source.write_text(source.read_text().replace(old, new))
        yield environment.build(package)


def _text(package: Path) -> str:
    return (package / "pyproject.toml").read_text()


@pytest.fixture
def shop(world: World) -> Space:
    """A client and a server."""
    space = Space(world, "shop")
    space.apply(
        pod("client"),
        pod("server", ("TCP", ECHO), ("UDP", ECHO)),
        service("server", "server", ("TCP", 80, ECHO), ("UDP", 80, ECHO)),
    )
    return space


@contextmanager
def under_load(space: Space) -> Iterator[None]:
    """Traffic that loses nothing while the block runs."""
    client, vip = space.at("client"), space.vip("server")
    with loads() as running:
        running.add("UDP", client, datagrams, space.ip("server"), ECHO)
        running.add("UDP by ClusterIP", client, datagrams, vip, 80)
        running.add("TCP by ClusterIP", client, stream, vip, 80)
        running.add("new TCP by ClusterIP", client, connections, vip, 80)
        yield
    running.check(at_least=100)


def test_a_strangers_cube_comes_is_upgraded_breaks_and_goes(
    world: World, shop: Space, environment: Environment, tmp_path: Path
) -> None:
    first, second, broken = versions(environment, tmp_path)
    environment.install(first)
    assert "stranger" in environment.cubelet("plugins")
    environment.cubelet("cube", "check", "stranger")
    environment.uninstall("cubelet-stranger")
    agent = Agent(world, environment)
    with under_load(shop):
        agent.restart()
        assert "stranger" not in agent.stack

        environment.install(first)  # it joins by itself
        eventually(lambda: agent.stack[0] == "stranger", 60)
        identity = agent.identity
        time.sleep(0.5)
        assert re.search(r'cubelet_stranger_packets_total\{.*dscp="0".*\} [1-9]', agent.metrics())

        environment.install(second)
        assert "0.2.0" in reloaded(world, environment, status=0)
        assert agent.stack[0] == "stranger"
        assert agent.identity != identity
        identity = agent.identity
        assert plugins(world)["stranger"]["version"] == "0.2.0"

        environment.install(broken)
        assert "stranger.bpf.c" in reloaded(world, environment, status=1)
        for restart in (False, True):  # what was in force stays
            if restart:
                agent.restart()
                eventually(lambda: plugins(world)["stranger"]["state"] == "kept", 30)
            assert (agent.stack[0], agent.identity) == ("stranger", identity)
            row = plugins(world)["stranger"]
            assert (row["state"], row["version"]) == ("kept", "0.2.0")
            assert "cubelet-stranger 0.3.0 cannot be used: " in str(row["reason"])
            assert kept(agent.metrics()) == {"stranger"}

        environment.uninstall("cubelet-stranger")
        eventually(lambda: "stranger" not in plugins(world), 60)
        eventually(lambda: "stranger" not in agent.stack, 30)  # once composed without it
        assert kept(agent.metrics()) == set()
    assert agent.starts == 2
    assert world.call(NODE, "status")["problems"] == []


def reloaded(world: World, environment: Environment, status: int) -> str:
    """What `cubelet cubes reload` prints."""
    socket = str(world.layout.socket(NODE))
    argv = [str(environment.python), "-m", "cubelet", "cubes", "reload", "--socket", socket]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == status, done
    return done.stdout


def kept(metrics: str) -> set[str]:
    """The kinds that the metrics say are kept as they were in force."""
    lines = re.findall(r'^cubelet_plugin\w*\{(.*state="kept".*)\} 1', metrics, re.MULTILINE)
    return {kind for line in lines for kind in re.findall(r'kind="(\w+)"', line)}
