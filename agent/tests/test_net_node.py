"""The node's devices, routes and sysctls, on the real kernel in a namespace of the test's own.

What `ip` shows is what is compared: it shares no code with the library that made it.
"""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cubelet.net import NetError, node, rtnl, sysctl
from cubelet.net.node import NodeSettings, ensure, gateway_of, mac_of, teardown
from cubelet.net.routes import Refused, RouteReport, sync_routes
from cubelet_hooks.testing.network import private_network

PODS, SERVICES, HAIRPIN = map(ip_network, ("10.244.0.0/16", "10.96.0.0/12", "169.254.1.2/32"))
UPLINK_ADDRESS = "192.168.7.2"
SETTINGS = NodeSettings(
    node_name="one",
    pod_cidr=ip_network("10.244.1.0/24"),
    snat_ports=(20000, 20999),
    addresses=(ip_address(UPLINK_ADDRESS),),
)
OWN_DEVICES = {"cubelet0", "cubelet0-dp", "cubelet-vxlan"}


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


def ip_json(*args: str) -> list[dict[str, Any]]:
    shown = subprocess.run(["ip", "-j", "-d", *args], check=True, stdout=subprocess.PIPE)
    found: list[dict[str, Any]] = json.loads(shown.stdout or b"[]")
    return found


def link(name: str) -> dict[str, Any]:
    return ip_json("link", "show", "dev", name)[0]


def devices() -> set[str]:
    return {shown["ifname"] for shown in ip_json("link")}


def addresses(name: str, family: str = "-4") -> list[str]:
    infos = (
        i for shown in ip_json(family, "addr", "show", "dev", name) for i in shown["addr_info"]
    )
    return [f"{info['local']}/{info['prefixlen']}" for info in infos]


def routes(*args: str) -> dict[str, dict[str, Any]]:
    return {shown["dst"]: shown for shown in ip_json("-4", "route", "show", *args)}


def own_routes() -> set[str]:
    return set(routes("proto", "203"))


def setting(key: str, value: str | None = None) -> str:
    path = Path("/proc/sys/net/ipv4", key)
    if value is not None:
        path.write_text(value)
    return path.read_text().strip()


def everything() -> dict[str, Any]:
    """All that `ensure`, `sync_routes` and `teardown` may touch, without what changes by itself."""
    names = sorted(devices())
    return {
        "links": ip_json("link"),
        "addresses": {name: addresses(name) for name in names},
        "routes": ip_json("-4", "route", "show", "table", "all"),
        "neighbours": ip_json("-4", "neigh", "show", "nud", "permanent"),
        "ports": setting("ip_local_reserved_ports"),
    }


def forwarding() -> dict[str, str]:
    """What `ensure` may change of the settings that outlive its devices."""
    keys = ("ip_forward", "conf/all/accept_redirects", "conf/eth0/forwarding")
    return {key: setting(key) for key in keys}


@pytest.fixture
def netns() -> Iterator[None]:
    """This thread in an empty network namespace, which ends with the test."""
    with private_network():
        yield


@pytest.fixture
def bare_node(netns: None) -> None:
    """A node before the agent's first start: an uplink with the default route, strict rp_filter."""
    setting("conf/default/rp_filter", "1")
    add_nic("eth0", f"{UPLINK_ADDRESS}/24")
    ip("route", "add", "default", "via", "192.168.7.1")


def add_nic(name: str, *with_addresses: str, mtu: int = 1500) -> None:
    """A veth stands in for a NIC; its other end is left alone."""
    ip("link", "add", name, "mtu", str(mtu), "type", "veth", "peer", f"{name}-far", "mtu", str(mtu))
    for address in with_addresses:
        ip("addr", "add", address, "dev", name)
    for end in (name, f"{name}-far"):
        ip("link", "set", end, "up")


@pytest.mark.usefixtures("bare_node")
class TestEnsure:
    def test_gateway_pair(self) -> None:
        local = ensure(SETTINGS)
        host, datapath = link("cubelet0"), link("cubelet0-dp")
        assert (host["ifindex"], datapath["ifindex"]) == (
            local.gateway_ifindex,
            local.datapath_ifindex,
        )
        assert (host["link"], datapath["link"]) == ("cubelet0-dp", "cubelet0")
        assert host["address"] == local.gateway_mac
        assert (host["mtu"], datapath["mtu"]) == (1500, 1500)
        assert "UP" in host["flags"]
        assert "UP" in datapath["flags"]
        assert addresses("cubelet0") == ["10.244.1.1/32"]
        assert addresses("cubelet0-dp", "-4") == addresses("cubelet0-dp", "-6") == []
        assert datapath["inet6_addr_gen_mode"] == "none"

    def test_next_hop_is_the_router(self) -> None:
        local = ensure(SETTINGS)
        (neighbour,) = ip_json("-4", "neigh", "show", "dev", "cubelet0")
        assert neighbour["dst"] == "169.254.1.1"
        assert neighbour["lladdr"] == local.router_mac
        assert neighbour["state"] == ["PERMANENT"]

    def test_overlay(self) -> None:
        local = ensure(SETTINGS)
        overlay = link("cubelet-vxlan")
        data = overlay["linkinfo"]["info_data"]
        assert overlay["ifindex"] == local.overlay_ifindex
        assert overlay["mtu"] == local.overlay_mtu == 1450
        assert "UP" in overlay["flags"]
        assert data["external"] is True
        assert data["port"] == 4789
        assert data["learning"] is False
        assert addresses("cubelet-vxlan", "-6") == []
        assert overlay["inet6_addr_gen_mode"] == "none"

    def test_uplink_and_addresses_are_described(self) -> None:
        ip("addr", "add", "198.51.100.7/32", "dev", "eth0")
        local = ensure(SETTINGS)
        uplink = link("eth0")
        assert (local.uplink_ifindex, local.uplink_mac, local.uplink_mtu) == (
            uplink["ifindex"],
            uplink["address"],
            1500,
        )
        assert local.addresses == (ip_address(UPLINK_ADDRESS), ip_address("198.51.100.7"))
        assert local.gateway == ip_address("10.244.1.1")

    def test_sysctls(self) -> None:
        setting("ip_forward", "0")
        ensure(SETTINGS)
        assert setting("ip_forward") == "1"
        for device in (*OWN_DEVICES, "eth0"):
            assert setting(f"conf/{device}/forwarding") == "1", device
        assert setting("conf/cubelet0/rp_filter") == "0"
        assert setting("conf/cubelet0/accept_local") == "1"
        assert setting("conf/eth0/rp_filter") == "1"

    def test_again_changes_nothing(self) -> None:
        first = ensure(SETTINGS)
        sync_routes([PODS, SERVICES], first)
        before = everything()
        assert ensure(SETTINGS) == first
        assert everything() == before

    def test_macs_outlive_the_devices(self) -> None:
        first = ensure(SETTINGS)
        for name in ("cubelet0", "cubelet-vxlan"):
            ip("link", "del", name)
        second = ensure(SETTINGS)
        indexes = ("gateway_ifindex", "datapath_ifindex", "overlay_ifindex")
        same = {name: getattr(first, name) for name in indexes}
        assert msgspec.structs.replace(second, **same) == first
        assert link("cubelet-vxlan")["address"] == mac_of("one", "overlay")

    def test_drift_is_repaired(self) -> None:
        ensure(SETTINGS)
        before = everything()
        ip("link", "set", "cubelet0", "address", "02:00:00:00:00:99")
        ip("link", "set", "cubelet-vxlan", "mtu", "1300", "down")
        for last in range(1, 9):
            ip("addr", "add", f"10.9.9.{last}/24", "dev", "cubelet0-dp")
        ip("addr", "add", "fd00::1/64", "dev", "cubelet0-dp")
        assert everything() != before
        ensure(SETTINGS)
        assert everything() == before
        assert addresses("cubelet0-dp", "-6") == []

    def test_inside_an_event_loop(self) -> None:
        async def blocking() -> None:
            ensure(SETTINGS)

        with pytest.raises(RuntimeError, match="to_thread"):
            asyncio.run(blocking())
        local = asyncio.run(asyncio.to_thread(ensure, SETTINGS))
        assert local.gateway_ifindex == link("cubelet0")["ifindex"]


@pytest.mark.usefixtures("bare_node")
class TestChangedSettings:
    def test_pod_cidr(self) -> None:
        sync_routes([PODS], ensure(SETTINGS))
        local = ensure(replace(SETTINGS, pod_cidr=ip_network("10.244.9.0/24")))
        assert addresses("cubelet0") == ["10.244.9.1/32"]
        sync_routes([PODS], local)
        assert routes("proto", "203")[str(PODS)]["prefsrc"] == "10.244.9.1"

    def test_uplink_mtu(self) -> None:
        first = ensure(SETTINGS)
        ip("link", "set", "eth0", "mtu", "1400")
        second = ensure(SETTINGS)
        assert [link(name)["mtu"] for name in ("cubelet0", "cubelet0-dp", "cubelet-vxlan")] == [
            1400,
            1400,
            1350,
        ]
        assert (second.uplink_mtu, second.overlay_mtu) == (1400, 1350)
        assert second.gateway_ifindex == first.gateway_ifindex

    def test_node_name_gives_other_macs(self) -> None:
        ensure(SETTINGS)
        local = ensure(replace(SETTINGS, node_name="two"))
        assert link("cubelet0")["address"] == local.gateway_mac == mac_of("two", "gateway")
        (neighbour,) = ip_json("-4", "neigh", "show", "dev", "cubelet0")
        assert neighbour["lladdr"] == mac_of("two", "router")

    def test_device_names(self) -> None:
        ensure(SETTINGS)
        ensure(replace(SETTINGS, gateway="gw", overlay="tunnel"))
        assert devices() == {"lo", "eth0", "eth0-far", "gw", "gw-dp", "tunnel"}
        assert "UP" in link("tunnel")["flags"]
        assert setting("ip_local_reserved_ports") == "20000-20999"
        teardown()
        assert setting("ip_local_reserved_ports") == ""

    def test_failed_renaming_forgets_no_ports(self) -> None:
        ensure(SETTINGS)
        with pytest.raises(NetError, match="lo is a real device"):
            ensure(replace(SETTINGS, gateway="gw", overlay="lo"))
        teardown()
        assert setting("ip_local_reserved_ports") == ""
        assert devices() == {"lo", "eth0", "eth0-far"}

    def test_vxlan_port(self) -> None:
        first = ensure(SETTINGS)
        second = ensure(replace(SETTINGS, vxlan_port=8472))
        assert link("cubelet-vxlan")["linkinfo"]["info_data"]["port"] == 8472
        assert second.overlay_ifindex != first.overlay_ifindex
        assert second.gateway_ifindex == first.gateway_ifindex

    def test_other_devices_under_our_names_are_replaced(self) -> None:
        ip("link", "add", "cubelet-vxlan", "type", "bridge")
        ip("link", "add", "cubelet0", "type", "veth", "peer", "stranger")
        ip("link", "add", "cubelet0-dp", "type", "bridge")
        ensure(SETTINGS)
        assert devices() == {"lo", "eth0", "eth0-far", *OWN_DEVICES}
        assert link("cubelet-vxlan")["linkinfo"]["info_kind"] == "vxlan"
        assert link("cubelet0")["link"] == "cubelet0-dp"

    def test_pair_with_an_end_in_another_namespace_is_replaced(self) -> None:
        ensure(SETTINGS)
        with subprocess.Popen(
            ["unshare", "-n", "sh", "-c", "echo ready; read _"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as elsewhere:
            assert elsewhere.stdout is not None
            elsewhere.stdout.readline()
            ip("link", "set", "cubelet0-dp", "netns", str(elsewhere.pid))
            with rtnl.session() as ipr:
                assert rtnl.links(ipr)["cubelet0"].peer is None
            ensure(SETTINGS)
            elsewhere.communicate(b"\n")
        assert link("cubelet0")["link"] == "cubelet0-dp"

    def test_vxlan_with_a_key_of_its_own_is_replaced(self) -> None:
        ip("link", "add", "cubelet-vxlan", "type", "vxlan", "id", "7", "dstport", "4789")
        ensure(SETTINGS)
        assert link("cubelet-vxlan")["linkinfo"]["info_data"]["external"] is True


@pytest.mark.usefixtures("bare_node")
class TestErrors:
    def test_real_device_is_never_replaced(self) -> None:
        with pytest.raises(NetError, match="lo is a real device"):
            ensure(replace(SETTINGS, gateway="lo"))
        assert "lo" in devices()

    def test_uplink_under_our_name(self) -> None:
        with pytest.raises(NetError, match="eth0 is the uplink"):
            ensure(replace(SETTINGS, overlay="eth0"))
        assert devices() == {"lo", "eth0", "eth0-far"}

    @pytest.mark.parametrize("like_ours", [True, False])
    def test_vxlan_port_taken(self, like_ours: bool) -> None:
        # The kernel refuses one like ours when it is made, one unlike it when it is set up.
        how = "udp6zerocsumrx" if like_ours else "noudp6zerocsumrx"
        kind = ("type", "vxlan", "external", "dstport", "4789", "nolearning", how)
        ip("link", "add", "other", *kind)
        ip("link", "set", "other", "up")
        with pytest.raises(NetError, match="UDP port 4789 is another"):
            ensure(SETTINGS)
        ip("link", "del", "other")
        ensure(SETTINGS)
        assert "UP" in link("cubelet-vxlan")["flags"]

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"pod_cidr": ip_network("10.1.1.0/31")}, "no IPv4 network with room"),
            ({"pod_cidr": ip_network("fd00::/64")}, "no IPv4 network with room"),
            ({"snat_ports": (2000, 1000)}, "no range of ports"),
            ({"snat_ports": (0, 10)}, "no range of ports"),
            ({"snat_ports": (60000, 65536)}, "no range of ports"),
            ({"vxlan_port": 0}, "no UDP port"),
            ({"gateway": "thirteenchars"}, "'thirteenchars-dp' is no device name"),
            ({"overlay": "a/b"}, "'a/b' is no device name"),
            ({"overlay": ""}, "'' is no device name"),
            ({"overlay": "cubelet0"}, "names of their own"),
            ({"uplink": "cubelet0"}, "names of their own"),
        ],
    )
    def test_settings(self, change: dict[str, Any], message: str) -> None:
        with pytest.raises(NetError, match=message):
            replace(SETTINGS, **change)


@pytest.mark.usefixtures("netns")
class TestUplink:
    def test_most_preferred_default_route(self) -> None:
        add_nic("eth0", "192.168.7.2/24")
        add_nic("eth1", "192.168.8.2/24")
        ip("route", "add", "default", "via", "192.168.7.1", "metric", "200")
        ip("route", "add", "default", "via", "192.168.8.1", "metric", "100")
        assert ensure(SETTINGS).uplink_ifindex == link("eth1")["ifindex"]

    def test_default_route_of_several_hops(self) -> None:
        add_nic("eth0", "192.168.7.2/24")
        add_nic("eth1", "192.168.8.2/24")
        hops = ("nexthop", "via", "192.168.8.1", "nexthop", "via", "192.168.7.1")
        ip("route", "add", "default", *hops)
        assert ensure(SETTINGS).uplink_ifindex == link("eth1")["ifindex"]

    def test_device_of_the_node_address(self) -> None:
        add_nic("eth0", "192.168.8.2/24")
        add_nic("eth1", "192.168.7.2/24")
        ip("route", "add", "blackhole", "default")
        assert ensure(SETTINGS).uplink_ifindex == link("eth1")["ifindex"]

    def test_setting_goes_first(self) -> None:
        add_nic("eth0", "192.168.7.2/24")
        add_nic("eth1", "192.168.8.2/24", mtu=9000)
        ip("route", "add", "default", "via", "192.168.7.1")
        local = ensure(replace(SETTINGS, uplink="eth1"))
        assert (local.uplink_mtu, local.overlay_mtu) == (9000, 8950)

    def test_none(self) -> None:
        with pytest.raises(NetError, match="no uplink found"):
            ensure(SETTINGS)
        assert devices() == {"lo"}

    @pytest.mark.parametrize(
        ("name", "message"),
        [
            ("eth9", "no device eth9"),
            ("lo", "lo is no Ethernet device"),
            ("eth0", "eth0 has no address yet"),
        ],
    )
    def test_unfit(self, name: str, message: str) -> None:
        add_nic("eth0")
        with pytest.raises(NetError, match=message):
            ensure(replace(SETTINGS, uplink=name))


@pytest.mark.usefixtures("bare_node")
class TestReservedPorts:
    def test_others_are_kept(self) -> None:
        setting("ip_local_reserved_ports", "8080,20990-21010")
        ensure(SETTINGS)
        assert setting("ip_local_reserved_ports") == "8080,20000-21010"
        teardown()
        assert setting("ip_local_reserved_ports") == "8080,20990-21010"

    def test_changed_range(self) -> None:
        setting("ip_local_reserved_ports", "8080")
        ensure(SETTINGS)
        ensure(replace(SETTINGS, snat_ports=(20500, 22000)))
        assert setting("ip_local_reserved_ports") == "8080,20500-22000"
        setting("ip_local_reserved_ports", "8080,20100,20500-22000")
        teardown()
        assert setting("ip_local_reserved_ports") == "8080,20100"

    def test_reserved_by_others_meanwhile(self) -> None:
        ensure(SETTINGS)
        setting("ip_local_reserved_ports", "9090,20000-20999")
        ensure(SETTINGS)
        teardown()
        assert setting("ip_local_reserved_ports") == "9090"

    def test_lost_reservation_is_made_again(self) -> None:
        ensure(SETTINGS)
        setting("ip_local_reserved_ports", "\n")
        ensure(SETTINGS)
        assert setting("ip_local_reserved_ports") == "20000-20999"

    def test_too_fragmented(self) -> None:
        every_other = ",".join(map(str, range(20000, 21000, 2)))
        setting("ip_local_reserved_ports", every_other)
        with pytest.raises(NetError, match="choose another range"):
            ensure(SETTINGS)
        assert setting("ip_local_reserved_ports") == every_other

    @pytest.mark.parametrize("text", ["", "1", "1-3", "1,3", "1-3,5,7-8", "65534-65535"])
    def test_list_form(self, text: str) -> None:
        assert sysctl.format_ports(sysctl.parse_ports(text)) == text


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


@pytest.mark.usefixtures("bare_node")
class TestTeardown:
    def test_leaves_nothing(self) -> None:
        before = everything()
        local = ensure(SETTINGS)
        sync_routes([PODS, SERVICES], local)
        ip("route", "add", "blackhole", "10.7.0.0/16", "proto", "203")
        teardown()
        assert everything() == before
        assert setting("conf/eth0/rp_filter") == "1"

    def test_twice_and_before_the_first_start(self) -> None:
        before = everything()
        teardown()
        ensure(SETTINGS)
        teardown()
        teardown()
        assert everything() == before

    def test_keeps_what_others_made(self) -> None:
        ip("link", "add", "cni0", "type", "bridge")
        ip("link", "set", "cni0", "alias", "somebody's cubelet gateway")
        ip("route", "add", "10.88.0.0/16", "via", "192.168.7.9")
        before = everything()
        ensure(SETTINGS)
        teardown()
        assert everything() == before

    @pytest.mark.parametrize("redirects", ["0", "1"])
    def test_forwarding_is_as_it_was(self, redirects: str) -> None:
        setting("ip_forward", "0")
        setting("conf/all/accept_redirects", redirects)
        before = forwarding()
        ensure(SETTINGS)
        ensure(replace(SETTINGS, gateway="gw"))  # a second run sees it on, under another name
        assert setting("ip_forward") == "1"
        assert "sysctl net/ipv4/ip_forward = 0" in teardown()
        assert forwarding() == before

    def test_forwarding_of_the_uplink_alone(self) -> None:
        setting("ip_forward", "1")
        setting("conf/eth0/forwarding", "0")
        before = forwarding()
        ensure(SETTINGS)
        assert "sysctl net/ipv4/conf/eth0/forwarding = 0" in teardown()
        assert forwarding() == before

    def test_forwarding_that_was_on_stays_on(self) -> None:
        setting("ip_forward", "1")
        ensure(SETTINGS)
        assert not any(done.startswith("sysctl") for done in teardown())
        assert setting("ip_forward") == "1"

    def test_what_is_gone_is_not_put_back(self) -> None:
        setting("ip_forward", "1")
        setting("conf/eth0/forwarding", "0")
        ensure(SETTINGS)
        ip("link", "del", "eth0")
        assert not any(done.startswith("sysctl") for done in teardown())

    def test_says_what_it_removed(self) -> None:
        setting("ip_forward", "1")
        sync_routes([PODS], ensure(SETTINGS))
        route, ports, *removed = teardown()
        assert (route, ports) == ("route 10.244.0.0/16", "reserved ports 20000-20999")
        assert set(removed) == {f"device {name}" for name in OWN_DEVICES}
        assert teardown() == ()


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


def test_mac_is_local_and_unicast() -> None:
    for name in map(str, range(50)):
        assert int(mac_of(name, "router")[:2], 16) & 3 == 2
    assert mac_of("one", "router") == mac_of("one", "router")
    assert len({mac_of(n, r) for n in ("one", "two") for r in ("gateway", "router")}) == 4


def test_gateway_is_the_first_address() -> None:
    assert gateway_of(ip_network("10.244.3.0/24")) == ip_address("10.244.3.1")


def test_netlink_library_is_imported_late() -> None:
    modules = ", ".join(module.__name__ for module in (node, rtnl))
    check = f"import sys, {modules}; sys.exit('pyroute2' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
