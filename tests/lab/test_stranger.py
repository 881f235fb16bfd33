"""Somebody else's cube, from `cubelet new` to its removal, on nodes installed from wheels.

It joins, is upgraded, breaks in all ways that there are and goes while one agent runs, which
answers meanwhile and stays small, under traffic that loses nothing.
"""

from __future__ import annotations

import re
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NamedTuple

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


C, CUBE = "bpf/stranger.bpf.c", "cube.py"
PLAN = "        pod, port = view.pods.get(unit[1]), view.ports.get(unit[1])\n"


class Break(NamedTuple):
    """A text in a file of the cube, what takes its place, and what is told of it."""

    file: str
    old: str
    new: str
    told: str


SECOND = Break(C, "first[1] >> 2", "(first[1] & 0xfc) >> 2", "0.2.0")
"""A sound version."""
BREAKS: Final = {
    "import": Break(
        CUBE, "import annotations\n", "import annotations\nimport nowhere\n", "nowhere"
    ),
    "ABI": Break(CUBE, "    abi: ClassVar[int] = ", "    abi: ClassVar[int] = 9", "ABI"),
    "plan raises": Break(CUBE, PLAN, f"        raise KeyError(unit)\n{PLAN}", "KeyError"),
    "plan never returns": Break(CUBE, PLAN, f"        while True: pass\n{PLAN}", "stopped"),
    "plan yields for ever": Break(
        CUBE,
        PLAN,
        f"        while True: yield Entry('limits', PortKey(1), Limit(1))\n{PLAN}",
        "stopped",
    ),
    "verifier": Break(C, "if (counter) {", "{", "stranger.bpf.c"),
    "C": Break(C, "first[1] >> 2;", "none[1] >> 2;", "stranger.bpf.c"),
}


class Stranger:
    """The package that `cubelet new` makes, and wheels of its versions."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        environment.cubelet("new", "stranger", "--directory", folder)
        self._environment = environment
        self._package = folder / "cubelet-stranger"
        self._number = 1

    def wheel(self) -> Path:
        """The wheel of the package as it is."""
        return self._environment.build(self._package)

    def next(self, change: Break) -> Path:
        """The wheel of the next version, which has this change and none of those before."""
        self._number += 1
        described = self._package / "pyproject.toml"
        version = f'version = "0.{self._number}.0"'
        described.write_text(re.sub('version = "[^"]*"', version, described.read_text(), count=1))
        file = self._package / "src/cubelet_stranger" / change.file
        sound = file.read_text()
        assert sound.count(change.old) == 1, change
        file.write_text(sound.replace(change.old, change.new))
        try:
            return self.wheel()
        finally:
            file.write_text(sound)


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


class Watch(threading.Thread):
    """Asks an agent for its status again and again; ``longest`` is the longest wait in seconds."""

    def __init__(self, world: World) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._ended = threading.Event()
        self.longest = 0.0
        self.times = 0

    def __enter__(self) -> Watch:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(0.2):
            began = time.monotonic()
            self._world.call(NODE, "status")
            self.longest = max(self.longest, time.monotonic() - began)
            self.times += 1


def resident(world: World) -> int:
    """Bytes that the node's agent and its guests have in memory."""
    pid = world.pid(NODE)
    found = {pid, *_children(pid)}
    return sum(int(Path(f"/proc/{each}/statm").read_text().split()[1]) for each in found) * 4096


def _children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(each) for each in path.read_text().split()]


def test_a_strangers_cube_comes_is_upgraded_breaks_and_goes(
    world: World, shop: Space, environment: Environment, tmp_path: Path
) -> None:
    stranger = Stranger(environment, tmp_path)
    first, second = stranger.wheel(), stranger.next(SECOND)
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

    broken = try_all_breaks(world, shop, environment, stranger, agent)

    with under_load(shop):
        agent.restart()
        eventually(lambda: plugins(world)["stranger"]["state"] == "kept", 30)
        stays(world, agent, identity, broken)

        environment.uninstall("cubelet-stranger")
        eventually(lambda: "stranger" not in plugins(world), 60)
        eventually(lambda: "stranger" not in agent.stack, 30)  # once composed without it
        assert kept(agent.metrics()) == set()
    assert agent.starts == 2
    assert world.call(NODE, "status")["problems"] == []


def try_all_breaks(
    world: World, shop: Space, environment: Environment, stranger: Stranger, agent: Agent
) -> Path:
    """Install one broken version after the other; the last one's wheel stays installed."""
    identity, before = agent.identity, resident(world)
    with under_load(shop), Watch(world) as watch:
        for name, change in BREAKS.items():
            broken = stranger.next(change)
            environment.install(broken)
            told = reloaded(world, environment, status=1)
            assert change.told in told, (name, told)
            stays(world, agent, identity, broken)
    assert watch.times > len(BREAKS)
    assert watch.longest < 5  # a second, of a machine that has nothing else to do
    assert resident(world) - before < 100 << 20
    return broken


def stays(world: World, agent: Agent, identity: str, broken: Path) -> None:
    """The second version is in force, and it is told why the one that is installed is not."""
    assert (agent.stack[0], agent.identity) == ("stranger", identity)
    row = plugins(world)["stranger"]
    assert (row["state"], row["version"]) == ("kept", "0.2.0")
    version = broken.name.split("-")[1]
    assert f"cubelet-stranger {version} cannot be used: " in str(row["reason"])
    assert kept(agent.metrics()) == {"stranger"}


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
