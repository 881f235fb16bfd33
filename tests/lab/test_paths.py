"""What a network owes its users besides delivery: errors, path MTU, checksums, segments."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator

import pytest

from cubelet.lab import traffic
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT
from cubelet.lab.traffic import Hop

from . import frames
from .manifests import pod, service
from .world import Space, World

OVERLAY_MTU = 1450
HUNDRED_MB = 100_000_000
PORTS = (("TCP", 7), ("UDP", 7))
_IP_MTU_DISCOVER, _IP_PMTUDISC_DO, _IP_MTU, _IP_RECVERR = 10, 2, 14, 11


@pytest.fixture(scope="module")
def paths(world: World) -> Iterator[Space]:
    """A client on node1, a server on node2 with a ClusterIP and a node port."""
    space = Space(world, "paths")
    space.apply(
        pod("client", nodeName="node1"),
        pod("far", *PORTS, nodeName="node2"),
        service("far", "far", ("TCP", 80, 7), ("UDP", 80, 7), type="NodePort"),
    )
    yield space
    space.delete("Pod", "client", "far")
    space.delete("Service", "far")


def path_mtu(address: str, port: int, size: int) -> tuple[int, bool]:
    """The path MTU that datagrams of `size` bytes that must not be fragmented find out, and
    whether one that fits is echoed then."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        client.connect((address, port))
        for _ in range(3):
            try:
                client.send(bytes(size))
                client.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                continue  # the error that says so
        mtu = client.getsockopt(socket.IPPROTO_IP, _IP_MTU)
        fits = bytes(mtu - 28)
        client.send(fits)
        return mtu, client.recv(65536) == fits


@pytest.mark.parametrize("way", ["pod", "ClusterIP", "NodePort"])
def test_path_mtu_is_found_out(paths: Space, way: str) -> None:
    """The backend is on the other node, and the overlay takes 50 bytes of each frame."""
    address = {
        "pod": (paths.ip("far"), 7),
        "ClusterIP": (paths.vip("far"), 80),
        "NodePort": (paths.world.node("node1").address, paths.node_port("far", "UDP")),
    }[way]
    place = paths.world.outside if way == "NodePort" else paths.at("client")
    assert paths.world.run(place, path_mtu, *address, 1472) == (OVERLAY_MTU, True)


def test_fragmentation_needed_is_said_once_per_packet(paths: Space) -> None:
    """The first datagram that is too large is answered by an error, not by silence."""
    address, port = paths.world.node("node1").address, paths.node_port("far", "UDP")
    paths.world.run(paths.world.outside, forget_routes)
    number, seconds = paths.world.run(paths.world.outside, first_error, address, port)
    assert number == errno.EMSGSIZE
    assert seconds < 0.5


def forget_routes() -> None:
    """Forget path MTUs that were found out before."""
    with open("/proc/sys/net/ipv4/route/flush", "w") as switch:
        switch.write("1")


def first_error(address: str, port: int) -> tuple[int, float]:
    """Send one datagram of a full frame; the error number that comes back, and after how long."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(1)
        client.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_DO)
        client.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        client.connect((address, port))
        began = time.monotonic()
        client.send(bytes(1472))
        try:
            client.recv(2048)
        except OSError as error:
            return error.errno or -1, time.monotonic() - began
        return 0, time.monotonic() - began


def test_tcp_from_outside_finds_the_overlays_mtu(paths: Space) -> None:
    address, port = paths.world.node("node1").address, paths.node_port("far")
    paths.world.run(paths.world.outside, forget_routes)
    result = paths.world.run(paths.world.outside, traffic.transfer, address, port, 5_000_000)
    assert result.outcome == "answered"


def test_fragments_cross_translation(paths: Space) -> None:
    for place, address, port in (
        (paths.at("client"), paths.vip("far"), 80),
        (
            paths.world.outside,
            paths.world.node("node1").address,
            paths.node_port("far", "UDP"),
        ),
    ):
        assert paths.world.run(place, traffic.udp_echo, address, port, 20_000).answered


def test_traceroute(paths: Space) -> None:
    routers = ("192.168.1.1", "10.244.2.1")
    hops = paths.world.run(paths.at("client"), traffic.traceroute, paths.ip("far"))
    assert hops == (Hop(1, routers[0]), Hop(2, routers[1]), Hop(3, paths.ip("far"), final=True))
    hops = paths.world.run(paths.at("client"), traffic.traceroute, OUTSIDE_ADDRESS)
    assert hops == (Hop(1, routers[0]), Hop(2, OUTSIDE_ADDRESS, final=True))


def test_icmp_through_masquerade(paths: Space) -> None:
    client = paths.at("client")
    for protocol in ("TCP", "UDP"):
        result = paths.world.run(client, traffic.who, OUTSIDE_ADDRESS, OUTSIDE_PORT + 1, protocol)
        assert (result.outcome, result.seconds < 0.5) == ("refused", True)
    assert paths.world.run(client, traffic.ping, OUTSIDE_ADDRESS).answered
    assert paths.world.run(client, traffic.ping, OUTSIDE_ADDRESS, 4000).answered


def test_the_outside_sees_the_node(paths: Space) -> None:
    for protocol in ("TCP", "UDP"):
        result = paths.world.run(
            paths.at("client"), traffic.who, OUTSIDE_ADDRESS, OUTSIDE_PORT, protocol
        )
        assert result.seen_as == paths.world.node("node1").address


def test_pings_reach_everything(paths: Space) -> None:
    world, client = paths.world, paths.at("client")
    for address in (
        paths.ip("far"),
        "192.168.1.1",
        world.node("node1").address,
        world.node("node2").address,
    ):
        assert world.run(client, traffic.ping, address).answered, address
    assert world.run(world.at_node("node1"), traffic.ping, paths.ip("far")).answered
    assert world.run(world.at_node("node2"), traffic.ping, paths.ip("client")).answered


@pytest.mark.parametrize("way", ["ClusterIP", "outside"])
def test_large_segments_with_partial_checksums_cross_translation(paths: Space, way: str) -> None:
    """100 MB, intact; and it was segments of many packets whose checksum was still to be made."""
    client = paths.at("client")
    address, port, backend = (
        (paths.vip("far"), 80, paths.ip("far"))
        if way == "ClusterIP"
        else (OUTSIDE_ADDRESS, OUTSIDE_PORT, OUTSIDE_ADDRESS)
    )
    result = paths.world.run(client, traffic.transfer, address, port, HUNDRED_MB)
    assert result.outcome == "answered"
    where = {"src": result.local[0], "sport": str(result.local[1]), "dst": address}
    (flow,) = paths.world.call("node1", "get", noun="flows", where=where)
    assert flow["to_dst"] == backend
    assert flow["bytes"] > HUNDRED_MB
    assert flow["bytes"] / flow["packets"] > 4 * OVERLAY_MTU
    server = paths.at("far") if way == "ClusterIP" else paths.world.outside
    body = b"partial checksum?"
    with frames.heard(server, contains=body) as heard:
        answer = paths.world.run(client, traffic.tcp, address, port, body)
        assert answer.data == body
    assert [partial for _, partial in heard(0)] == [True]
