"""Cubes of somebody else that come, fail and go in a running node: the rest does not notice."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cubelet.lab.kinds import Key

from .foreign import NODE, QUIET_C, QUIET_CUBE, command, configure, install, plugins, start
from .load import Loads, connections, datagrams, loads, stream
from .manifests import pod, service
from .world import Space, World, eventually

ECHO = 7
PLACED = QUIET_CUBE.replace(
    'kind = "quiet"',
    'kind = "quiet"\n    placement = (Placement("pod", "inward", after=("lbrp",)),)',
).replace("import Cube\n", "import Cube, Placement\n")
FRAIL = QUIET_CUBE.replace(
    "    inward =",
    """    def units(self, change, view):
        return [("service", change.key)] if change.kind == "Service" else ()

    def plan(self, unit, view):
        import time
        if unit[1] not in view.services:
            return ()
        name = unit[1].partition("/")[2]
        if name == "poison":
            raise RuntimeError("that is no food")
        time.sleep(6 if name == "heavy" else 0)
        return ()

    inward =""",
)


@pytest.fixture
def busy(small: World, small_space: Space, tmp_path: Path) -> Iterator[Space]:
    """Two pods on one node, whose agent finds packages in the test's folder too."""
    ports = (("TCP", ECHO), ("UDP", ECHO))
    small_space.apply(pod("client"), pod("server", *ports))
    small_space.apply(service("server", "server", ("TCP", 80, ECHO), ("UDP", 80, ECHO)))
    small.stop(NODE)
    yield small_space
    small.stop(NODE)
    small.start(NODE)
    small.delete(Key("ConfigMap", "kube-system", "cubelet"))
    assert small.call(NODE, "status")["problems"] == []


def stack(world: World) -> list[str]:
    return list(world.call(NODE, "status")["composition"]["stacks"]["pod"])


@contextmanager
def under_load(space: Space) -> Iterator[Loads]:
    """Traffic of every kind that loses nothing while the block runs."""
    with loads() as running:
        client = space.at("client")
        running.add("UDP", client, datagrams, space.ip("server"), ECHO)
        running.add("TCP", client, stream, space.ip("server"), ECHO)
        running.add("TCP by ClusterIP", client, stream, space.vip("server"), 80)
        running.add("new TCP by ClusterIP", client, connections, space.vip("server"), 80)
        time.sleep(0.2)
        yield running
        time.sleep(0.2)
    running.check(at_least=20)


def test_the_configuration_brings_a_cube_in_and_takes_it_out(
    small: World, busy: Space, tmp_path: Path
) -> None:
    install(tmp_path, "quiet", QUIET_CUBE, QUIET_C)
    start(small, command(small), tmp_path)
    assert plugins(small)["quiet"]["state"] == "inactive"
    with under_load(busy):
        wanted = "insert: [{cube: quiet, ports: [pod], after: lbrp}]"
        assert configure(small, wanted) == []
        assert stack(small) == ["lbrp", "quiet", "nat"]
        assert plugins(small)["quiet"]["state"] == "active"
        time.sleep(0.3)
        assert configure(small, "") == []
        assert stack(small) == ["lbrp", "nat"]


def test_an_installed_cube_stands_where_it_wants_is_upgraded_and_removed(
    small: World, busy: Space, tmp_path: Path
) -> None:
    file = install(tmp_path, "quiet", PLACED, QUIET_C)
    identities = []
    with under_load(busy):
        for source in (QUIET_C, QUIET_C.replace("return", "pkt->flags |= 0;\n\treturn")):
            file.write_text(source)
            start(small, command(small), tmp_path)
            assert stack(small) == ["lbrp", "quiet", "nat"]
            identities.append(small.call(NODE, "status")["composition"]["identity"])
            small.stop(NODE)
        assert len(set(identities)) == 2
        start(small, command(small))  # uninstalled
        assert stack(small) == ["lbrp", "nat"]


@pytest.mark.parametrize(
    ("name", "reason"),
    [("poison", "that is no food"), ("heavy", "was stopped: it took over 5 s;")],
)
def test_an_object_that_a_cube_does_not_stand_is_told_and_the_cube_stays(
    small: World, busy: Space, tmp_path: Path, name: str, reason: str
) -> None:
    install(tmp_path, "quiet", FRAIL, QUIET_C)
    start(small, command(small), tmp_path)
    assert configure(small, "insert: [{cube: quiet, ports: [pod]}]") == []
    with under_load(busy):
        busy.apply(service(name, "server", ("TCP", 80, ECHO)))
        eventually(lambda: bool(small.call(NODE, "status")["problems"]), 15)
        assert busy.who(busy.at("client"), busy.vip(name), 80) == "server"
        busy.apply(pod("late", ("TCP", ECHO)))
    (told,) = small.call(NODE, "status")["problems"]
    assert told.startswith(f"Service {busy.name}/{name}: quiet0: not planned, left as it was")
    assert reason in told
    assert stack(small) == ["quiet", "lbrp", "nat"]
    assert plugins(small)["quiet"]["state"] == "active"
    busy.delete("Service", name)
    # What was stopped is asked again after a minute.
    eventually(lambda: small.call(NODE, "status")["problems"] == [], 75)


def test_a_cube_that_the_verifier_refuses_is_not_let_in(
    small: World, busy: Space, tmp_path: Path
) -> None:
    touchy = QUIET_C.replace("cubelet_next(pkt)", "CUBELET_NEXT + *(volatile int *)0")
    install(tmp_path, "quiet", QUIET_CUBE, touchy)
    start(small, command(small), tmp_path)
    before = small.call(NODE, "status")["composition"]
    with under_load(busy):
        (problem,) = configure(small, "insert: [{cube: quiet, ports: [pod]}]")
        assert "cube quiet: quiet.bpf.c:6" in problem
        assert "refused by the verifier" in problem
    assert small.call(NODE, "status")["composition"] == before
    assert small.call(NODE, "status")["ready"]


DOORMAN_CUBE = '''
from cubelet_hooks.cube import Cube, Reason
from cubelet_hooks.hookspecs import hookimpl

class Doorman(Cube):
    """Turns away UDP from the uplink."""
    kind = "doorman"
    early = True
    reasons = (Reason("closed", "no UDP from there"),)

@hookimpl
def cubelet_cubes():
    return [Doorman]
'''
DOORMAN_C = """
#include "cubelet.h"

static __always_inline __u16 doorman_early(const struct cubelet_early *e)
{
	return e->protocol == IPPROTO_UDP && e->dport != bpf_htons(4789) ? DOORMAN_REASON_CLOSED : 0;
}
"""


def driver_program(world: World) -> bool:
    """Whether the uplink's driver runs a program."""
    show = ["ip", "-netns", world.at_node(NODE), "-details", "link", "show", "type", "veth"]
    return "xdp" in subprocess.run(show, capture_output=True, text=True, check=True).stdout


def test_a_cube_in_the_uplinks_driver_comes_and_goes(
    small: World, busy: Space, tmp_path: Path
) -> None:
    install(tmp_path, "doorman", DOORMAN_CUBE, DOORMAN_C)
    start(small, command(small), tmp_path)
    ports = (("TCP", 80, ECHO), ("UDP", 80, ECHO))
    busy.apply(service("server", "server", *ports, type="NodePort"))
    node = small.node(NODE).address

    def ask(protocol: str) -> str:
        port = busy.node_port("server", protocol)
        return busy.who(small.outside, node, port, protocol, timeout=0.5)

    assert (ask("TCP"), ask("UDP"), driver_program(small)) == ("server", "server", False)
    with under_load(busy), loads() as outside:
        address = (node, busy.node_port("server", "TCP"))
        outside.add("TCP from outside", small.outside, stream, *address)
        assert configure(small, "insert: [{cube: doorman, ports: [uplink]}]") == []
        assert (ask("TCP"), ask("UDP"), driver_program(small)) == ("server", "timeout", True)
        (row,) = small.call(NODE, "get", noun="drops", where={"cube": "doorman"})
        assert (row["reason"], row["class"]) == ("closed", "uplink")
        small.kill(NODE)  # what the driver runs does not need the agent
        assert (ask("TCP"), ask("UDP")) == ("server", "timeout")
        start(small, command(small), tmp_path)
        assert (ask("UDP"), driver_program(small)) == ("timeout", True)
        assert configure(small, "") == []
        assert (ask("TCP"), ask("UDP"), driver_program(small)) == ("server", "server", False)
    outside.check(at_least=20)
