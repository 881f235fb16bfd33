"""Services, packets to them and what becomes of those, with a core that sends all out."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.testkit import Result
from cubelet.testkit.samples import ROUTER_MAC, pod_mac
from cubelet_hooks.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Service,
    ServicePort,
)

POD, OUTSIDER, NODE = "10.1.0.2", "198.51.100.20", "172.18.0.2"
OUTLET_MAC = "02:00:00:00:ff:01"
CLIENT_MAC = {"pod": pod_mac(0), "host": "02:00:00:00:00:02", "uplink": "02:00:00:00:aa:aa"}
PORTS = (
    ServicePort("http", "TCP", 80, 8080),
    ServicePort("dns", "UDP", 53, 5353),
)
SLICE_PORTS = (EndpointPort("http", "TCP", 8080), EndpointPort("dns", "UDP", 5353))
NODE_PORTS = (
    ServicePort("http", "TCP", 80, 8080, node_port=30080),
    ServicePort("dns", "UDP", 53, 5353, node_port=30053),
)


def service(name: str, vip: str, **fields: Any) -> Service:
    fields = {"ports": PORTS, "cluster_ips": (ip_address(vip),), **fields}
    return Service("default", name, **fields)


def ready(address: str, node: str = "node2") -> Endpoint:
    return Endpoint((ip_address(address),), node_name=node)


def draining(address: str) -> Endpoint:
    return Endpoint((ip_address(address),), ready=False, terminating=True, node_name="node2")


def slice_of(name: str, *endpoints: Endpoint) -> EndpointSlice:
    return EndpointSlice(
        "default", f"{name}-1", service=name, endpoints=endpoints, ports=SLICE_PORTS
    )


def frame(transport: Packet, dst: str, src: str = POD, enters: str = "pod") -> Packet:
    return Ether(src=CLIENT_MAC[enters], dst=ROUTER_MAC) / IP(src=src, dst=dst) / transport


def syn(sport: int, dport: int) -> Packet:
    return TCP(sport=sport, dport=dport, flags="S", seq=7)


def data(sport: int, dport: int) -> Packet:
    return TCP(sport=sport, dport=dport, flags="PA", seq=8, ack=9) / Raw(b"data")


def datagram(sport: int, dport: int) -> Packet:
    return UDP(sport=sport, dport=dport) / Raw(b"data")


def assert_sent(result: Result, wanted: Packet) -> None:
    """The whole frame: out by the outlet, a hop further, every checksum right."""
    wanted = Ether(src=ROUTER_MAC, dst=OUTLET_MAC) / wanted[IP]
    wanted[IP].ttl -= 1
    assert (result.verdict, result.reason) == ("redirect", "core/none")
    assert bytes(result.packet) == bytes(wanted), (
        f"seen {result.packet!r}, wanted {Ether(bytes(wanted))!r}"
    )


def assert_refused(result: Result, reason: str) -> None:
    assert (result.verdict, result.reason, result.answered) == ("redirect", reason, True)


def backend(result: Result) -> tuple[str, int]:
    assert (result.verdict, result.reason, result.answered) == ("redirect", "core/none", False)
    return result.packet[IP].dst, result.packet[IP].payload.dport
