"""Routes into the datapath, and packets that take them."""

from __future__ import annotations

import socket
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from cubelet.net.node import ensure, teardown
from cubelet.net.routes import Refused, RouteReport, free, sync_routes

from .shown import (
    HAIRPIN,
    PODS,
    SERVICES,
    SETTINGS,
    UPLINK_ADDRESS,
    everything,
    ip,
    ip_json,
    own_routes,
    routes,
)


@pytest.mark.usefixtures("bare_node")
class TestRoutes:
    def test_diff(self) -> None:
        local = ensure(SETTINGS)
        assert sync_routes([PODS, SERVICES], local) == RouteReport(installed=(PODS, SERVICES))
        assert sync_routes([PODS, HAIRPIN], local) == RouteReport(
            installed=(HAIRPIN,), removed=(SERVICES,)
        )
        before = everything()
        assert sync_routes([HAIRPIN, PODS, PODS], local) == RouteReport()
        assert everything() == before
        assert own_routes() == {"10.244.0.0/16", "169.254.1.2"}

    def test_shape(self) -> None:
        sync_routes([PODS], ensure(SETTINGS))
        route = routes("table", "main")[str(PODS)]
        assert route["gateway"] == "169.254.1.1"
        assert route["dev"] == "cubelet0"
        assert route["prefsrc"] == "10.244.1.1"
        assert route["flags"] == ["onlink"]

    def test_foreign_is_reported_and_kept(self) -> None:
        local = ensure(SETTINGS)
        ip("route", "add", str(PODS), "via", "192.168.7.9", "metric", "100")
        before = routes()[str(PODS)]
        reason = "another route to it exists: proto 3 via 192.168.7.9 dev eth0 metric 100"
        report = RouteReport(installed=(SERVICES,), refused=(Refused(PODS, reason),))
        assert sync_routes([PODS, SERVICES], local) == report
        assert routes()[str(PODS)] == before
        ip("route", "del", str(PODS))
        assert sync_routes([PODS, SERVICES], local) == RouteReport(installed=(PODS,))

    def test_no_route_leads_away_from_what_is_spared(self) -> None:
        local = ensure(SETTINGS)
        far, near = ip_address("10.96.4.4"), ip_address("192.168.7.77")
        host = ip_network(far)
        report = sync_routes([host, SERVICES, PODS], local, spared=[far, near])
        reason = "the node reaches 10.96.4.4 by another way, which it needs"
        assert report == RouteReport(
            installed=(PODS,), refused=(Refused(host, reason), Refused(SERVICES, reason))
        )
        wider = ip_network("192.168.0.0/16")
        assert sync_routes([PODS, wider], local, spared=[near]).refused == (), "it is on the link"
        ip("route", "add", "10.96.4.0/24", "via", "192.168.7.9")
        found = sync_routes([host, SERVICES, PODS], local, spared=[far])
        assert [each.network for each in found.refused] == [host], "the way there is narrower"

    def test_one_that_leads_away_goes_though_none_is_to_be_removed(self) -> None:
        local = ensure(SETTINGS)
        server = ip_address("203.0.113.9")
        mistake, right = ip_network(server), ip_network("203.0.113.8")
        sync_routes([mistake, right, PODS], local)
        report = sync_routes([mistake, right, PODS], local, remove=False, spared=[server])
        assert [each.network for each in report.refused] == [mistake]
        assert own_routes() == {"203.0.113.8", str(PODS)}

    def test_free_removes_what_was_set_to_the_very_addresses_and_nothing_else(self) -> None:
        local = ensure(SETTINGS)
        servers = [ip_address("203.0.113.9"), ip_address("10.96.0.1"), ip_address("2001:db8::1")]
        ip("route", "add", "10.96.0.1", "via", "192.168.7.9")
        sync_routes([ip_network(servers[0]), SERVICES, PODS], local)
        assert free(servers) == (ip_network(servers[0]),)
        assert own_routes() == {str(SERVICES), str(PODS)}
        assert "10.96.0.1" in routes()
        assert free(servers) == ()

    def test_foreign_that_came_later_wins(self) -> None:
        local = ensure(SETTINGS)
        sync_routes([PODS], local)
        ip("route", "add", "blackhole", str(PODS), "metric", "5")
        report = sync_routes([PODS], local)
        assert report.removed == (PODS,)
        assert [refused.network for refused in report.refused] == [PODS]
        assert own_routes() == set()

    def test_own_but_wrong_is_put_right(self) -> None:
        local = ensure(SETTINGS)
        sync_routes([PODS, SERVICES, HAIRPIN], local)
        right = ip_json("-4", "route")
        ours = ("proto", "203")
        ip("route", "replace", str(PODS), "via", "192.168.7.9", *ours)
        ip("route", "replace", "unreachable", str(SERVICES), *ours)
        ip("route", "add", str(PODS), "via", "192.168.7.9", "metric", "7", *ours)
        ip("route", "add", str(PODS), "tos", "0x10", "via", "192.168.7.9", *ours)
        ip("route", "add", "blackhole", "10.7.0.0/16", *ours)
        assert sync_routes([PODS, SERVICES, HAIRPIN], local) == RouteReport(
            installed=(PODS, SERVICES), removed=(ip_network("10.7.0.0/16"),)
        )
        assert ip_json("-4", "route") == right

    def test_other_tables_are_left_alone(self) -> None:
        local = ensure(SETTINGS)
        ip("route", "add", "blackhole", "10.7.0.0/16", "proto", "203", "table", "77")
        sync_routes([], local)
        teardown()
        assert set(routes("table", "77")) == {"10.7.0.0/16"}

    def test_default_route_is_never_taken(self) -> None:
        local = ensure(SETTINGS)
        report = sync_routes([ip_network("0.0.0.0/0")], local)
        assert report.installed == ()
        assert routes()["default"]["dev"] == "eth0"

    def test_what_cannot_be_routed_does_not_stop_the_rest(self) -> None:
        local = ensure(SETTINGS)
        elsewhere = msgspec.structs.replace(local, gateway=ip_address("10.244.77.1"))
        report = sync_routes([ip_network("fd00::/64"), PODS], elsewhere)
        assert [refused.network for refused in report.refused] == [ip_network("fd00::/64"), PODS]
        assert "cannot route 10.244.0.0/16 through the gateway" in report.refused[1].reason


ETH_IPV4 = b"\x08\x00"


@pytest.mark.usefixtures("bare_node")
class TestPackets:
    def test_host_to_pod_enters_the_datapath(self) -> None:
        local = ensure(SETTINGS)
        sync_routes([PODS], local)
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0800)) as datapath,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host,
        ):
            datapath.bind(("cubelet0-dp", 0x0800))
            datapath.settimeout(5)
            host.sendto(b"hello", ("10.244.2.5", 53))
            frame = datapath.recv(2048)
        assert frame[:14] == mac(local.router_mac) + mac(local.gateway_mac) + ETH_IPV4
        assert frame[26:34] == ip_address("10.244.1.1").packed + ip_address("10.244.2.5").packed
        assert frame.endswith(b"hello")

    @pytest.mark.parametrize(
        "source",
        [
            pytest.param("192.168.7.77", id="routed-by-the-uplink"),
            pytest.param(UPLINK_ADDRESS, id="the-node's-own"),
        ],
    )
    def test_datapath_to_host_arrives_whatever_its_source(self, source: str) -> None:
        local = ensure(SETTINGS)
        with (
            socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as datapath,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as host,
        ):
            host.bind(("10.244.1.1", 5353))
            host.settimeout(5)
            datapath.bind(("cubelet0-dp", 0))
            header = mac(local.gateway_mac) + mac(local.router_mac) + ETH_IPV4
            datapath.send(header + udp(source, "10.244.1.1", 5353, b"hello"))
            data, (sender, _) = host.recvfrom(64)
        assert (data, sender) == (b"hello", source)


def mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def udp(source: str, destination: str, port: int, payload: bytes) -> bytes:
    """An IPv4 packet; scapy fills in lengths and checksums."""
    from scapy.layers.inet import IP, UDP
    from scapy.packet import Raw

    return bytes(IP(src=source, dst=destination) / UDP(sport=9, dport=port) / Raw(payload))
