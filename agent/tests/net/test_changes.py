"""What the kernel's notices affect: of notices as it sends them, and of what is made up of them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator

import pytest

from cubelet.net.changes import Affected, Classifier
from cubelet.net.listener import Listener
from cubelet.net.node import ensure
from cubelet.net.pods import host_ifname
from cubelet.net.routes import sync_routes

from .shown import PODS, SERVICES, SETTINGS, ip, setting

ALL, NODE, PATHS, NOTHING = Affected.ALL, Affected.NODE, Affected.PATHS, Affected.NOTHING
ROUTE = PATHS | Affected.TABLES


@pytest.fixture
def heard(bare_node: None) -> Iterator[Callable[[], Affected]]:
    """What a node's listener hears of what was done since it was last asked."""
    ensure(SETTINGS)
    with Listener() as listener:
        yield listener.read


def test_what_others_do_to_routes(heard: Callable[[], Affected]) -> None:
    ip("route", "replace", "default", "via", "192.168.7.9")
    assert heard() == ALL
    ip("route", "add", "10.9.0.0/24", "via", "192.168.7.1")
    assert heard() == ROUTE
    ip("route", "del", "10.9.0.0/24")
    assert heard() == ROUTE
    ip("rule", "add", "from", "10.9.9.9", "lookup", "77")
    assert heard() == PATHS
    ip("route", "add", "local", "203.0.113.0/24", "dev", "lo")
    assert heard() == ALL
    assert heard() == NOTHING


def test_our_own_routes(heard: Callable[[], Affected]) -> None:
    """Adding them is our own doing, removing them may be anybody's."""
    sync_routes([PODS, SERVICES], ensure(SETTINGS))
    assert heard() == NOTHING
    ip("route", "flush", "proto", "203")
    assert heard() == NODE


def test_next_hops_of_their_own(heard: Callable[[], Affected]) -> None:
    ip("nexthop", "add", "id", "7", "via", "192.168.7.1", "dev", "eth0")
    assert heard() == PATHS
    ip("route", "add", "10.9.0.0/24", "nhid", "7")
    assert heard() == ROUTE
    ip("nexthop", "replace", "id", "7", "via", "192.168.7.9", "dev", "eth0")
    assert heard() & PATHS


def test_addresses_and_devices(heard: Callable[[], Affected]) -> None:
    ip("addr", "add", "192.168.7.77/24", "dev", "eth0")
    assert heard() == ALL
    ip("link", "set", "eth0", "mtu", "1400")
    assert heard() == ALL
    ip("link", "set", "cubelet0", "down")
    assert heard() == ALL
    ip("link", "del", "cubelet0")
    assert heard() == ALL


def test_a_device_that_looks_as_before_is_nothing(heard: Callable[[], Affected]) -> None:
    ip("link", "set", "eth0", "txqueuelen", "500")
    heard()
    ip("link", "set", "eth0", "txqueuelen", "501")
    assert heard() == NOTHING


def test_what_becomes_of_pods_devices_is_nothing(heard: Callable[[], Affected]) -> None:
    """Hundreds come and go; each is wired by an agent."""
    name = host_ifname("0123456789ab", "eth0")
    ip("link", "add", name, "type", "veth", "peer", "pod")
    heard()
    ip("link", "set", name, "up")
    setting(f"conf/{name}/rp_filter", "0")
    setting(f"conf/{name}/forwarding", "0")
    assert heard() == NOTHING
    setting("conf/cubelet0/rp_filter", "2")
    assert heard() == NODE | PATHS


def test_forwarding(heard: Callable[[], Affected]) -> None:
    setting("ip_forward", "0")
    assert heard() == NODE | PATHS


def test_neighbours_are_the_kernels_business_but_for_our_own(
    heard: Callable[[], Affected],
) -> None:
    ip("neigh", "add", "192.168.7.1", "lladdr", "02:00:00:00:00:09", "dev", "eth0")
    ip("neigh", "del", "192.168.7.1", "dev", "eth0")
    ensure(SETTINGS)
    assert heard() == NOTHING
    ip("neigh", "del", "169.254.1.1", "dev", "cubelet0")
    assert heard() == NODE


def test_lost_notices_affect_all(bare_node: None) -> None:
    ensure(SETTINGS)
    with Listener() as listener:
        while listener.read():
            pass
        lines = "".join(
            f"route {what} 10.{i // 250}.{i % 250}.0/24 via 192.168.7.1\n"
            for what in ("add", "del")
            for i in range(5000)
        )
        subprocess.run(["ip", "-batch", "-"], input=lines, text=True, check=True)
        found = NOTHING
        while more := listener.read():
            found |= more
        assert found == ALL


# Recorded from Linux 6.18: `ip route add 10.9.0.0/24 via 10.0.0.2`, an address, and its routes.
ROUTE_ADDED = (
    "3c000000180000064cab0d6b1812000002180000fe0300010000000008000f00fe000000"
    "080001000a090000080005000a0000020800040001000000"
)


def test_a_route_as_recorded() -> None:
    message = bytes.fromhex(ROUTE_ADDED)
    ours, cloned = bytearray(message), bytearray(message)
    ours[21] = 203
    cloned[25] = 0x02
    classifier = Classifier()
    assert classifier.affected(message) == ROUTE
    assert classifier.affected(bytes(ours)) == NOTHING
    assert classifier.affected(bytes(cloned)) == NOTHING
    assert classifier.affected(bytes(ours) + message) == ROUTE
