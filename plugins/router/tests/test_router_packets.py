"""The router's packets: each case is a whole frame in, and where it left or what came back."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import IPv4Address, ip_address, ip_network
from typing import TYPE_CHECKING

import pytest
from msgspec.structs import replace
from pyroute2 import IPRoute
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from cubelet.testkit import Datapath, Result
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC, UPLINK_MAC
from cubelet_bridge.cube import Bridge
from cubelet_hooks.flows import Hop, PortClass
from cubelet_hooks.objects import Nic, Node
from cubelet_router.cube import Router

if TYPE_CHECKING:
    from cubelet.testkit.network import TestNetwork

MAC_A, MAC_B = "02:00:00:00:01:00", "02:00:00:00:01:01"
IP_A, IP_B, GATEWAY, NODE_IP = "10.1.0.2", "10.1.0.3", "10.1.0.1", "172.18.0.2"
NEXT_HOP, SILENT = "172.18.0.254", "172.18.0.253"
"""Routers, of the second of which the kernel does not know the MAC address."""
UNKNOWN_MAC = "00:00:00:00:00:00"
"""The kernel fills it in when it transmits."""
OTHER = Node(
    name="node2",
    addresses=(ip_address("172.18.0.3"),),
    pod_cidrs=(ip_network("10.1.1.0/24"),),
)

NUD_PERMANENT = 0x80

Compose = Callable[..., Datapath]


@pytest.fixture(scope="module")
def kernel_routes(cubelet_network: TestNetwork) -> Iterator[None]:
    """What a node's own routing table may say besides the default route."""
    local = cubelet_network.local
    with IPRoute() as ip:
        ip.link("add", ifname="docker0", kind="veth", peer={"ifname": "docker0p"})
        docker = ip.link_lookup(ifname="docker0")[0]
        ip.addr("add", index=docker, address="172.17.0.1", prefixlen=24)
        for name in ("docker0", "docker0p"):
            ip.link("set", index=ip.link_lookup(ifname=name)[0], state="up")
        for kind, network in (
            ("unreachable", "198.51.100.0/28"),
            ("prohibit", "198.51.100.16/28"),
            ("blackhole", "198.51.100.32/28"),
        ):
            ip.route("add", dst=network, type=kind)
        # the lock is a mask of metrics, here RTAX_MTU: only then the kernel forwards by it
        narrow = {"mtu": 1300, "lock": 1 << 2}
        ip.route("add", dst="203.0.113.0/28", gateway=NEXT_HOP, metrics=narrow)
        ip.route("add", dst="203.0.113.16/28", gateway=SILENT, metrics=narrow)
        ip.route("add", dst="10.1.0.0/16", oif=local.gateway_ifindex, scope="link")
        ip.neigh(
            "add",
            dst=NEXT_HOP,
            lladdr="02:00:00:00:00:fe",
            ifindex=local.uplink_ifindex,
            state=NUD_PERMANENT,
        )
        yield
        ip.link("del", index=docker)


@pytest.fixture(params=["fused", "tailcall"])
def router(datapath: Compose, kernel_routes: None, request: pytest.FixtureRequest) -> Datapath:
    return datapath(core=[Bridge, Router], mode=request.param, objects=[OTHER])


def udp(dst: str, src: str = IP_A, ttl: int = 9, src_mac: str = MAC_A) -> Packet:
    ip = IP(src=src, dst=dst, ttl=ttl, id=7)
    return Ether(dst=ROUTER_MAC, src=src_mac) / ip / UDP(sport=1000, dport=30053) / b"q"


def routed(packet: Packet, dst_mac: str, src_mac: str = ROUTER_MAC) -> Packet:
    """The frame after one hop."""
    after = Ether(dst=dst_mac, src=src_mac) / packet[IP].copy()
    after[IP].ttl -= 1
    del after[IP].chksum
    return Ether(bytes(after))


def outcome(result: Result) -> tuple[str, str]:
    return result.verdict, result.reason


def remote(address: str) -> int:
    return int(IPv4Address(address))


def hop(network: TestNetwork, leaves: PortClass, address: str = "0.0.0.0", mtu: int = 1500) -> Hop:
    local = network.local
    ifindex, dst, src = {
        PortClass.POD: (network.ports["default/b"].ifindex, MAC_B, ROUTER_MAC),
        PortClass.HOST: (local.gateway_ifindex, GATEWAY_MAC, ROUTER_MAC),
        PortClass.OVERLAY: (local.overlay_ifindex, ROUTER_MAC, ROUTER_MAC),
        PortClass.UPLINK: (local.uplink_ifindex, UNKNOWN_MAC, UPLINK_MAC),
    }[leaves]
    return Hop(ifindex, remote(address), dst, src, mtu, leaves)


@pytest.mark.parametrize(
    ("dst", "leaves", "address", "mtu"),
    [
        pytest.param(IP_B, PortClass.POD, "0.0.0.0", 1500, id="pod of this node"),
        pytest.param("10.1.1.9", PortClass.OVERLAY, "172.18.0.3", 1450, id="pod of another node"),
        pytest.param(NODE_IP, PortClass.HOST, "0.0.0.0", 1500, id="this node"),
        pytest.param(GATEWAY, PortClass.HOST, "0.0.0.0", 1500, id="gateway"),
        pytest.param("172.18.0.3", PortClass.UPLINK, "172.18.0.3", 1500, id="another node"),
        pytest.param("192.0.2.1", PortClass.UPLINK, NEXT_HOP, 1500, id="outside"),
        pytest.param("203.0.113.1", PortClass.UPLINK, NEXT_HOP, 1300, id="smaller MTU"),
        pytest.param("203.0.113.17", PortClass.UPLINK, SILENT, 1300, id="by an unknown neighbour"),
        pytest.param("172.17.0.9", PortClass.HOST, "0.0.0.0", 1500, id="other local network"),
        pytest.param("172.17.0.1", PortClass.HOST, "0.0.0.0", 1500, id="node's address there"),
    ],
)
def test_where_a_pods_packet_leaves(
    router: Datapath,
    cubelet_network: TestNetwork,
    dst: str,
    leaves: PortClass,
    address: str,
    mtu: int,
) -> None:
    wanted = hop(cubelet_network, leaves, address, mtu)
    for _ in range(2):  # judged, then by the flow's record
        result = router.send(udp(dst))
        assert outcome(result) == ("redirect", "core/none")
        assert result.hop == wanted
        assert result.packet == routed(udp(dst), wanted.dst_mac, wanted.src_mac)


@pytest.mark.parametrize(
    ("dst", "reason", "code"),
    [
        ("10.96.0.10", "router/unreachable", 1),
        ("10.1.0.77", "bridge/unknown_neighbor", 1),
        ("10.1.9.9", "router/no_route", 0),
        ("198.51.100.1", "router/host_unreachable", 1),
        ("198.51.100.17", "router/prohibited", 13),
    ],
    ids=["Service that is none", "no such pod", "no such node", "unreachable", "prohibit"],
)
def test_the_sender_is_told(router: Datapath, dst: str, reason: str, code: int) -> None:
    result = router.send(udp(dst))
    assert outcome(result) == ("redirect", reason)
    assert result.answered
    told = (
        Ether(dst=MAC_A, src=ROUTER_MAC)
        / IP(src=GATEWAY, dst=IP_A, id=0, flags="DF")
        / ICMP(type="dest-unreach", code=code)
        / bytes(udp(dst)[IP])
    )
    assert result.packet == Ether(bytes(told))
    assert not router.flows()


@pytest.mark.parametrize(
    ("dst", "reason"),
    [
        ("224.0.0.5", "router/martian"),
        ("240.0.0.1", "router/martian"),
        ("255.255.255.255", "router/martian"),
        ("127.0.0.1", "router/martian"),
        ("0.0.0.0", "router/martian"),
        ("10.1.0.0", "router/martian"),
        ("10.1.0.255", "router/martian"),
        ("198.51.100.33", "router/blackhole"),
    ],
)
def test_what_is_dropped_in_silence(router: Datapath, dst: str, reason: str) -> None:
    assert outcome(router.send(udp(dst))) == ("drop", reason)
    assert not router.flows()


def test_a_packet_expires_on_its_way(router: Datapath) -> None:
    result = router.send(udp(IP_B, ttl=1))
    assert (result.reason, result.answered) == ("core/ttl", True)
    assert result.packet[ICMP].type == 11
    assert result.packet[IP].src == GATEWAY


def echo(dst: str, payload: bytes = b"ping", **ip: object) -> Packet:
    request = ICMP(type="echo-request", id=77, seq=3)
    return Ether(dst=ROUTER_MAC, src=MAC_A) / IP(src=IP_A, dst=dst, id=7, **ip) / request / payload


def echoed(request: Packet) -> Packet:
    """The answer, made from scratch."""
    ip = request[IP].copy()
    ip.src, ip.dst, ip.ttl = ip.dst, ip.src, 64
    ip[ICMP].type = "echo-reply"
    for layer in (ip, ip[ICMP]):
        del layer.chksum
    return Ether(bytes(Ether(dst=request.src, src=request.dst) / ip))


@pytest.mark.parametrize(
    "request_",
    [
        echo(GATEWAY),
        echo(GATEWAY, payload=b""),
        echo(GATEWAY, payload=os.urandom(1400)),
        echo(GATEWAY, ttl=1),
        echo(GATEWAY, options=[IPOption(b"\x94\x04\x00\x00")]),
    ],
    ids=["plain", "empty", "large", "of TTL 1", "with options"],
)
def test_the_gateway_answers_pings(router: Datapath, request_: Packet) -> None:
    result = router.send(request_)
    assert outcome(result) == ("redirect", "core/none")
    assert result.answered
    assert result.packet == echoed(Ether(bytes(request_)))
    assert not router.flows()


def test_the_gateway_answers_pings_from_the_overlay(router: Datapath) -> None:
    request = echo(GATEWAY)
    request[IP].src, request.src = "10.1.1.9", "02:00:00:00:00:09"
    result = router.send(request, enters="overlay")
    assert result.hop is not None
    assert result.hop.port_class == PortClass.OVERLAY
    assert result.packet == echoed(Ether(bytes(request)))


@pytest.mark.parametrize(
    "packet",
    [
        pytest.param(
            fragment(echo(GATEWAY, payload=bytes(1500)), 1000)[0], id="fragment: the host assembles"
        ),
        pytest.param(
            Ether(dst=ROUTER_MAC, src=MAC_A) / IP(src=IP_A, dst=GATEWAY) / ICMP(type=13),
            id="timestamp request",
        ),
        pytest.param(echo(NODE_IP), id="the node's address"),
        pytest.param(
            Ether(dst=ROUTER_MAC, src=MAC_A) / IP(src=IP_A, dst=GATEWAY) / TCP(dport=10250),
            id="TCP",
        ),
    ],
)
def test_what_the_host_answers_itself(router: Datapath, packet: Packet) -> None:
    result = router.send(packet)
    assert result.leaves == "host"
    assert not result.answered


def test_pods_are_reached_from_all_other_ports(
    router: Datapath, cubelet_network: TestNetwork
) -> None:
    for number, (enters, src) in enumerate(
        (("host", GATEWAY), ("overlay", "10.1.1.9"), ("uplink", "192.0.2.9"))
    ):
        packet = udp(IP_B, src=src, src_mac="02:00:00:00:00:99")
        packet[UDP].sport += number
        result = router.send(packet, enters=enters)
        assert outcome(result) == ("redirect", "core/none")
        assert result.hop == hop(cubelet_network, PortClass.POD)


@pytest.mark.parametrize("dst", [NODE_IP, GATEWAY, "10.1.0.255"])
def test_the_nodes_own_traffic_is_left_alone(router: Datapath, dst: str) -> None:
    packet = udp(dst, src="192.0.2.9", src_mac="02:00:00:00:00:99")
    result = router.send(packet, enters="uplink")
    assert outcome(result) == ("pass", "core/none")
    assert result.packet == Ether(bytes(packet))
    assert not router.flows()


def test_tunnels_do_not_lead_to_tunnels(router: Datapath) -> None:
    result = router.send(udp("10.1.1.7", src="10.1.2.9"), enters="overlay")
    assert outcome(result) == ("drop", "router/overlay_loop")


@pytest.mark.parametrize("dst", ["172.17.0.9", "10.1.9.9"])
def test_the_host_does_not_get_its_own_packets_back(router: Datapath, dst: str) -> None:
    result = router.send(udp(dst, src=GATEWAY, src_mac=GATEWAY_MAC), enters="host")
    assert (result.reason, result.answered) == ("router/no_route", True)


def test_a_flow_moves_with_its_route(router: Datapath, cubelet_network: TestNetwork) -> None:
    assert router.send(udp("10.1.1.9")).leaves == "overlay"
    moved = Node("node2", addresses=(ip_address("172.18.0.4"),), pod_cidrs=OTHER.pod_cidrs)
    router.apply(moved)
    assert router.send(udp("10.1.1.9")).hop == hop(
        cubelet_network, PortClass.OVERLAY, "172.18.0.4", 1450
    )
    router.delete(moved)
    for _ in range(2):
        assert router.send(udp("10.1.1.9")).reason == "router/no_route"


def test_a_second_nic(router: Datapath, cubelet_network: TestNetwork) -> None:
    """What the kernel sends by it is the stack's until it is an uplink, and leaves by it then."""
    local = cubelet_network.local
    with IPRoute() as ip:
        docker = ip.link_lookup(ifname="docker0")[0]
    packet = udp("172.17.0.9")
    assert router.send(packet).leaves == "host"
    nic = Nic(docker, "02:00:00:00:00:aa", ip_address("172.17.0.1"))
    try:
        router.apply(replace(local, further_uplinks=(nic,)))
        result = router.send(packet)
        assert result.hop == Hop(
            docker, remote("172.17.0.9"), UNKNOWN_MAC, nic.mac, 1500, PortClass.UPLINK
        )
        assert router.send(udp("192.0.2.1")).hop == hop(
            cubelet_network, PortClass.UPLINK, NEXT_HOP, 1500
        )
    finally:
        router.apply(local)
    assert router.send(packet).leaves == "host"
