"""What this kernel's verifier really refuses takes no node its network, and is told."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cubelet.lab.kinds import Key

from .foreign import (
    NODE,
    QUIET_C,
    QUIET_CUBE,
    command,
    configure,
    forget_copies,
    install,
    plugins,
    spawn,
    start,
)
from .load import connections, datagrams, loads, stream
from .manifests import pod, service
from .world import Space, World, eventually

ECHO = 7
PLACED = QUIET_CUBE.replace(
    'kind = "quiet"', 'kind = "quiet"\n    placement = (Placement("pod", "inward"),)'
).replace("import Cube\n", "import Cube, Placement\n")
LARGE_C = QUIET_C.replace(
    "return",
    """__u32 i;

	for (i = 0; i < 50000; i++)
		asm volatile("" : "+r"(i));
	return""",
)
"""Some 200,000 verified instructions where it is a program of its own; fused it is a million."""
EACH_CUBE = PLACED.replace("    inward =", '    per_packet = frozenset({"pod"})\n    inward =')
EACH_C = f"""{QUIET_C}
static __always_inline __u16
quiet_packet(struct __sk_buff *skb, const struct cubelet_headers *h, struct cubelet_flow *f)
{{
	__u32 i;

	for (i = 0; i < 500000; i++)
		asm volatile("" : "+r"(i));
	return 0;
}}
"""
"""Over a million in a program that is shared in both ways: its name leads to no cube."""

INSERTED = "{composition: tailcall, insert: [{cube: quiet, ports: [pod]}]}"


@pytest.fixture
def busy(small: World, small_space: Space) -> Iterator[Space]:
    """Two pods on one node, whose agent does not run."""
    small_space.apply(pod("client"), pod("server", ("TCP", ECHO), ("UDP", ECHO)))
    small_space.apply(service("server", "server", ("TCP", 80, ECHO), ("UDP", 80, ECHO)))
    small.stop(NODE)
    yield small_space
    small.stop(NODE)
    forget_copies(small)
    small.start(NODE)
    small.delete(Key("ConfigMap", "kube-system", "cubelet"))
    assert status(small)["problems"] == []


def status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.call(NODE, "status")
    return found


def as_on_a_new_node(world: World) -> None:
    """Nothing is in force, pinned or remembered, as after the first boot."""
    forget_copies(world)
    (world.layout.node(NODE) / "state/memory.json").unlink(missing_ok=True)
    for folder in ("programs", "links"):
        shutil.rmtree(world.layout.bpffs_of(NODE) / folder)


def test_a_chain_too_large_to_be_fused_is_tail_called_and_loses_nothing(
    small: World, busy: Space, tmp_path: Path
) -> None:
    install(tmp_path, "quiet", QUIET_CUBE, LARGE_C)
    start(small, command(small), tmp_path)
    client = busy.at("client")
    with loads() as running:
        running.add("UDP", client, datagrams, busy.ip("server"), ECHO)
        running.add("TCP by ClusterIP", client, stream, busy.vip("server"), 80)
        running.add("new TCP by ClusterIP", client, connections, busy.vip("server"), 80)
        (problem,) = configure(small, "insert: [{cube: quiet, ports: [pod]}]")
        assert problem.startswith("tail-called, since fused it is refused: program cubelet_slow")
        assert "BPF program is too large" in problem
        found = status(small)
        assert (found["ready"], found["composition"]["mode"]) == (True, "tailcall")
        assert found["composition"]["stacks"]["pod"][0] == "quiet"
        busy.apply(pod("late", ("TCP", ECHO)))  # its ADD does not mind
        small.stop(NODE)
        start(small, command(small), tmp_path)
        assert status(small)["problems"] == [problem]
        assert configure(small, "") == []
        assert status(small)["composition"]["mode"] == "fused"
    running.check(at_least=20)


@pytest.mark.parametrize("config", ["", INSERTED], ids=["placed", "inserted"])
def test_a_new_node_goes_without_the_cube_that_is_refused_in_both_ways(
    small: World, busy: Space, tmp_path: Path, config: str
) -> None:
    """The program is shared and no line is at fault: the cube is found by composing without it."""
    install(tmp_path, "quiet", EACH_CUBE, EACH_C)
    small.start(NODE)
    configure(small, config)
    small.stop(NODE)
    as_on_a_new_node(small)
    start(small, command(small), tmp_path)
    row = plugins(small)["quiet"]
    assert row["state"] == "quarantined"
    assert "cube quiet: it cannot be composed with the other cubes" in str(row["reason"])
    assert "program cubelet_pod is refused by the verifier" in str(row["reason"])
    found = status(small)
    assert found["ready"]
    assert found["composition"]["mode"] == ("tailcall" if config else "fused")
    assert found["composition"]["stacks"]["pod"] == ["lbrp", "nat"]
    assert [each for each in found["problems"] if "cube quiet is quarantined" in each]
    assert busy.who(busy.at("client"), busy.vip("server"), 80) == "server"


def test_a_new_node_does_not_go_without_an_essential_one(
    small: World, busy: Space, tmp_path: Path
) -> None:
    essential = EACH_CUBE.replace('kind = "quiet"', 'kind = "quiet"\n    essential = True')
    install(tmp_path, "quiet", essential, EACH_C)
    as_on_a_new_node(small)
    spawn(small, command(small), tmp_path)
    eventually(lambda: any("cube quiet: it cannot" in each for each in problems(small)), 240)
    found = status(small)
    assert (found["ready"], found["composition"]["identity"]) == (False, "")
    assert not list(small.layout.bpffs_of(NODE).glob("links/*"))


def problems(world: World) -> list[str]:
    try:
        return list(status(world)["problems"])
    except Exception:  # it does not answer yet
        return []
