"""The real CNI plugin against a real agent, on a node with five addresses for pods."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest

from cubelet.cni import errors
from cubelet.lab import netns, traffic
from cubelet.net.pods import host_ifname

from .cni import Runtime
from .manifests import service
from .world import Space, World, eventually

NODE = "node1"
FREE = 5
"""Addresses of a /29 that are neither its own, nor the broadcast's, nor the gateway's."""
OF_PORTS = ("cubelet_ports", "bridge0_neighbors", "bridge0_fdb", "bridge0_flood_ports")
"""Maps that hold nothing while there are no pods."""

ENDED = os.WEXITED | os.WNOWAIT
"""Asks whether a process has ended, and leaves it to be waited for."""

Make = Callable[[str], Runtime]


@pytest.fixture
def container(small: World) -> Iterator[Make]:
    """Makes containers; what they held is given back in the end."""
    made: list[Runtime] = []

    def make(name: str) -> Runtime:
        runtime = Runtime(small, NODE, name)
        runtime.make()
        made.append(runtime)
        return runtime

    yield make
    for runtime in made:
        assert runtime("DEL").status == 0
        netns.delete(runtime.netns)
    assert held(small) == Held()


@dataclass(frozen=True)
class Held:
    """What a node holds of pods: devices, addresses, records, and maps that are not empty."""

    devices: tuple[str, ...] = ()
    leases: tuple[str, ...] = ()
    records: tuple[str, ...] = ()
    entries: tuple[str, ...] = ()


def held(world: World) -> Held:
    state = world.layout.node(NODE) / "state"
    command = ["ip", "-netns", world.at_node(NODE), "-json", "link", "show", "type", "veth"]
    links = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
    # Those whose other end is in another namespace; one is the node's own.
    devices = {link["ifname"] for link in links if "link_netnsid" in link} - {"eth0"}
    leases = tuple(
        lease["address"] for lease in json.loads((state / "ipam.json").read_text())["leases"]
    )
    records = tuple(sorted(path.name for path in (state / "attachments").glob("*.json")))
    planned = world.planned(NODE)
    entries = tuple(name for name in OF_PORTS if planned[name])
    return Held(tuple(sorted(devices)), leases, records, entries)


def test_add_twice_gives_the_same(small: World, container: Make) -> None:
    a = container("a")
    first = a("ADD")
    assert first.status == 0
    assert first.document["cniVersion"] == "1.1.0"
    before = held(small)
    again = a("ADD")
    assert again.document == first.document
    assert held(small) == before
    assert a("CHECK", prevResult=first.document).status == 0
    gateway = str(small.call(NODE, "status")["addresses"][0])
    assert small.run(a.netns, traffic.ping, gateway).answered


def test_del_twice_leaves_nothing(small: World, container: Make) -> None:
    a = container("a")
    a("ADD")
    for _ in range(2):
        deleted = a("DEL")
        assert (deleted.status, deleted.document) == (0, {})
        assert held(small) == Held()
    assert small.run(a.netns, traffic.ping, "10.244.9.1", 56, 0.3).outcome != "answered"
    never = Runtime(small, NODE, "never")
    assert never("DEL").status == 0


def test_del_works_when_the_namespace_is_gone(small: World, container: Make) -> None:
    a = container("a")
    a("ADD")
    netns.delete(a.netns)
    assert a("DEL").status == 0
    assert held(small) == Held()


@pytest.mark.parametrize(
    "damage",
    [
        "address flush dev eth0",
        "link set eth0 down",
        "route delete default",
        "link delete eth0",
        "link set eth0 mtu 1000",
    ],
)
def test_check_detects_damage(small: World, container: Make, damage: str) -> None:
    a = container("a")
    added = a("ADD")
    assert a("CHECK", prevResult=added.document).status == 0
    netns.ip(damage.split(), a.netns)
    checked = a("CHECK", prevResult=added.document)
    assert checked.code == errors.CHECK_FAILED, checked
    repaired = a("ADD")
    assert repaired.status == 0
    assert a("CHECK", prevResult=repaired.document).status == 0


def test_check_wants_the_address_that_was_given(small: World, container: Make) -> None:
    a = container("a")
    added = a("ADD").document
    other = {**added, "ips": [{**added["ips"][0], "address": "10.244.9.6/29"}]}
    assert added["ips"][0]["address"] != "10.244.9.6/29"
    assert a("CHECK", prevResult=other).code == errors.CHECK_FAILED
    assert container("b")("CHECK", prevResult=added).code == errors.CHECK_FAILED


def test_addresses_run_out_and_come_back(small: World, container: Make) -> None:
    runtimes = [container(f"c{n}") for n in range(FREE + 1)]
    added = [runtime("ADD") for runtime in runtimes]
    assert [each.code for each in added] == [0] * FREE + [errors.ADDRESSES_EXHAUSTED]
    addresses = {ip_address(each.address) for each in added[:FREE]}
    assert addresses == {ip_address(f"10.244.9.{n}") for n in range(2, 7)}
    assert len(held(small).leases) == len(held(small).devices) == FREE
    freed = added[2].address
    runtimes[2]("DEL")
    assert runtimes[FREE]("ADD").address == freed


def test_gc_removes_what_the_runtime_does_not_name(small: World, container: Make) -> None:
    kept, stale = container("kept"), container("stale")
    address = kept("ADD").address
    stale("ADD")
    valid = [{"containerID": "kept", "ifname": "eth0"}]
    assert kept("GC", valid=valid).status == 0
    left = held(small)
    assert (len(left.devices), left.leases, len(left.records)) == (1, (address,), 1)
    assert kept("CHECK").status == 0
    assert stale("CHECK").code == errors.CHECK_FAILED
    assert kept("GC", valid=[]).status == 0
    assert held(small) == Held()


def test_an_add_that_cannot_be_attached_is_rolled_back(small: World, container: Make) -> None:
    a = container("a")
    # A folder where the link is to be pinned.
    name = host_ifname("a", "eth0").replace(".", "_")
    obstacle = small.layout.bpffs_of(NODE) / "links" / name
    obstacle.mkdir()
    try:
        failed = a("ADD")
        assert failed.code == errors.NOT_PROGRAMMED, failed
        assert failed.document["details"]
        assert held(small) == Held()
        devices = subprocess.run(
            ["ip", "-netns", a.netns, "-brief", "link"], capture_output=True, text=True, check=True
        )
        assert "eth0" not in devices.stdout
    finally:
        obstacle.rmdir()
    assert a("ADD").status == 0
    assert small.call(NODE, "status")["problems"] == []


def test_bad_namespaces_and_configurations_are_told(small: World, container: Make) -> None:
    never = Runtime(small, NODE, "never")
    assert never("ADD").code == errors.INVALID_ENVIRONMENT
    a = container("a")
    assert a("ADD", cniVersion="9.9.9").code == errors.INCOMPATIBLE_VERSION
    assert a("ADD", ipam={"type": "host-local"}).code == errors.UNSUPPORTED_FIELD
    assert a("ADD", "no pairs").code == errors.INVALID_ENVIRONMENT
    assert held(small) == Held()


def test_version_needs_no_agent(small: World) -> None:
    runtime = Runtime(small, NODE, "never")
    answer = runtime("VERSION", socket="/nonexistent")
    assert answer.status == 0
    assert "1.1.0" in answer.document["supportedVersions"]


def test_status_tells_whether_the_agent_is_there(small: World, container: Make) -> None:
    a = container("a")
    added = a("ADD")
    assert a("STATUS").status == 0
    small.kill(NODE)
    assert a("STATUS").code == errors.NOT_AVAILABLE
    assert a("ADD").code == errors.TRY_AGAIN_LATER
    assert small.run(a.netns, traffic.ping, "10.244.9.1").answered
    small.start(NODE)
    assert a("STATUS").status == 0
    assert a("CHECK", prevResult=added.document).status == 0
    assert a("ADD").document == added.document


def test_a_pod_that_was_deleted_without_an_agent_is_gone_with_the_next(
    small: World, container: Make
) -> None:
    """Its namespace lives on, so the kernel removes nothing by itself."""
    a, b = container("a"), container("b")
    a("ADD")
    kept = b("ADD").address
    small.kill(NODE)
    for _ in range(2):
        assert a("DEL").status == 0
    small.start(NODE)
    left = held(small)
    assert (len(left.devices), left.leases, len(left.records)) == (1, (kept,), 1)
    assert b("CHECK").status == 0


def test_a_pod_that_is_deleted_while_the_agent_hangs_goes_when_it_is_back(
    small: World, container: Make
) -> None:
    a = container("a")
    a("ADD")
    small.signal(NODE, signal.SIGSTOP)
    try:
        # The plugin would wait for a minute: this is the note that it then leaves.
        folder = small.layout.socket(NODE).with_name("agent.sock.deleted")
        folder.mkdir(exist_ok=True)
        (folder / "a:eth0").touch()
    finally:
        small.signal(NODE, signal.SIGCONT)
    eventually(lambda: held(small) == Held(), 15)


@pytest.mark.parametrize("pause", [0.02, 0.3])
def test_an_agent_that_is_ended_while_pods_go_ends_at_once_and_leaves_nothing(
    small: World, container: Make, pause: float
) -> None:
    """The pods of a node that is drained, and then its agent: kubelets kill it after 30 s."""
    runtimes = [container(f"c{n}") for n in range(FREE)]
    for runtime in runtimes:
        assert runtime("ADD").status == 0
    with ThreadPoolExecutor(FREE + 1) as pool:
        going = [pool.submit(runtime, "DEL") for runtime in runtimes]
        time.sleep(pause)
        pid = small.signal(NODE, signal.SIGTERM)
        late = pool.submit(runtimes[0], "DEL")
        eventually(lambda: os.waitid(os.P_PID, pid, ENDED | os.WNOHANG) is not None, 15)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert [each.result().status for each in (*going, late)] == [0] * (FREE + 1)
    small.start(NODE)
    assert held(small) == Held()


def test_of_two_sandboxes_of_a_pod_the_new_one_is_served(small: World, container: Make) -> None:
    """As of a StatefulSet's pod deleted by force: the new one comes before the old one goes."""
    args = "IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web-0;K8S_POD_UID="
    gateway = str(small.call(NODE, "status")["addresses"][0])
    pairs = [(container(f"old{n}"), container(f"new{n}")) for n in range(2)]
    for n, (old, new) in enumerate(pairs):
        mine = args.replace("web-0", f"web-{n}")
        addresses = {old("ADD", f"{mine}u1").address, new("ADD", f"{mine}u2").address}
        assert len(addresses) == 2
        assert small.run(new.netns, traffic.ping, gateway).answered
    small.stop(NODE)
    small.start(NODE)
    for _, new in pairs:
        assert small.run(new.netns, traffic.ping, gateway).answered
    pairs[0][0]("DEL")
    assert small.run(pairs[0][1].netns, traffic.ping, gateway).answered
    pairs[1][1]("DEL")
    assert small.run(pairs[1][0].netns, traffic.ping, gateway).answered
    assert len(held(small).leases) == 2


@pytest.mark.parametrize("content", [b"", b'{"name": "mynet", "type": "bridge"}', b'{"leases": [{'])
def test_damaged_state_keeps_neither_agent_nor_pods_from_working(
    small: World, container: Make, content: bytes
) -> None:
    a, b = container("a"), container("b")
    gateway = str(small.call(NODE, "status")["addresses"][0])
    added = [each("ADD") for each in (a, b)]
    before = held(small)
    state = small.layout.node(NODE) / "state"
    small.stop(NODE)
    for path in (*state.glob("*.json"), state / "attachments" / before.records[0]):
        path.write_bytes(content)
    small.start(NODE)
    told = small.call(NODE, "status")["problems"]
    broken = list(state.rglob("*.unreadable"))
    assert len(broken) == 3
    assert all(any(str(path) in problem for problem in told) for path in broken)
    assert held(small) == before
    for runtime, answer in zip((a, b), added, strict=True):
        assert small.run(runtime.netns, traffic.ping, gateway).answered
        assert runtime("CHECK", prevResult=answer.document).status == 0
    assert container("c")("ADD").address not in {each.address for each in added}
    for path in broken:
        path.unlink()
    assert small.call(NODE, "status")["problems"] == []


def test_a_pod_that_went_while_the_agent_was_away_is_forgotten(
    small: World, container: Make
) -> None:
    a, b = container("a"), container("b")
    a("ADD")
    kept = b("ADD").address
    small.kill(NODE)
    netns.ip(["link", "delete", "eth0"], a.netns)
    small.start(NODE)
    left = held(small)
    assert (len(left.devices), left.leases, len(left.records)) == (1, (kept,), 1)
    links_left = [p.name for p in (small.layout.bpffs_of(NODE) / "links").iterdir()]
    assert host_ifname("a", "eth0").replace(".", "_") not in links_left
    assert b("CHECK").status == 0


def test_pods_start_while_a_composition_is_compiled(
    small: World, small_space: Space, container: Make, tmp_path: Path
) -> None:
    """A first NodePort brings a cube to the uplink; nothing of that has been compiled before."""
    small.stop(NODE)
    small.start(NODE, cache_dir=str(tmp_path))
    try:
        before = status(small)["composition"]["identity"]
        with ThreadPoolExecutor(1) as pool:
            edge = service("edge", "edge", ("TCP", 80, 80), type="NodePort")
            applying = pool.submit(small_space.apply, edge)
            eventually(lambda: "compiling" in " ".join(status(small)["waiting"]), 20)
            assert container("a")("ADD").status == 0
            assert status(small)["composition"]["identity"] == before
            applying.result()
        assert status(small)["composition"]["identity"] != before
        assert (status(small)["waiting"], status(small)["problems"]) == ([], [])
    finally:
        small.stop(NODE)
        small.start(NODE)


def status(world: World) -> dict[str, Any]:
    found: dict[str, Any] = world.call(NODE, "status")
    return found
