"""A cube of somebody else that hangs, in a running agent: the node does not notice."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from cubelet.ipc.client import AgentError
from cubelet.lab import agents, processes
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key

from .foreign import NODE, QUIET_C, command, configure, install, plugins, start
from .load import connections, datagrams, loads, stream
from .manifests import pod, service
from .world import Space, World, eventually

ECHO = 7
RUDE = '''
import re, time
from pathlib import Path

from cubelet_hooks.cube import Cube, Settings
from cubelet_hooks.flows import Index
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType

MARKS = Path({marks!r})


class Amount(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How much."""
    amount: int = 1


class Quiet(Cube):
    """Lets everything through, and does not stand some Services."""
    kind = "quiet"
    settings_type = Amount
    inward = frozenset({{"pod"}})
    maps = (Map("none", MapType.HASH, Index, Index, 8),)
    shows = {{"hangs": "none", "halts": "none"}}

    def __init__(self, instance, settings, family=4):
        super().__init__(instance, settings, family)
        if settings.amount > 9:
            raise ValueError("an amount over 9")

    def units(self, change, view):
        return [("service", change.key)] if change.kind == "Service" else ()

    def plan(self, unit, view):
        name = unit[1].partition("/")[2] if unit[1] in view.services else ""
        if name in ("loop", "regex", "greedy", "sleeper", "again"):
            (MARKS / name).touch()
        if name in ("loop", "again"):
            while True:
                pass
        elif name == "regex":
            re.match("(a|aa)+$", "a" * 99 + "b")
        elif name == "greedy":
            hoard = []
            while True:
                hoard.append(bytes(1 << 26))
        elif name == "sleeper":
            time.sleep(600)
        return ()

    def rows(self, noun, read, view):
        while True:
            pass

    def needed_on(self, view):
        while any(name.endswith("/deadly") for name in view.services):
            pass
        return ("pod",)


@hookimpl
def cubelet_cubes():
    return [Quiet]
'''


@pytest.fixture
def rude(small: World, small_space: Space, tmp_path: Path) -> Iterator[Space]:
    """Two pods on one node, in whose agent the cube stands on pods' ports."""
    ports = (("TCP", ECHO), ("UDP", ECHO))
    small_space.apply(pod("client"), pod("server", *ports))
    small_space.apply(service("server", "server", ("TCP", 80, ECHO), ("UDP", 80, ECHO)))
    small.stop(NODE)
    install(tmp_path, "quiet", RUDE.format(marks=str(tmp_path)), QUIET_C)
    start(small, command(small), tmp_path)
    assert configure(small, "insert: [{cube: quiet, ports: [pod]}]") == []
    yield small_space
    small.stop(NODE)
    small.start(NODE)
    small.delete(Key("ConfigMap", "kube-system", "cubelet"))
    assert small.call(NODE, "status")["problems"] == []


def stack(world: World) -> list[str]:
    return list(world.call(NODE, "status")["composition"]["stacks"]["pod"])


def agent(world: World) -> int:
    """The agent's pid."""
    record = world.layout.processes / f"{agents.process(world.node(NODE))}.json"
    return msgspec.json.decode(record.read_bytes(), type=processes.Record).pid


def guests(parent: int) -> list[int]:
    """The pids of an agent's guests."""
    listed = Path(f"/proc/{parent}/task").glob("*/children")
    found = [int(pid) for file in listed for pid in file.read_text().split()]
    return [pid for pid in found if b"cubelet.guests.child" in _command(pid)]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


def peak(pid: int) -> int:
    """The most memory that a process has had, in bytes."""
    (line,) = (
        each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if "VmHWM" in each
    )
    return int(line.split()[1]) << 10


def slowest_while(world: World, work: Future[None]) -> float:
    """The longest that `cubelet status` took while something was under way, in seconds."""
    slowest = 0.0
    while not work.done():
        began = time.monotonic()
        world.call(NODE, "status")
        slowest = max(slowest, time.monotonic() - began)
        time.sleep(0.05)
    work.result()
    return slowest


def test_plans_that_hang_or_want_all_memory_are_stopped_and_named(
    small: World, rude: Space
) -> None:
    before = peak(agent(small))
    with loads() as running, ThreadPoolExecutor(1) as pool:
        client = rude.at("client")
        running.add("UDP", client, datagrams, rude.ip("server"), ECHO)
        running.add("TCP", client, stream, rude.ip("server"), ECHO)
        running.add("new TCP by ClusterIP", client, connections, rude.vip("server"), 80)
        for name in ("loop", "regex", "greedy"):
            hanging = pool.submit(rude.apply, service(name, "server", ("TCP", 80, ECHO)))
            assert slowest_while(small, hanging) < 1
            assert rude.who(client, rude.vip(name), 80) == "server"
        # Pods start while it hangs.
        hanging = pool.submit(rude.apply, service("again", "server", ("TCP", 80, ECHO)))
        rude.apply(pod("late", ("TCP", ECHO)))
        hanging.result()
        assert rude.who(client, rude.ip("late"), ECHO) == "late"
    running.check(at_least=20)
    problems = small.call(NODE, "status")["problems"]
    for name in ("loop", "regex"):
        (told,) = (each for each in problems if each.startswith(f"Service {rude.name}/{name}:"))
        assert f"quiet0: not planned, left as it was: plan of service {rude.name}/{name}" in told
        assert "was stopped: it took over" in told
    assert any("/greedy: quiet0: not planned" in each for each in problems)
    assert plugins(small)["quiet"]["state"] == "active", "one namespace does not take it out"
    assert peak(agent(small)) < before + (100 << 20)
    assert stack(small) == ["quiet", "lbrp", "nat"]
    rude.delete("Service", "loop", "regex", "greedy", "again")


def test_a_cube_that_hangs_without_a_tenants_help_is_taken_out(small: World, rude: Space) -> None:
    rude.apply(service("deadly", "server", ("TCP", 80, ECHO)))
    problems = " ".join(small.call(NODE, "status")["problems"])
    assert "cube quiet: needed_on was stopped: it took over" in problems
    assert stack(small) == ["quiet", "lbrp", "nat"], "it is needed where it was"
    for noun in ("hangs", "halts"):
        with pytest.raises(AgentError, match=f"quiet0 failed to list {noun}") as refused:
            small.call(NODE, "get", noun=noun)
        assert f"rows of {noun} was stopped: it took over" in refused.value.details
    rude.delete("Service", "deadly")
    eventually(lambda: stack(small) == ["lbrp", "nat"], 15)
    row = plugins(small)["quiet"]
    assert row["state"] == "quarantined"
    assert str(row["reason"]).startswith("rows of halts was stopped: it took over")
    assert guests(agent(small)) == []


def test_settings_that_a_guest_refuses_are_not_put_in_force(small: World, rude: Space) -> None:
    wanted = {"insert": [{"cube": "quiet", "ports": ["pod"], "after": "lbrp"}]}
    (problem,) = configure(small, {**wanted, "cubes": {"quiet": {"amount": 10}}})
    assert "cube quiet0 cannot be made: ValueError('an amount over 9')" in problem
    assert stack(small) == ["quiet", "lbrp", "nat"]
    assert configure(small, wanted) == []
    assert stack(small) == ["lbrp", "quiet", "nat"]
    assert len(guests(agent(small))) == 1
    assert rude.who(rude.at("client"), rude.vip("server"), 80) == "server"


@pytest.mark.parametrize("name", ["loop", "sleeper"])
def test_an_agent_whose_guest_hangs_ends_at_once_and_leaves_nothing(
    small: World, rude: Space, tmp_path: Path, name: str
) -> None:
    pid = agent(small)
    (guest,) = guests(pid)
    with ThreadPoolExecutor(1) as pool:
        applied = pool.submit(rude.apply, service(name, "server", ("TCP", 80, ECHO)))
        eventually((tmp_path / name).exists, 5)
        began = time.monotonic()
        small.stop(NODE)
        assert time.monotonic() - began < 4, "it would hang for longer"
        with pytest.raises(LabError):
            applied.result()
    assert not Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{guest}").exists()
