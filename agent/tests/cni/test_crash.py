"""An agent that is killed at any step of ADD or DEL: nothing leaks, nothing is lost.

The agent's side of CNI runs in a process of its own, on the real kernel and real files, and kills
itself (SIGKILL) just before its n-th effect, for every n. Then another one starts on what is there,
and the runtime does what runtimes do: DEL, and ADD again. Only the datapath is a stand-in: a
folder with a file for each port that it serves.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from cubelet.cni import files
from cubelet.cni.ipam import Ipam
from cubelet.cni.service import CniService
from cubelet.net import netns, pods, sysctl
from cubelet.net.netlink import Connection
from cubelet.testkit import local_node
from cubelet.testkit.network import private_network
from cubelet_hooks.objects import LocalNode, Pod, Port

LOCAL = local_node(ip_network("10.244.1.0/24"), uplink_mtu=1400, overlay_mtu=1350)
REQUESTS = {16: "NEWLINK", 17: "DELLINK", 20: "NEWADDR", 24: "NEWROUTE"}
KEPT, POD = "kept", "c1"
"""Containers: one that was attached long ago, and the one that an agent is at work on."""


@pytest.fixture
def node() -> Iterator[None]:
    """This thread in an empty network namespace, which ends with the test."""
    with private_network():
        yield


@contextmanager
def namespaces() -> Iterator[dict[str, str]]:
    """Each container's network namespace, by container."""
    paths = {name: f"cubelet-crash-{os.getpid()}-{name}" for name in (KEPT, POD)}
    try:
        for name in paths.values():
            subprocess.run(["ip", "netns", "add", name], check=True)
        yield {container: f"/run/netns/{name}" for container, name in paths.items()}
    finally:
        for name in paths.values():
            subprocess.run(["ip", "netns", "del", name], check=True)


@dataclass
class Agent:
    """The agent's side of CNI, started anew on what is there; `effect` is told of each."""

    state_dir: Path
    netns: dict[str, str]
    effect: Callable[[str], None] = lambda _: None
    attach_timeout: float = 5.0

    def __post_init__(self) -> None:
        self.socket = self.state_dir / "agent.sock"
        self.served = self.state_dir / "datapath"
        self.served.mkdir(exist_ok=True)
        self.ipam = Ipam(self.state_dir / "ipam.json")
        self.service = CniService(self, self.ipam, pods, self, self.find_pod)
        self.ports = {port.container_id: port for port in self.service.load()}
        # The first pass of a started agent, which is level-triggered.
        for path in self.served.iterdir():
            if path.name not in self.ports:
                path.unlink()
        for container in self.ports:
            (self.served / container).touch()

    def local(self) -> LocalNode:
        return LOCAL

    async def attach(self, port: Port) -> None:
        self.effect("attached")
        (self.served / port.container_id).touch()

    async def detach(self, port: Port) -> None:
        self.effect("detached")
        (self.served / port.container_id).unlink(missing_ok=True)

    async def find_pod(self, key: str) -> Pod | None:
        return None

    def call(self, command: str, container: str) -> dict[str, Any]:
        params = {
            "command": command,
            "container_id": container,
            "netns": self.netns[container],
            "ifname": "eth0",
            "args": {"K8S_POD_NAMESPACE": "default", "K8S_POD_NAME": container},
            "config": {"cniVersion": "1.1.0", "name": "cubelet", "type": "cubelet-cni"},
        }
        return asyncio.run(self.service.serve(params))

    def held(self) -> set[str]:
        """The containers that something is held for; all that is held agrees."""
        leases = {lease.container_id for lease in self.ipam.leases}
        ifnames = {pods.host_ifname(container, "eth0") for container in leases}
        assert set(pods.list_wired()) == ifnames
        folder = self.state_dir / "attachments"
        assert set(os.listdir(folder)) == {f"{name}.json" for name in ifnames}
        assert set(os.listdir(self.served)) == leases
        for container, path in self.netns.items():
            assert devices(path) == {"lo"} | ({"eth0"} if container in leases else set())
        return leases


def devices(path: str) -> set[str]:
    with netns.opened(path) as descriptor:
        return netns.run_in(descriptor, lambda: set(os.listdir("/proc/thread-self/net/dev_snmp6")))


class Doom:
    """Ends this process before its n-th effect, on which it writes the name into `will`."""

    def __init__(self, number: int, will: Path) -> None:
        self._left = number
        self._will = will

    def __call__(self, name: str, last_words: Callable[[], object] = lambda: None) -> None:
        self._left -= 1
        if self._left == 0:
            last_words()
            self._will.write_text(name)
            os.kill(os.getpid(), signal.SIGKILL)

    def arm(self) -> None:
        """Count what changes the kernel or the disk; for a process that ends after it."""
        real_request, real_write = Connection.request, sysctl.write

        def request(kernel: Connection, kind: int, body: bytes, flags: int = 0) -> None:
            self(REQUESTS[kind])
            real_request(kernel, kind, body, flags)

        def write(key: str, value: str) -> None:
            self("sysctl")
            real_write(key, value)

        setattr(Connection, "request", request)  # noqa: B010 # a method is not assigned to
        vars(sysctl)["write"] = write
        vars(files)["os"] = DoomedOs(self)


class DoomedOs:
    """The module `os` as `cubelet.cni.files` uses it."""

    def __init__(self, doom: Doom) -> None:
        self._doom = doom

    def __getattr__(self, name: str) -> Any:
        if name in ("open", "fsync", "replace", "unlink"):
            self._doom(name)
        return getattr(os, name)

    def write(self, descriptor: int, content: memoryview) -> int:
        half = content[: len(content) // 2]
        self._doom("write", lambda: os.write(descriptor, half))
        return os.write(descriptor, content)


def kill_at(number: int, state_dir: Path, paths: dict[str, str], command: str) -> str:
    """Where a process that serves the call was killed; '' if it has fewer effects."""
    will = state_dir.parent / "will"
    will.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            doom = Doom(number, will)
            agent = Agent(state_dir, paths, doom)
            doom.arm()
            agent.call(command, POD)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
    _, status = os.waitpid(child, 0)
    if not os.WIFSIGNALED(status):
        assert os.waitstatus_to_exitcode(status) == 0
        return ""
    assert os.WTERMSIG(status) == signal.SIGKILL
    return will.read_text()


STEPS = {
    "ADD": {
        *("open", "write", "fsync", "replace", *REQUESTS.values()),
        *("sysctl", "attached"),
    },
    "DEL": {"DELLINK", "detached", "open", "write", "fsync", "replace", "unlink"},
}


@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_an_agent_killed_at_any_step_leaks_and_loses_nothing(
    node: None, tmp_path: Path, command: str
) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    killed: list[str] = []
    with namespaces() as paths:
        agent = Agent(state_dir, paths)
        kept = agent.call("ADD", KEPT)
        for number in itertools.count(1):
            if command == "DEL":
                agent.call("ADD", POD)
            step = kill_at(number, state_dir, paths, command)
            if not step:
                break
            killed.append(step)
            agent = Agent(state_dir, paths)
            where = f"killed before {step}, effect {number} of {command}"
            assert agent.held() in ({KEPT}, {KEPT, POD}), where
            agent.call("CHECK", KEPT)
            assert agent.call("ADD", KEPT) == kept, where
            agent.call("DEL", POD)
            assert agent.held() == {KEPT}, where
            agent.call("ADD", POD)
            agent.call("CHECK", POD)
            assert agent.held() == {KEPT, POD}, where
            agent.call("DEL", POD)
            assert agent.held() == {KEPT}, where
        agent = Agent(state_dir, paths)
        assert agent.held() == ({KEPT, POD} if command == "ADD" else {KEPT})
        for container in (KEPT, POD):
            agent.call("DEL", container)
        assert agent.held() == set()
    print(f"{command}: killed before {', '.join(killed)}")
    assert set(killed) == STEPS[command]
