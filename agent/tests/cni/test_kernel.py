"""Pods' wiring on the real kernel, and the plugin, the socket and the service around it.

Each test has a node's network namespace to itself, and pods' namespaces beside it.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from scapy.layers.l2 import ARP, Ether

from cubelet.cni.install import install_plugin
from cubelet.cni.ipam import Ipam
from cubelet.cni.service import CniService
from cubelet.ipc.server import AgentServer
from cubelet.net import NetError, netns, pods
from cubelet.net.netns import NetnsGone
from cubelet.net.pods import PodLink
from cubelet.testkit import local_node
from cubelet.testkit.network import private_network
from cubelet_hooks.objects import LocalNode, Pod, Port

LOCAL = local_node(ip_network("10.244.1.0/24"), uplink_mtu=1400, overlay_mtu=1350)


@pytest.fixture
def node() -> Iterator[None]:
    """This thread in an empty network namespace, which ends with the test."""
    with private_network():
        yield


@contextmanager
def new_pod(name: str) -> Iterator[str]:
    """The path of a pod's network namespace."""
    unique = f"cubelet-test-{os.getpid()}-{name}"
    ip("netns", "add", unique)
    try:
        yield f"/run/netns/{unique}"
    finally:
        ip("netns", "del", unique)


@pytest.fixture
def pod(node: None) -> Iterator[str]:
    with new_pod("a") as path:
        yield path


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


def ip_json(*args: str, pod: str | None = None) -> list[dict[str, Any]]:
    """What `ip` shows, here or in a pod: it shares no code with the library that made it."""
    inside = ["-n", Path(pod).name] if pod else []
    shown = subprocess.run(["ip", "-j", "-d", *inside, *args], check=True, stdout=subprocess.PIPE)
    found: list[dict[str, Any]] = json.loads(shown.stdout or b"[]")
    return found


def devices(pod: str | None = None) -> set[str]:
    return {shown["ifname"] for shown in ip_json("link", pod=pod)}


def link_of(path: str, container: str = "c1", address: str = "10.244.1.2") -> PodLink:
    return PodLink(
        netns=path,
        ifname="eth0",
        mac=pods.mac_of(ip_address(address)),
        host_ifname=pods.host_ifname(container, "eth0"),
        host_mac=pods.host_mac(container, "eth0"),
        address=address,
        prefix_length=24,
        gateway="10.244.1.1",
        mtu=1400,
        route_mtu=1350,
    )


def setting(key: str) -> str:
    return Path("/proc/sys/net", key).read_text().strip()


def test_names_and_macs_are_fixed_by_the_attachment() -> None:
    names = {pods.host_ifname(c, i) for c in ("c1", "c2") for i in ("eth0", "net1")}
    assert len(names) == 4
    assert all(name.startswith("cbl") and len(name) == 15 for name in names)
    assert pods.host_ifname("c1", "eth0") in names
    sides = {pods.host_mac("c1", "eth0"), pods.mac_of(ip_address("10.244.1.2"))}
    assert len(sides) == 2
    assert all(int(side[:2], 16) & 3 == 2 for side in sides), "locally administered, unicast"


def test_a_wired_pod_has_devices_address_and_routes(pod: str) -> None:
    link = link_of(pod)
    ifindex = pods.wire(link)
    pods.bring_up(link.host_ifname, "cubelet pod")

    (host,) = ip_json("link", "show", "dev", link.host_ifname)
    assert (host["ifindex"], host["address"], host["mtu"]) == (ifindex, link.host_mac, 1400)
    assert "UP" in host["flags"]
    assert ip_json("addr", "show", "dev", link.host_ifname)[0]["addr_info"] == []
    for key, value in (("rp_filter", "0"), ("arp_ignore", "8")):
        assert setting(f"ipv4/conf/{link.host_ifname}/{key}") == value
    assert setting(f"ipv6/conf/{link.host_ifname}/disable_ipv6") == "1"

    shown = {d["ifname"]: d for d in ip_json("-4", "addr", pod=pod)}
    assert {name: d["mtu"] for name, d in shown.items()} == {"lo": 65536, "eth0": 1400}
    assert [(a["local"], a["prefixlen"]) for a in shown["eth0"]["addr_info"]] == [
        ("10.244.1.2", 24)
    ]
    assert "UP" in shown["lo"]["flags"]
    assert "UP" in shown["eth0"]["flags"]
    assert ip_json("link", "show", "dev", "eth0", pod=pod)[0]["address"] == link.mac
    routes = {route["dst"]: route for route in ip_json("-4", "route", pod=pod)}
    assert set(routes) == {"default", "10.244.1.0/24"}
    assert routes["default"]["gateway"] == "10.244.1.1"
    assert routes["default"]["metrics"] == [{"mtu": 1350}]
    assert "metrics" not in routes["10.244.1.0/24"]

    assert pods.list_wired()[link.host_ifname].index == ifindex
    pods.check(link, ifindex)


def test_the_pod_is_silent_until_the_host_side_is_up(pod: str) -> None:
    link = link_of(pod)
    pods.wire(link)
    assert "UP" not in ip_json("link", "show", "dev", link.host_ifname)[0]["flags"]
    assert "LOWER_UP" not in ip_json("link", "show", "dev", "eth0", pod=pod)[0]["flags"]


def test_two_pods_side_by_side(pod: str) -> None:
    with new_pod("b") as other:
        one, two = link_of(pod), link_of(other, "c2", "10.244.1.3")
        indexes = [pods.wire(one), pods.wire(two)]
        for link in (one, two):
            pods.bring_up(link.host_ifname, "cubelet pod")
        for link, index in zip((one, two), indexes, strict=True):
            pods.check(link, index)
        assert set(pods.list_wired()) == {one.host_ifname, two.host_ifname}
        assert pods.unwire(one.host_ifname)
        assert devices(pod) == {"lo"}
        pods.check(two, indexes[1])


def test_unwire_may_be_repeated(pod: str) -> None:
    link = link_of(pod)
    pods.wire(link)
    assert pods.unwire(link.host_ifname)
    assert not pods.unwire(link.host_ifname)
    assert devices() == {"lo"}
    assert devices(pod) == {"lo"}


def test_wiring_again_replaces_what_a_crash_left(pod: str) -> None:
    link = link_of(pod)
    assert pods.wire(link) != pods.wire(link)
    assert devices(pod) == {"lo", "eth0"}


@pytest.mark.parametrize(
    "step",
    ["_set_up", "_add_address", "_add_default_route", "_isolate_host_side", "_index"],
)
def test_a_step_that_fails_leaves_nothing(
    pod: str, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def fail(*_: object) -> None:
        raise NetError("injected")

    monkeypatch.setattr(pods, step, fail)
    with pytest.raises(NetError, match="injected"):
        pods.wire(link_of(pod))
    assert devices() == {"lo"}
    assert devices(pod) == {"lo"}


def test_a_setting_that_the_kernel_refuses_leaves_nothing(pod: str) -> None:
    unreachable = msgspec.structs.replace(link_of(pod), gateway="172.16.0.1")
    with pytest.raises(NetError, match=r"cannot add the default route through 172\.16\.0\.1"):
        pods.wire(unreachable)
    assert devices() == {"lo"}
    assert devices(pod) == {"lo"}


def test_a_device_of_that_name_in_the_pod_is_left_alone(pod: str) -> None:
    ip("-n", Path(pod).name, "link", "add", "eth0", "type", "veth", "peer", "name", "other")
    with pytest.raises(NetError, match="has a device eth0 already"):
        pods.wire(link_of(pod))
    assert devices() == {"lo"}
    assert devices(pod) == {"lo", "eth0", "other"}


def test_the_nodes_own_namespace_is_refused(node: None) -> None:
    with pytest.raises(NetError, match="the node's own"):
        pods.wire(link_of("/proc/thread-self/ns/net"))
    assert devices() == {"lo"}


def test_what_is_no_namespace_is_told_apart(node: None, tmp_path: Path) -> None:
    leftover, pipe = tmp_path / "leftover", tmp_path / "pipe"
    leftover.touch()
    os.mkfifo(pipe)
    for path in (leftover, pipe, tmp_path / "missing", Path("/proc/self/ns/uts")):
        assert not netns.exists(str(path))
        with pytest.raises(NetnsGone, match=str(path)):
            pods.wire(link_of(str(path)))
    assert netns.exists("/proc/self/ns/net")


def test_code_run_in_a_pod_leaves_this_thread_where_it_is(pod: str) -> None:
    def inode() -> int:
        return os.stat("/proc/thread-self/ns/net").st_ino

    here = inode()
    with netns.opened(pod) as descriptor:
        assert netns.run_in(descriptor, inode) == os.fstat(descriptor).st_ino != here
        with pytest.raises(ZeroDivisionError):
            netns.run_in(descriptor, lambda: 1 // 0)
    assert inode() == here


DAMAGE: dict[str, Callable[[str, PodLink], None]] = {
    "is down": lambda _, link: ip("link", "set", link.host_ifname, "down"),
    "MAC of eth0": lambda n, _: ip("-n", n, "link", "set", "eth0", "address", "02:00:00:00:00:99"),
    "MTU of eth0": lambda n, _: ip("-n", n, "link", "set", "eth0", "mtu", "1300"),
    "lost its address": lambda n, _: ip("-n", n, "addr", "flush", "dev", "eth0"),
    "lost its default": lambda n, _: ip("-n", n, "route", "del", "default"),
    "MTU of the default route": lambda n, _: ip(
        "-n", n, "route", "replace", "default", "via", "10.244.1.1", "mtu", "900"
    ),
    "cannot find device": lambda _, link: ip("link", "del", link.host_ifname),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_check_names_what_is_wrong(pod: str, damage: str) -> None:
    link = link_of(pod)
    index = pods.wire(link)
    pods.bring_up(link.host_ifname, "cubelet pod")
    DAMAGE[damage](Path(pod).name, link)
    with pytest.raises(NetError, match=damage):
        pods.check(link, index)


def test_the_node_does_not_answer_arp_for_its_addresses(pod: str) -> None:
    link = link_of(pod)
    pods.wire(link)
    pods.bring_up(link.host_ifname, "cubelet pod")
    ip("link", "set", "lo", "up")
    ip("addr", "add", "10.244.1.1/32", "dev", "lo")
    assert not arp_answered(link)
    # The kernel's default, to see that the question can be answered at all.
    Path(f"/proc/sys/net/ipv4/conf/{link.host_ifname}/arp_ignore").write_text("0")
    assert arp_answered(link)


def arp_answered(link: PodLink) -> bool:
    """Whether the pod, asking for its gateway's MAC, gets an answer."""
    question = Ether(src=link.mac, dst="ff:ff:ff:ff:ff:ff") / ARP(
        op="who-has", hwsrc=link.mac, psrc=link.address, pdst=link.gateway
    )

    def ask() -> bool:
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806)) as wire:
            wire.bind(("eth0", 0x0806))
            wire.settimeout(0.3)
            wire.send(bytes(question))
            try:
                return any(Ether(wire.recv(2048)).src == link.host_mac for _ in range(5))
            except TimeoutError:
                return False

    with netns.opened(link.netns) as descriptor:
        return netns.run_in(descriptor, ask)


@dataclass
class Agent:
    """The real socket, service, addresses and wiring; the datapath alone is missing."""

    state_dir: Path
    attach_timeout: float = 5.0

    def __post_init__(self) -> None:
        self.plugin = install_plugin(self.state_dir / "bin")
        self.socket = self.state_dir / "agent.sock"
        self.ports: dict[str, Port] = {}
        self.service = CniService(
            self, Ipam(self.state_dir / "ipam.json"), pods, self, self.find_pod
        )

    def local(self) -> LocalNode:
        return LOCAL

    async def attach(self, port: Port) -> None:
        self.ports[port.container_id] = port

    async def detach(self, port: Port) -> None:
        self.ports.pop(port.container_id, None)

    async def find_pod(self, key: str) -> Pod | None:
        return None

    def serve(self, use: Callable[[], None]) -> None:
        """Run `use` in a thread while the agent answers."""

        async def main() -> None:
            server = AgentServer(self.socket, {"cni": self.service.handle})
            await server.start()
            try:
                await asyncio.to_thread(use)
            finally:
                await server.stop()
                await self.service.close()

        asyncio.run(main())

    def cni(self, command: str, container: str, path: str, **config: Any) -> Any:
        """Run the plugin as a container runtime would; what it printed."""
        env = {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": container,
            "CNI_NETNS": path,
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": f"K8S_POD_NAMESPACE=default;K8S_POD_NAME={container}",
            "CNI_PATH": str(self.plugin.parent),
        }
        sent = {"cniVersion": "1.1.0", "name": "cubelet", "type": "cubelet-cni", **config}
        done = subprocess.run(
            [self.plugin],
            env=env,
            input=json.dumps({**sent, "socket": str(self.socket)}),
            capture_output=True,
            text=True,
            timeout=30,
        )
        assert done.stderr == ""
        assert done.returncode == 0, done.stdout
        return json.loads(done.stdout) if done.stdout else None


def test_a_pods_life_through_the_plugin(pod: str, tmp_path: Path) -> None:
    agent = Agent(tmp_path)

    def use() -> None:
        with new_pod("b") as other:
            first = agent.cni("ADD", "c1", pod)
            second = agent.cni("ADD", "c2", other)
            assert [r["ips"][0]["address"] for r in (first, second)] == [
                "10.244.1.2/24",
                "10.244.1.3/24",
            ]
            assert agent.cni("ADD", "c1", pod) == first
            agent.cni("CHECK", "c1", pod, prevResult=first)
            agent.cni("STATUS", "", "")
            wired = pods.list_wired()
            assert agent.ports["c1"].ifindex == wired[first["interfaces"][0]["name"]].index
            keep = [{"containerID": "c2", "ifname": "eth0"}]
            agent.cni("GC", "", "", **{"cni.dev/valid-attachments": keep})
            assert devices(pod) == {"lo"}
            assert set(agent.ports) == {"c2"}
        agent.cni("DEL", "c2", "")  # its namespace, and so its device, went before
        agent.cni("DEL", "c2", "")

    agent.serve(use)
    assert agent.ports == {}
    assert devices() == {"lo"}
    assert json.loads((tmp_path / "ipam.json").read_text())["leases"] == []
    assert list((tmp_path / "attachments").iterdir()) == []


def test_a_restarted_agent_knows_its_ports(pod: str, tmp_path: Path) -> None:
    before = Agent(tmp_path)
    before.serve(lambda: before.cni("ADD", "c1", pod))
    after = Agent(tmp_path)
    assert after.service.load() == [before.ports["c1"]]
    after.serve(lambda: after.cni("DEL", "c1", pod))
    assert Agent(tmp_path).service.load() == []


def test_adding_pods_is_quick(node: None, tmp_path: Path) -> None:
    """From exec to reply, without a datapath; the bound is far above what is usual."""
    agent = Agent(tmp_path)
    taken: list[float] = []

    def use() -> None:
        with ExitStack() as stack:
            for number in range(12):
                path = stack.enter_context(new_pod(str(number)))
                start = time.perf_counter()
                agent.cni("ADD", f"c{number}", path)
                taken.append(time.perf_counter() - start)

    agent.serve(use)
    median = statistics.median(taken)
    print(f"ADD: median {median * 1000:.0f} ms, slowest {max(taken) * 1000:.0f} ms")
    assert median < 1.0
