"""The node's devices and settings, on the real kernel in a namespace of the test's own."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec
import pytest

from cubelet.net import NetError, node, rtnl, sysctl
from cubelet.net.node import ensure, gateway_of, mac_of, remember, teardown
from cubelet.net.routes import sync_routes

from .shown import (
    OWN_DEVICES,
    PODS,
    SERVICES,
    SETTINGS,
    UPLINK_ADDRESS,
    add_nic,
    addresses,
    devices,
    everything,
    ip,
    ip_json,
    link,
    routes,
    setting,
)


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
        assert local.broadcasts == (ip_address("192.168.7.255"),)
        assert local.vxlan_port == 4789
        assert local.gateway == ip_address("10.244.1.1")

    def test_the_kernels_own_network_is_described_without_ours(self) -> None:
        ip("addr", "add", "198.51.100.7/32", "dev", "eth0")
        ip("addr", "add", "198.51.100.8/32", "dev", "lo")
        add_nic("eth1", "10.9.0.5/24")
        ip("route", "add", "10.50.0.0/16", "via", "10.9.0.1")
        ip("route", "add", "10.60.0.0/16", "dev", "eth1", "table", "77")
        ip("route", "add", "10.70.0.1", "via", "192.168.7.9", "table", "77")
        hops = (("10.9.0.2", "eth1"), ("192.168.7.8", "eth0"))
        each = (word for via, dev in hops for word in ("nexthop", "via", via, "dev", dev))
        ip("route", "add", "10.80.0.0/16", *each)
        ip("route", "add", "default", "dev", "eth1", "metric", "900")
        ip("route", "add", "blackhole", "10.90.0.0/16")
        local = ensure(SETTINGS)
        sync_routes([PODS, SERVICES], local)
        assert ensure(SETTINGS) == local
        held = ("10.9.0.5", UPLINK_ADDRESS, "198.51.100.7", "198.51.100.8")
        assert local.held == tuple(map(ip_address, held))
        onlink = ("10.9.0.0/24", "10.60.0.0/16", "192.168.7.0/24")
        assert local.onlink == tuple(map(ip_network, onlink))
        hops_found = ("10.9.0.1", "10.9.0.2", "192.168.7.1", "192.168.7.8", "192.168.7.9")
        assert local.next_hops == tuple(map(ip_address, hops_found))

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
        assert (local.uplink_ifindex, local.uplink_mtu) == (link("eth1")["ifindex"], 9000)
        assert local.overlay_mtu == 1450  # tunnels come to the node's address

    def test_other_nics_that_are_up_and_on_a_network_are_uplinks_too(self) -> None:
        add_nic("eth0", f"{UPLINK_ADDRESS}/24")
        ip("route", "add", "default", "via", "192.168.7.1")
        add_nic("eth1", "192.168.8.2/24", "192.168.8.3/24")
        add_nic("eth2")  # no address
        add_nic("pod1", "10.9.0.1/32")  # another network's pod: no network
        add_nic("eth3", "192.168.9.2/24")
        ip("link", "set", "eth3", "down")
        ip("link", "add", "docker0", "type", "bridge")
        ip("addr", "add", "172.17.0.1/16", "dev", "docker0")
        ip("link", "set", "docker0", "up")
        local = ensure(SETTINGS)
        (nic,) = local.further_uplinks
        assert (nic.ifindex, nic.address) == (link("eth1")["ifindex"], ip_address("192.168.8.2"))
        shown = [str(each) for each in local.addresses]
        assert shown == [UPLINK_ADDRESS, "192.168.8.2", "192.168.8.3"]
        assert ip_address("192.168.8.255") in local.broadcasts
        assert setting("conf/eth1/forwarding") == "1"

    def test_packets_leave_the_main_nic_under_its_own_address(self) -> None:
        add_nic("eth0", "192.168.9.2/24")
        ip("route", "add", "default", "via", "192.168.9.1")
        add_nic("eth1", f"{UPLINK_ADDRESS}/24")
        local = ensure(SETTINGS)
        assert local.addresses[0] == ip_address(UPLINK_ADDRESS)
        shown = [(each.ifindex, str(each.address)) for each in local.uplinks]
        assert shown == [
            (link("eth0")["ifindex"], "192.168.9.2"),
            (link("eth1")["ifindex"], UPLINK_ADDRESS),
        ]

    def test_tunnels_come_from_the_address_that_the_node_is_known_by(self) -> None:
        add_nic("eth0", "192.168.7.9/24", f"{UPLINK_ADDRESS}/24")
        ip("route", "add", "default", "via", "192.168.7.1")
        local = ensure(SETTINGS)
        assert local.addresses[0] == local.tunnel_source == ip_address(UPLINK_ADDRESS)
        ip("addr", "del", f"{UPLINK_ADDRESS}/24", "dev", "eth0")
        assert ensure(SETTINGS).tunnel_source is None

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


@pytest.mark.usefixtures("bare_node")
class TestRemovedByOthers:
    def test_devices_come_back_with_their_ifindexes(self) -> None:
        local = ensure(SETTINGS)
        before = remember(SETTINGS, local)
        ip("link", "del", "cubelet0")
        ip("link", "del", "cubelet-vxlan")
        assert ensure(SETTINGS, before) == local

    def test_or_with_others_if_theirs_are_taken(self) -> None:
        local = ensure(SETTINGS)
        before = remember(SETTINGS, local)
        ip("link", "del", "cubelet0")
        taken = str(local.gateway_ifindex)
        ip("link", "add", "other", "index", taken, "type", "veth", "peer", "other-far")
        assert ensure(SETTINGS, before).gateway_ifindex != local.gateway_ifindex
        assert devices() >= OWN_DEVICES

    def test_what_was_noted_on_them_is_not_forgotten(self) -> None:
        setting("ip_forward", "0")
        setting("ip_local_reserved_ports", "8080")
        before = remember(SETTINGS, ensure(SETTINGS))
        ip("link", "del", "cubelet0")
        ensure(SETTINGS, before)
        assert setting("ip_local_reserved_ports") == "8080,20000-20999"
        teardown()
        assert (setting("ip_forward"), setting("ip_local_reserved_ports")) == ("0", "8080")
