"""The lab's clients against the lab's server, across two namespaces and a router between them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from cubelet.lab import netns, processes, traffic
from cubelet.lab.layout import Layout
from cubelet.lab.traffic import Hop, Result

CLIENT, ROUTER, SERVER = "192.0.2.2", "192.0.2.1", "198.51.100.2"


@pytest.fixture
def client(layout: Layout) -> str:
    """The client's namespace; the server `a/b` is behind a router."""
    client, router, server = (f"{layout.netns_prefix}{name}" for name in ("c", "r", "s"))
    for name in (client, router, server):
        netns.create(name)
    netns.run(router, _forward)
    for i, (place, address, gateway) in enumerate(
        ((client, CLIENT, ROUTER), (server, SERVER, "198.51.100.1"))
    ):
        lines = [
            f"link add to{i} type veth peer name eth0 netns {place}",
            f"address add {gateway}/24 dev to{i}",
            f"link set to{i} up",
        ]
        netns.ip_batch(lines, router)
        lines = [
            f"address add {address}/24 dev eth0",
            "link set eth0 up",
            f"route add default via {gateway}",
        ]
        netns.ip_batch(lines, place)
    ports = [(protocol, 80) for protocol in ("TCP", "UDP", "SCTP")]
    processes.spawn_server(layout, "s", server, "a/b", ports)
    return client


def _forward() -> None:
    with open("/proc/sys/net/ipv4/ip_forward", "w") as switch:
        switch.write("1")


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_the_server_says_who_it_is_and_whom_it_sees(client: str, protocol: str) -> None:
    result = netns.run(client, traffic.who, SERVER, 80, protocol)
    assert (result.outcome, result.server, result.seen_as) == ("answered", "a/b", CLIENT)
    assert result.local[0] == CLIENT
    assert 0 < result.seconds < 1


@pytest.mark.parametrize(
    ("path", "body"),
    [("/hostname", b"b"), ("/clientip", CLIENT.encode()), ("/", b'{"name": "a/b"')],
)
def test_http(client: str, path: str, body: bytes) -> None:
    result = netns.run(client, traffic.http_get, SERVER, 80, path)
    assert result.answered
    assert result.data.startswith(body)


def test_http_page_that_does_not_exist(client: str) -> None:
    assert netns.run(client, traffic.http_get, SERVER, 80, "/no").outcome == "corrupt"


def test_tcp_echoes_what_is_no_command(client: str) -> None:
    assert netns.run(client, traffic.tcp, SERVER, 80, b"no newline").data == b"no newline"


@pytest.mark.parametrize("size", [0, 1, 1473, 64_000, 65_507])
def test_datagrams_of_any_size_are_echoed(client: str, size: int) -> None:
    assert netns.run(client, traffic.udp_echo, SERVER, 80, size).answered


@pytest.mark.parametrize("size", [0, 1, 3_000_001])
def test_a_transfer_is_checked_by_its_hash(client: str, size: int) -> None:
    assert netns.run(client, traffic.transfer, SERVER, 80, size).answered


@pytest.mark.parametrize("size", [0, 56, 1401, 8000])
def test_ping(client: str, size: int) -> None:
    assert netns.run(client, traffic.ping, SERVER, size).answered


def test_sctp_is_acknowledged_or_aborted(client: str) -> None:
    assert netns.run(client, traffic.sctp_init, SERVER, 80).answered
    assert netns.run(client, traffic.sctp_init, SERVER, 81).outcome == "refused"


def test_traceroute_names_each_hop(client: str) -> None:
    hops = netns.run(client, traffic.traceroute, SERVER)
    assert hops == (Hop(1, ROUTER), Hop(2, SERVER, final=True))


@pytest.mark.parametrize(
    ("function", "args"), [(traffic.who, (SERVER, 81)), (traffic.who, (SERVER, 81, "UDP"))]
)
def test_refused_is_told_at_once(
    client: str, function: Callable[..., Result], args: tuple[Any, ...]
) -> None:
    result = netns.run(client, function, *args)
    assert result.outcome == "refused"
    assert result.seconds < 0.5


def test_silence_takes_as_long_as_it_is_waited_for(client: str, layout: Layout) -> None:
    netns.ip(["route", "add", "blackhole", CLIENT], f"{layout.netns_prefix}s")
    for function, args in ((traffic.sctp_init, (SERVER, 80)), (traffic.ping, (SERVER, 8))):
        result = netns.run(client, function, *args, 0.3)
        assert result.outcome == "timeout"
        assert 0.3 <= result.seconds < 1


def test_unreachable_is_not_silence(client: str, layout: Layout) -> None:
    netns.ip(["route", "add", "unreachable", "203.0.113.0/24"], f"{layout.netns_prefix}r")
    for protocol in ("TCP", "UDP"):
        result = netns.run(client, traffic.who, "203.0.113.1", 80, protocol)
        assert result.outcome == "unreachable"
