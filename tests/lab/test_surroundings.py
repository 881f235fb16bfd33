"""Others change the node's network under load: it is right again within a second.

Where the change itself costs something, a socket of the node's own has the same before it, without
any of us: the control. The figures are in docs/reliability.md, as these tests print them.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from cubelet.lab import netns
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT
from cubelet.net import rtnl, sysctl

from . import beyond
from .beyond import Beyond
from .load import Loads, Report, connections, datagrams, loads
from .manifests import pod, service
from .world import Space, World, eventually

RATE = 200
ECHO = beyond.ECHO
PORTS = (("TCP", ECHO), ("UDP", ECHO))
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU = 10, 2, 14
HEALED = 1.0
"""Seconds that the agent may take."""


@pytest.fixture(scope="module")
def there(world: World) -> Iterator[Beyond]:
    """A host beyond the wire with two ways to it."""
    with beyond.beyond(world) as made:
        yield made


@pytest.fixture(scope="module")
def field(world: World) -> Iterator[Space]:
    """A client and two servers, one on each node, with a Service that has node ports."""
    space = Space(world, "field")
    space.apply(
        pod("client", nodeName="node1"),
        pod("near", *PORTS, nodeName="node1"),
        pod("far", *PORTS, nodeName="node2"),
        service("far", "far", ("TCP", 80, ECHO), ("UDP", 80, ECHO), type="NodePort"),
    )
    yield space
    space.delete("Pod", "client", "near", "far")
    space.delete("Service", "far")


def at_node(space: Space, *lines: str) -> None:
    """`ip` commands on node1."""
    netns.ip_batch(lines, space.world.at_node("node1"))


def outage(report: Report) -> float:
    """The longest run of datagrams without an answer, in seconds. The last ones have theirs."""
    lost = sorted(int(each) for each in report.lost if each.isdigit())
    assert not [each for each in lost if each >= report.sent - RATE // 4], "it never ended"
    longest = run = 0
    for before, each in zip([-2, *lost], lost, strict=False):
        run = run + 1 if each == before + 1 else 1
        longest = max(longest, run)
    return longest / RATE


def healed(name: str, running: Loads, *flows: str, control: str | None = None) -> None:
    """Each was without answers for a second at most, and for what the control was without."""
    bare = outage(running[control]) if control else 0.0
    found = {flow: outage(running[flow]) for flow in flows}
    print(f"{name}: " + ", ".join(f"{f} {s * 1e3:.0f} ms" for f, s in found.items()), end="")
    print(f", control {bare * 1e3:.0f} ms" if control else "")
    assert max(found.values()) < bare + HEALED, (found, bare)


def change(seconds: float, *do: Callable[[], None]) -> None:
    """Do this after a moment of load, and let that go on for so long."""
    time.sleep(0.5)
    for each in do:
        each()
    time.sleep(seconds)


def start(running: Loads, space: Space, *names: str) -> None:
    """Loads by name: from where, to where."""
    client, node = space.at("client"), space.world.at_node("node1")
    outside = space.world.outside
    loads_of = {
        "pod to beyond": (client, beyond.ADDRESS, ECHO),
        "node to beyond": (node, beyond.ADDRESS, ECHO),
        "beyond to NodePort": (
            f"{space.world.layout.netns_prefix}beyond",
            space.world.node("node1").address,
            space.node_port("far", "UDP"),
        ),
        "node to its pod": (node, space.ip("near"), ECHO),
        "node to far pod": (node, space.ip("far"), ECHO),
        "pod to far pod": (client, space.ip("far"), ECHO),
        "pod to Service": (client, space.vip("far"), 80),
        "outside to NodePort": (
            outside,
            space.world.node("node1").address,
            space.node_port("far", "UDP"),
        ),
    }
    for name in names:
        place, address, port = loads_of[name]
        running.add(name, place, datagrams, address, port, RATE)


def test_another_default_gateway(there: Beyond, field: Space) -> None:
    """Of flows both ways: out of a pod, and in by a NodePort, whose answers go by it, too."""
    flows = ("pod to beyond", "beyond to NodePort")
    try:
        with loads() as running:
            start(running, field, *flows, "node to beyond")
            change(
                1.5,
                lambda: at_node(field, f"route replace default via {beyond.SECOND}"),
                lambda: there.lead(beyond.SECOND),
            )
    finally:
        there.lead(OUTSIDE_ADDRESS)
        at_node(field, f"route replace default via {OUTSIDE_ADDRESS}")
    healed("default gateway", running, *flows, control="node to beyond")


def told_mtu(address: str, port: int, size: int) -> tuple[int, int, float]:
    """How many datagrams of one flow that must not be fragmented were echoed, until the sender was
    told a smaller MTU; which, and when. Five seconds at most."""
    echoed, ends = 0, time.monotonic() + 5
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.05)
        client.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        client.connect((address, port))
        while (mtu := client.getsockopt(socket.IPPROTO_IP, _IP_MTU)) > size + 28:
            assert time.monotonic() < ends, f"{echoed} were echoed, and no MTU was told"
            with contextlib.suppress(OSError):  # the error that tells it, or nothing yet
                client.send(bytes(size))
                echoed += len(client.recv(65536)) == size
    return echoed, mtu, time.monotonic()


def test_a_smaller_mtu_on_the_way(there: Beyond, field: Space) -> None:
    """Who sends more on an open flow is told."""
    world, way = field.world, f"{beyond.ADDRESS} via {OUTSIDE_ADDRESS} mtu lock 1300"
    try:
        with ThreadPoolExecutor(1) as pool:
            told = pool.submit(world.run, field.at("client"), told_mtu, beyond.ADDRESS, ECHO, 1400)
            time.sleep(0.5)
            began = time.monotonic()
            at_node(field, f"route add {way}")
            echoed, mtu, when = told.result()
    finally:
        at_node(field, f"route del {way}")
    print(f"smaller MTU: told after {(when - began) * 1e3:.0f} ms")
    assert (echoed > 0, mtu) == (True, 1300)
    assert when - began < HEALED


OURS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "routes flushed": (("route flush proto 203",), ("node to its pod", "node to far pod")),
    "gateway down": (("link set cubelet0 down",), ("node to its pod", "node to far pod")),
    "gateway deleted": (
        ("link del cubelet0",),
        ("node to its pod", "node to far pod", "pod to far pod", "pod to Service"),
    ),
    "overlay down": (("link set cubelet-vxlan down",), ("pod to far pod", "node to far pod")),
    "overlay deleted": (("link del cubelet-vxlan",), ("pod to far pod", "outside to NodePort")),
    "gateway's address deleted": (
        ("address flush dev cubelet0",),
        ("node to its pod", "node to far pod"),
    ),
}
"""What others do to what is ours, and the flows that it concerns."""


@pytest.mark.parametrize("name", OURS)
def test_what_is_ours_is_put_right(field: Space, name: str) -> None:
    """Without another composition: it would take seconds."""
    lines, flows = OURS[name]
    world = field.world
    before = world.call("node1", "status")["composition"]["identity"]
    with loads() as running:
        start(running, field, *flows)
        change(1.5, lambda: at_node(field, *lines))
    healed(name, running, *flows)
    assert world.call("node1", "status")["composition"]["identity"] == before
    assert world.call("node1", "status")["problems"] == []


SETTINGS = {
    "ipv4/ip_forward": "0",
    "ipv4/conf/cubelet0/rp_filter": "1",
    "ipv4/conf/lo/route_localnet": "0",
    "ipv4/ip_local_reserved_ports": "",
}
"""The first two the kernel tells of, the others nobody."""


@pytest.mark.parametrize("key", SETTINGS)
def test_settings_are_put_right(field: Space, key: str) -> None:
    world, place = field.world, field.world.at_node("node1")
    before = world.run(place, sysctl.read, key)
    world.set(place, key, SETTINGS[key])
    took = eventually(lambda: world.run(place, sysctl.read, key) == before, HEALED)
    print(f"{key}: {took * 1e3:.0f} ms")


def test_forwarding_turned_off(field: Space) -> None:
    """New flows, too: their first packets find no way meanwhile."""
    with loads() as running:
        start(running, field, "pod to far pod", "outside to NodePort")
        running.add("new", field.at("client"), connections, OUTSIDE_ADDRESS, OUTSIDE_PORT)
        world = field.world
        change(1.0, lambda: world.set(world.at_node("node1"), "ipv4/ip_forward", "0"))
    healed("forwarding", running, "pod to far pod", "outside to NodePort")
    assert running["new"].silence < HEALED + 0.5


def test_the_uplink_is_pulled_and_comes_back(there: Beyond, field: Space) -> None:
    """The kernel takes its routes away and does not give them back: who pulled it does."""
    flows = ("pod to beyond", "pod to far pod", "beyond to NodePort")
    with loads() as running:
        start(running, field, *flows, "node to beyond")
        change(1.0, lambda: at_node(field, "link set eth0 down"))
        change(
            2.0,
            lambda: at_node(field, "link set eth0 up", f"route add default via {OUTSIDE_ADDRESS}"),
        )
    healed("uplink down for 1.5 s", running, *flows, control="node to beyond")


def cpu(pid: int) -> float:
    """Seconds of CPU that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_a_storm_of_routes_and_neighbours(field: Space) -> None:
    """As of BGP: flows go on, the agent looks now and then, and heals meanwhile."""
    world, count = field.world, 10_000
    networks = [f"10.{64 + i // 250}.{i % 250}.0/24" for i in range(count)]
    pid = world.pid("node1")
    try:
        with loads() as running:
            start(running, field, "pod to far pod", "outside to NodePort")
            time.sleep(0.5)
            began, used = time.monotonic(), cpu(pid)
            for part in range(0, count, 500):
                some = networks[part : part + 500]
                at_node(field, *(f"route add {each} via {OUTSIDE_ADDRESS}" for each in some))
                at_node(
                    field,
                    *(
                        f"neigh replace 172.18.9.{i % 250} dev eth0 "
                        "lladdr 02:00:00:00:00:77 nud reachable"
                        for i in range(500)
                    ),
                )
            at_node(field, "link set cubelet0 down")
            took = eventually(lambda: world.run(world.at_node("node1"), _is_up, "cubelet0"), 10)
            used, elapsed = cpu(pid) - used, time.monotonic() - began
    finally:
        at_node(field, *(f"route del {each}" for each in networks), "neigh flush dev eth0")
    print(f"{count} routes: {used:.1f} s of CPU in {elapsed:.1f} s, healed in {took:.1f} s")
    assert outage(running["pod to far pod"]) == outage(running["outside to NodePort"]) == 0
    # A look takes a fraction of a second; without a pace there would be one for each batch.
    assert used < max(elapsed / 2, 2)


def _is_up(name: str) -> bool:
    with rtnl.session() as ipr:
        return rtnl.links(ipr)[name].up
