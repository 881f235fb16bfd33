"""Services, masquerade and hairpins over IPv6, by bridge, router, lbrp and nat together."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, ip_address

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, IPv6
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from cubelet.testkit import Datapath, Result
from cubelet.testkit.families import twin, twin_network
from cubelet.testkit.samples import ROUTER_MAC, pod_mac
from cubelet_bridge.cube import Bridge
from cubelet_hooks.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Node,
    Service,
    ServicePort,
)
from cubelet_lbrp.cube import Lbrp
from cubelet_nat.cube import Nat
from cubelet_router.cube import Router

POD, OTHER, NODE, GATEWAY, OUTSIDE, FAR, VIP, HIDDEN = (
    str(twin(IPv4Address(each)))
    for each in (
        *("10.1.0.2", "10.1.0.3", "172.18.0.2", "10.1.0.1", "192.0.2.9", "10.1.1.7"),
        *("10.96.0.1", "203.0.113.9"),
    )
)
HAIRPIN = "fd6c:e3a1:5b70::2"
OUTLET_MAC = "02:00:00:00:aa:aa"
FIRST, LAST = 12000, 29999
NODE2 = Node(
    "node2",
    addresses=(ip_address("172.18.0.3"),),
    pod_cidrs=(twin_network(IPv4Network("10.1.1.0/24")),),
)
SERVICE = (
    Service(
        "default",
        "web",
        cluster_ips=(IPv6Address(VIP),),
        ports=(ServicePort("http", "TCP", 80, 8080, node_port=30080),),
        type="NodePort",
    ),
    EndpointSlice(
        "default",
        "web-1",
        service="web",
        address_type="IPv6",
        endpoints=(Endpoint((IPv6Address(POD),), node_name="node1"),),
        ports=(EndpointPort("http", "TCP", 8080),),
    ),
)


@pytest.fixture
def node(datapath: Callable[..., Datapath]) -> Datapath:
    return datapath(
        stacks={
            "pod": [Lbrp, Nat],
            "host": [Lbrp, Nat],
            "overlay": [Nat],
            "uplink": [Nat, Lbrp],
        },
        core=(Bridge, Router),
        settings={
            "router": {"unreachable": []},
            "nat": {"exempt": [str(twin_network(IPv4Network("203.0.113.0/24")))]},
        },
        objects=[NODE2, *SERVICE],
        family=6,
    )


def send(node: Datapath, src: str, dst: str, said: Packet, enters: str = "pod") -> Result:
    mac = pod_mac(0) if enters == "pod" else OUTLET_MAC
    frame = Ether(src=mac, dst=ROUTER_MAC) / IPv6(src=src, dst=dst, fl=0x12345) / said
    result = node.send(frame, enters=enters)
    assert (result.verdict, result.reason) == ("redirect", "core/none")
    return result


def told(result: Result, src: str, dst: str, said: Packet) -> None:
    """The whole packet, a hop further."""
    wanted = IPv6(src=src, dst=dst, hlim=63, fl=0x12345) / said
    seen = result.packet[IPv6]
    assert bytes(seen) == bytes(wanted), f"\nseen   {seen!r}\nwanted {wanted!r}"


def test_to_the_outside_under_the_nodes_address_and_back(node: Datapath) -> None:
    for make in (
        lambda s, d: TCP(sport=s, dport=d, flags="S" if d == 443 else "SA", seq=5, ack=0),
        lambda s, d: UDP(sport=s, dport=d) / b"odd",
    ):
        result = send(node, POD, OUTSIDE, make(1000, 443))
        assert result.leaves == "uplink"
        chosen = result.packet[IPv6].payload.sport
        assert FIRST <= chosen <= LAST
        told(result, NODE, OUTSIDE, make(chosen, 443))
        back = send(node, OUTSIDE, NODE, make(443, chosen), "uplink")
        assert back.leaves == "pod"
        told(back, OUTSIDE, POD, make(443, 1000))


def test_a_ping_has_an_identifier_of_its_own(node: Datapath) -> None:
    result = send(node, POD, OUTSIDE, ICMPv6EchoRequest(id=7, data=b"odd"))
    chosen = result.packet[ICMPv6EchoRequest].id
    assert FIRST <= chosen <= LAST
    told(result, NODE, OUTSIDE, ICMPv6EchoRequest(id=chosen, data=b"odd"))
    reply = IPv6(src=OUTSIDE, dst=NODE) / ICMPv6EchoReply(id=chosen, data=b"odd")
    both = node.send(Ether(src=OUTLET_MAC, dst=ROUTER_MAC) / reply, enters="uplink")
    assert both.verdict == "pass", "the node may have asked as well"
    assert both.leaves == "pod"


@pytest.mark.parametrize(("dst", "leaves"), [(FAR, "overlay"), (OTHER, "pod"), (HIDDEN, "uplink")])
def test_pods_and_exempt_networks_see_the_pods_own_address(
    node: Datapath, dst: str, leaves: str
) -> None:
    result = send(node, POD, dst, UDP(sport=1, dport=2) / b"q")
    assert result.leaves == leaves
    told(result, POD, dst, UDP(sport=1, dport=2) / b"q")


def test_a_pod_that_reaches_itself_sees_the_hairpin_address(node: Datapath) -> None:
    syn = TCP(sport=1000, dport=80, flags="S", seq=5)
    result = send(node, POD, VIP, syn)
    syn.dport = 8080
    told(result, HAIRPIN, POD, syn)
    back = send(node, POD, HAIRPIN, TCP(sport=8080, dport=1000, flags="SA", seq=8, ack=6))
    told(back, VIP, POD, TCP(sport=80, dport=1000, flags="SA", seq=8, ack=6))


def test_a_node_port_and_its_answer(node: Datapath) -> None:
    syn = TCP(sport=1000, dport=30080, flags="S", seq=5)
    result = send(node, OUTSIDE, NODE, syn, "uplink")
    assert result.leaves == "pod"
    assert result.packet[TCP].dport == 8080
    seen, port = result.packet[IPv6].src, result.packet[TCP].sport
    back = send(node, POD, seen, TCP(sport=8080, dport=port, flags="SA", seq=8, ack=6))
    assert back.leaves == "uplink"
    told(back, NODE, OUTSIDE, TCP(sport=30080, dport=1000, flags="SA", seq=8, ack=6))
