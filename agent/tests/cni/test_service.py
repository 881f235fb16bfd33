"""The agent's side of CNI on a kernel that exists only in memory."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import pytest

from cubelet.cni import errors, files
from cubelet.cni.errors import CniError
from cubelet.cni.ipam import Ipam
from cubelet.cni.service import CniService
from cubelet.net import NetError, pods
from cubelet.net.netns import NetnsGone
from cubelet.net.pods import PodLink
from cubelet.net.rtnl import Link
from cubelet.testkit import local_node
from cubelet_hooks.objects import LocalNode, Pod, Port

LOCAL = local_node(ip_network("10.244.1.0/24"))


class FakeWiring:
    """Devices in a dictionary; `failing` names the step that does not work."""

    def __init__(self) -> None:
        self.links: dict[str, Link] = {}
        self.made: dict[str, PodLink] = {}
        self.failing: dict[str, Exception] = {}
        self.next_index = 10

    def wire(self, link: PodLink) -> int:
        self._step("wire")
        self.next_index += 1
        self.made[link.host_ifname] = link
        self.links[link.host_ifname] = device(link.host_ifname, self.next_index, up=False)
        return self.next_index

    def bring_up(self, host_ifname: str, alias: str) -> None:
        self._step("bring_up")
        index = self.links[host_ifname].index
        self.links[host_ifname] = device(host_ifname, index, up=True, alias=alias)

    def annotate(self, host_ifname: str, alias: str) -> None:
        self._step("annotate")
        self.links[host_ifname] = replace(self.links[host_ifname], alias=alias)

    def unwire(self, host_ifname: str) -> bool:
        self._step("unwire")
        return self.links.pop(host_ifname, None) is not None

    def check(self, link: PodLink, ifindex: int) -> None:
        found = self.links.get(link.host_ifname)
        if found is None or found.index != ifindex or not found.up:
            raise NetError("gone")

    def list_wired(self) -> Mapping[str, Link]:
        return dict(self.links)

    def _step(self, name: str) -> None:
        if name in self.failing:
            raise self.failing[name]


def device(name: str, index: int, up: bool, alias: str = "") -> Link:
    return Link(
        index=index,
        name=name,
        kind="veth",
        mac="",
        mtu=1500,
        up=up,
        ethernet=True,
        alias=alias,
        peer=None,
        vxlan={},
    )


@dataclass
class Node:
    """A service, what it stands on, and what it told the agent."""

    state_dir: Path
    attach_timeout: float = 5.0
    wiring: FakeWiring = field(default_factory=FakeWiring)
    known: LocalNode | None = LOCAL
    pods: dict[str, Pod] = field(default_factory=dict)
    ports: list[Port] = field(default_factory=list)
    attach_failure: Exception | None = None
    on_attach: Callable[[], Awaitable[object]] | None = None

    def __post_init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Start the service anew, on the state that is there."""
        self.socket = self.state_dir / "agent.sock"
        self.ipam = Ipam(self.state_dir / "ipam.json")
        self.service = CniService(self, self.ipam, self.wiring, self, self.find)

    def local(self) -> LocalNode | None:
        return self.known

    async def attach(self, port: Port) -> None:
        assert not self.wiring.links[port.host_ifname].up or port in self.ports
        if self.on_attach is not None:
            await self.on_attach()
        if self.attach_failure is not None:
            raise self.attach_failure
        if port not in self.ports:
            self.ports.append(port)

    async def detach(self, port: Port) -> None:
        if port in self.ports:
            self.ports.remove(port)

    async def find(self, key: str) -> Pod | None:
        return self.pods.get(key)

    async def call(self, command: str, container: str = "c1", **more: Any) -> dict[str, Any]:
        return await self.service.serve(params(command, container, **more))

    def do(self, command: str, container: str = "c1", **more: Any) -> dict[str, Any]:
        return asyncio.run(self.call(command, container, **more))

    def fail(self, code: int, command: str, container: str = "c1", **more: Any) -> CniError:
        with pytest.raises(CniError) as caught:
            self.do(command, container, **more)
        assert caught.value.code == code, caught.value
        return caught.value

    @property
    def left(self) -> tuple[str, ...]:
        """All that attachments leave anywhere."""
        records = (self.state_dir / "attachments").glob("*.json")
        return (
            *self.wiring.links,
            *(lease.container_id for lease in self.ipam.leases),
            *(path.name for path in records),
            *(port.key for port in self.ports),
        )


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path)


def params(
    command: str, container: str, netns: str = "/run/netns/pod", **config: Any
) -> dict[str, Any]:
    version = config.pop("version", "1.1.0")
    args = {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": f"pod-{container}", "K8S_POD_UID": "u1"}
    return {
        "command": command,
        "container_id": container,
        "netns": netns,
        "ifname": "eth0",
        "args": config.pop("args", args),
        "config": {"cniVersion": version, "name": "cubelet", "type": "cubelet-cni", **config},
    }


def name_of(container: str) -> str:
    return pods.host_ifname(container, "eth0")


def test_add_answers_with_what_it_made(node: Node) -> None:
    result = node.do("ADD")
    host, pod = pods.host_mac("c1", "eth0"), pods.mac_of(ip_address("10.244.1.2"))
    assert result == {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": name_of("c1"), "mac": host, "mtu": 1500},
            {"name": "eth0", "mac": pod, "mtu": 1500, "sandbox": "/run/netns/pod"},
        ],
        "ips": [{"address": "10.244.1.2/24", "gateway": "10.244.1.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "10.244.1.1", "mtu": 1450}],
        "dns": {},
    }
    assert node.wiring.links[name_of("c1")].up
    assert node.ports == [
        Port(
            namespace="shop",
            name="pod-c1",
            container_id="c1",
            ifname="eth0",
            netns="/run/netns/pod",
            host_ifname=name_of("c1"),
            ifindex=11,
            mac=pod,
            host_mac=host,
            addresses=(ip_address("10.244.1.2"),),
            mtu=1500,
            uid="u1",
        )
    ]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
def test_results_of_older_versions_have_their_fields_only(node: Node, version: str) -> None:
    result = node.do("ADD", version=version, dns={"nameservers": ["10.96.0.10"]})
    assert result["cniVersion"] == version
    assert result["ips"][0].get("version") == ("4" if version.startswith("0.") else None)
    assert "mtu" not in result["routes"][0]
    assert all("mtu" not in interface for interface in result["interfaces"])
    assert result["dns"] == {"nameservers": ["10.96.0.10"]}


def test_a_repeated_add_gives_the_same_result_and_wires_once(node: Node) -> None:
    assert node.do("ADD") == node.do("ADD")
    assert node.wiring.next_index == 11
    assert len(node.ports) == 1


def test_a_repeated_add_after_a_restart_gives_the_same_result(node: Node) -> None:
    first = node.do("ADD")
    node.start()
    assert [port.key for port in node.service.load()] == ["shop/pod-c1"]
    assert node.do("ADD") == first


@pytest.mark.parametrize("cause", ["link", "netns"])
def test_a_repeated_add_wires_anew_what_is_no_longer_intact(node: Node, cause: str) -> None:
    node.do("ADD")
    if cause == "link":
        node.wiring.links.clear()
    node.do("ADD", netns="/run/netns/pod" if cause == "link" else "/run/netns/other")
    assert [port.ifindex for port in node.ports] == [12]
    assert len(node.ipam.leases) == 1


def test_the_annotation_asks_for_an_address(node: Node) -> None:
    annotated = Pod("shop", "pod-c1", annotations={"cubelet.io/ip": "10.244.1.77"})
    node.pods[annotated.key] = annotated
    assert node.do("ADD")["ips"][0]["address"] == "10.244.1.77/24"


@pytest.mark.parametrize("asked", ["10.9.9.9", "a.b.c.d", "10.244.1.2"])
def test_an_address_that_cannot_be_had_fails_the_add(node: Node, asked: str) -> None:
    node.do("ADD", "c0")
    before = node.left
    node.pods["shop/pod-c1"] = Pod("shop", "pod-c1", annotations={"cubelet.io/ip": asked})
    assert asked in node.fail(errors.ADDRESS_UNAVAILABLE, "ADD").message
    assert node.left == before


def test_without_kubernetes_the_container_names_the_port(node: Node) -> None:
    node.do("ADD", args={})
    assert node.ports[0].key == "/c1"


def test_before_the_node_is_set_up_add_and_status_say_so(node: Node) -> None:
    node.known = None
    node.fail(errors.TRY_AGAIN_LATER, "ADD")
    node.fail(errors.NOT_AVAILABLE, "STATUS")
    node.known = LOCAL
    assert node.do("STATUS") == {}


@pytest.mark.parametrize(
    ("step", "failure", "code"),
    [
        ("wire", NetError("no room"), errors.WIRING_FAILED),
        ("wire", NetnsGone("no such netns"), errors.INVALID_ENVIRONMENT),
        ("wire", RuntimeError("a bug"), errors.INTERNAL),
        ("bring_up", NetError("no luck"), errors.WIRING_FAILED),
        ("attach", RuntimeError("verifier"), errors.NOT_PROGRAMMED),
        ("save", OSError("disk full"), errors.IO_FAILURE),
    ],
)
def test_a_failed_add_leaves_nothing(
    node: Node, monkeypatch: pytest.MonkeyPatch, step: str, failure: Exception, code: int
) -> None:
    if step == "attach":
        node.attach_failure = failure
    elif step == "save":
        monkeypatch.setattr(files, "write_atomic", failing_for_attachments(failure))
    else:
        node.wiring.failing[step] = failure
    node.fail(code, "ADD")
    assert node.left == ()


def failing_for_attachments(failure: Exception) -> Callable[..., None]:
    write = files.write_atomic

    def write_or_fail(path: Path, content: bytes, mode: int = 0o600) -> None:
        write(path, content, mode)
        if path.parent.name == "attachments":
            raise failure

    return write_or_fail


def test_an_error_while_rolling_back_does_not_stop_the_rest(node: Node) -> None:
    node.attach_failure = RuntimeError("verifier")
    node.wiring.failing["unwire"] = NetError("busy")
    error = node.fail(errors.NOT_PROGRAMMED, "ADD")
    assert error.details == "verifier"
    assert set(node.left) == {name_of("c1")}
    node.wiring.failing.clear()
    node.do("DEL")
    assert node.left == ()


def test_a_datapath_that_takes_too_long_fails_the_add(node: Node) -> None:
    async def never() -> None:
        await asyncio.sleep(60)

    node.attach_timeout = 0.05
    node.start()
    node.on_attach = never
    assert "within 0.05 s" in node.fail(errors.TRY_AGAIN_LATER, "ADD").message
    assert node.left == ()


def test_del_takes_back_everything_and_may_be_repeated(node: Node) -> None:
    node.do("ADD")
    for _ in range(2):
        assert node.do("DEL", netns="") == {}
        assert node.left == ()


def test_del_succeeds_for_what_vanished_by_itself(node: Node) -> None:
    node.do("ADD")
    node.wiring.links.clear()
    node.do("DEL")
    assert node.left == ()


def test_a_del_that_failed_can_be_repeated(node: Node) -> None:
    node.do("ADD")
    node.wiring.failing["unwire"] = NetError("busy")
    node.fail(errors.WIRING_FAILED, "DEL")
    assert [lease.container_id for lease in node.ipam.leases] == ["c1"]
    node.wiring.failing.clear()
    node.do("DEL")
    assert node.left == ()


def test_check_finds_what_is_missing(node: Node) -> None:
    node.fail(errors.CHECK_FAILED, "CHECK")
    result = node.do("ADD")
    assert node.do("CHECK", prevResult=result) == {}
    other = {"ips": [{"address": "10.244.1.9/24"}]}
    assert "10.244.1.2/24" in node.fail(errors.CHECK_FAILED, "CHECK", prevResult=other).message
    node.wiring.links.clear()
    node.fail(errors.CHECK_FAILED, "CHECK")


def valid(*containers: str) -> dict[str, Any]:
    return {"cni.dev/valid-attachments": [{"containerID": c, "ifname": "eth0"} for c in containers]}


def test_gc_keeps_the_valid_ones_and_removes_all_else(node: Node) -> None:
    for container in ("c1", "c2", "c3"):
        node.do("ADD", container)
    node.ipam.allocate(LOCAL.pod_cidr, ("dead", "eth0"))
    node.wiring.links[name_of("lost")] = device(name_of("lost"), 99, up=True)
    node.do("GC", "", **valid("c2", "unknown"))
    assert node.left == (name_of("c2"), "c2", f"{name_of('c2')}.json", "shop/pod-c2")


def test_gc_leaves_other_networks_alone(node: Node) -> None:
    node.do("ADD", "c1", name="other")
    node.do("GC", "", **valid())
    assert [port.key for port in node.ports] == ["shop/pod-c1"]


def test_gc_without_a_list_removes_nothing(node: Node) -> None:
    node.do("ADD")
    node.fail(errors.INVALID_CONFIG, "GC", "")
    assert len(node.ports) == 1


def test_gc_goes_on_after_a_failure_and_reports_it(node: Node) -> None:
    for container in ("c1", "c2"):
        node.do("ADD", container)
    node.ports.clear()
    detached: list[str] = []

    async def detach(port: Port) -> None:
        detached.append(port.container_id)
        if port.container_id == "c1":
            raise RuntimeError("busy")

    node.detach = detach  # type: ignore[method-assign]
    node.start()
    assert "c1 eth0: busy" in node.fail(errors.WIRING_FAILED, "GC", "", **valid()).details
    assert detached == ["c1", "c2"]
    assert [lease.container_id for lease in node.ipam.leases] == ["c1"]


def test_gc_does_not_disturb_an_add_under_way(node: Node) -> None:
    async def collect() -> None:
        await node.call("GC", "", **valid())

    node.on_attach = collect
    node.do("ADD")
    assert [port.key for port in node.ports] == ["shop/pod-c1"]
    assert set(node.wiring.links) == {name_of("c1")}


def test_one_containers_calls_wait_for_each_other_and_others_do_not(node: Node) -> None:
    async def main() -> None:
        go, waiting = asyncio.Event(), asyncio.Event()

        async def wait() -> None:
            waiting.set()
            await go.wait()

        node.on_attach = wait
        add = asyncio.create_task(node.call("ADD", "c1"))
        await waiting.wait()
        node.on_attach = None
        delete = asyncio.create_task(node.call("DEL", "c1"))
        await node.call("ADD", "c2")
        assert not add.done()
        assert not delete.done()
        go.set()
        await asyncio.gather(add, delete)

    asyncio.run(main())
    assert [port.key for port in node.ports] == ["shop/pod-c2"]


def test_a_call_goes_on_when_its_caller_goes_away(node: Node) -> None:
    async def main() -> None:
        waiting = asyncio.Event()

        async def wait() -> None:
            waiting.set()
            await asyncio.sleep(0.01)

        node.on_attach = wait
        add = asyncio.create_task(node.call("ADD"))
        await waiting.wait()
        add.cancel()
        await node.service.close()

    asyncio.run(main())
    assert [port.key for port in node.ports] == ["shop/pod-c1"]


def test_many_pods_at_once_get_different_addresses(node: Node) -> None:
    async def main() -> list[dict[str, Any]]:
        return await asyncio.gather(*(node.call("ADD", f"c{n}") for n in range(40)))

    given = {result["ips"][0]["address"] for result in asyncio.run(main())}
    assert len(given) == 40


def test_load_forgets_what_a_reboot_took(node: Node) -> None:
    node.do("ADD")
    node.ports.clear()
    node.wiring.links.clear()
    node.start()
    assert node.service.load() == []
    assert node.left == ()


def test_load_clears_an_add_that_never_ended(node: Node) -> None:
    node.ipam.allocate(LOCAL.pod_cidr, ("c1", "eth0"))
    node.wiring.links[name_of("c1")] = device(name_of("c1"), 11, up=False)
    node.start()
    assert node.service.load() == []
    assert node.left == ()


@pytest.mark.parametrize(
    "change", [{"command": "NAP"}, {"config": {}}, {"netns": 7}, {"args": None}]
)
def test_a_call_of_another_shape_is_refused(node: Node, change: dict[str, Any]) -> None:
    sent = {**params("ADD", "c1"), **change}
    with pytest.raises(CniError) as caught:
        asyncio.run(node.service.serve(sent))
    assert caught.value.code == errors.INVALID_CONFIG


def test_ports_survive_the_file_unchanged(node: Node) -> None:
    node.do("ADD")
    node.start()
    assert node.service.load() == node.ports
