"""An essential cube of somebody else's that breaks or vanishes: its filter is never open."""

from __future__ import annotations

import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from cubelet.lab.kinds import Key

from .foreign import NODE, command, configure, forget_copies, install, plugins, spawn, start
from .load import Report, Stop, connections, datagrams, loads, stream
from .manifests import pod, service
from .world import Space, World, eventually

ECHO, CLOSED = 7, 9
GATE = '''
from cubelet_hooks.cube import Cube, Placement, Reason
from cubelet_hooks.hookspecs import hookimpl

class Gate(Cube):
    """Lets no UDP pass to port 9."""
    kind = "gate"
    essential = True
    inward = frozenset({"pod"})
    placement = (Placement("pod", "inward"),)
    reasons = (Reason("closed", "it is closed"),)

@hookimpl
def cubelet_cubes():
    return [Gate]
'''
GATE_C = """
#include "cubelet.h"

static __always_inline int gate_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	if (pkt->hdr.tuple.protocol == IPPROTO_UDP && pkt->hdr.tuple.dport == bpf_htons(9))
		return cubelet_drop(pkt, GATE_REASON_CLOSED);
	return cubelet_next(pkt);
}
"""


def knocks(stop: Stop, address: str, port: int) -> Report:
    """Datagrams from ever new ports to where nothing may pass: what is answered went through."""
    passed: list[str] = []
    sent = 0
    while not stop.is_set():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.connect((address, port))
            client.settimeout(0.02)
            client.send(b"open?")
            sent += 1
            try:
                client.recv(64)
                passed.append(f"{sent}: answered")
            except TimeoutError:
                continue
            except OSError as error:
                passed.append(f"{sent}: {error}")
    return Report(sent, tuple(passed), 0.0)


@pytest.fixture
def guarded(small: World, small_space: Space, tmp_path: Path) -> Iterator[Space]:
    """Two pods on one node, and the cube in force there; all as before afterwards."""
    ports = (("TCP", ECHO), ("UDP", ECHO), ("UDP", CLOSED))
    small_space.apply(pod("client"), pod("server", *ports))
    small_space.apply(service("server", "server", ("TCP", 80, ECHO), ("UDP", 80, ECHO)))
    assert small_space.who(small_space.at("client"), small_space.ip("server"), CLOSED, "UDP")
    small.stop(NODE)
    install(tmp_path, "gate", GATE, GATE_C)
    start(small, command(small), tmp_path)
    yield small_space
    small.stop(NODE)
    forget_copies(small)
    small.start(NODE)
    small.delete(Key("ConfigMap", "kube-system", "cubelet"))
    assert small.call(NODE, "status")["problems"] == []


@contextmanager
def never_open(space: Space) -> Iterator[None]:
    """Nothing passes the filter while the block runs, and nothing else is lost."""
    client, server = space.at("client"), space.ip("server")
    with loads() as knocking, loads() as running:
        knocking.add("closed UDP", client, knocks, server, CLOSED)
        running.add("UDP", client, datagrams, server, ECHO)
        running.add("TCP by ClusterIP", client, stream, space.vip("server"), 80)
        running.add("new TCP by ClusterIP", client, connections, space.vip("server"), 80)
        time.sleep(0.2)
        yield
        time.sleep(0.2)
    knocking.check(at_least=20)
    running.check(at_least=20)


def broken_import(folder: Path) -> None:
    install(folder, "gate", GATE + "\nimport nothing_like_it\n", GATE_C)


def wrong_abi(folder: Path) -> None:
    install(folder, "gate", GATE.replace('"gate"', '"gate"\n    abi = 9', 1), GATE_C)


def broken_c(folder: Path) -> None:
    install(folder, "gate", GATE, GATE_C.replace("IPPROTO_UDP", "missing"))


def refused_c(folder: Path) -> None:
    install(folder, "gate", GATE, GATE_C.replace("== IPPROTO_UDP", "== *(volatile int *)0"))


def vanished(folder: Path) -> None:
    shutil.rmtree(folder / "cubelet_gate")
    shutil.rmtree(folder / "cubelet_gate-0.3.dist-info")


def vanished_files(folder: Path) -> None:
    shutil.rmtree(folder / "cubelet_gate")


BREAKS: list[tuple[Callable[[Path], None], str]] = [
    (broken_import, "ModuleNotFoundError"),
    (wrong_abi, "built for ABI 9"),
    (broken_c, "use of undeclared identifier 'missing'"),
    (refused_c, "refused by the verifier"),
    (vanished_files, "cubelet_gate"),
    (vanished, "is not installed any more"),
]


def test_it_is_kept_whatever_becomes_of_its_package(
    small: World, guarded: Space, tmp_path: Path
) -> None:
    for break_it, reason in BREAKS:
        with never_open(guarded):
            break_it(tmp_path)  # while the agent runs, which composes anew then
            guarded.apply(service("other", "server", ("TCP", 81, ECHO), type="NodePort"))
            found = small.call(NODE, "status")["problems"]
            assert all("cube gate is kept" in each for each in found), (break_it, found)
            small.stop(NODE)
            start(small, command(small), tmp_path)
            eventually(lambda: plugins(small)["gate"]["state"] == "kept", 20)
            eventually(lambda: bool(small.call(NODE, "status")["ready"]), 20)
            assert reason in str(plugins(small)["gate"]["reason"])
            # What kept it from starting is told until the pass that is ready has been taken in.
            eventually(lambda: len(problems(small)) == 1, 20)
            (found,) = problems(small)
            assert "cube gate is kept: cubelet-gate 0.3 runs on" in found, break_it
            assert "gate" in small.call(NODE, "status")["composition"]["stacks"]["pod"]
            guarded.delete("Service", "other")
            install(tmp_path, "gate", GATE, GATE_C)  # mended
            small.stop(NODE)
            start(small, command(small), tmp_path)
            assert plugins(small)["gate"]["state"] == "active"
    # The operator may say that it goes, and that is said.
    assert configure(small, "exclude: [gate]") == []
    client, server = guarded.at("client"), guarded.ip("server")
    assert guarded.who(client, server, CLOSED, "UDP") == "server"
    assert small.call(NODE, "status")["composition"]["excluded"] == ["gate (essential)"]
    assert plugins(small)["gate"]["state"] == "excluded"


def test_if_nothing_can_be_loaded_of_it_what_is_pinned_stays(
    small: World, guarded: Space, tmp_path: Path
) -> None:
    copies = small.layout.node(NODE) / "state/cubes"
    with never_open(guarded):
        small.stop(NODE)
        vanished(tmp_path)
        for note in copies.glob("*.json"):
            if b'"gate"' in note.read_bytes():
                shutil.rmtree(note.with_suffix(""))
        spawn(small, command(small), tmp_path)
        told = "gate was in force and cannot be loaded: cubelet-gate is not installed any more"
        eventually(lambda: any(told in each for each in problems(small)), 30)
        assert not small.call(NODE, "status")["ready"]
        time.sleep(1)
        small.stop(NODE)
        install(tmp_path, "gate", GATE, GATE_C)
        start(small, command(small), tmp_path)
        assert plugins(small)["gate"]["state"] == "active"


def problems(world: World) -> list[str]:
    try:
        return list(world.call(NODE, "status")["problems"])
    except Exception:  # it does not answer yet
        return []
