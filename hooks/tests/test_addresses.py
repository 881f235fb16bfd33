"""Whose an address is, and which Services learn of it when that changes."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from cubelet.testkit import local_node, view
from cubelet_hooks.addresses import Standing, affected, holding, reserved, unusable
from cubelet_hooks.objects import (
    Change,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Node,
    Service,
    ServicePort,
)

REFUSED, SHARED, FREE = Standing.REFUSED, Standing.SHARED, Standing.FREE
LOCAL = local_node(
    held=(ip_address("172.18.0.2"), ip_address("198.51.100.8"), ip_address("172.18.0.200")),
    onlink=(ip_network("172.18.0.0/16"),),
    next_hops=(ip_address("172.18.0.1"),),
    api_servers=((ip_address("192.0.2.6"), 6443), (ip_address("172.18.0.3"), 16443)),
    service_cidrs=(ip_network("10.96.0.0/12"),),
)
NODES = (
    Node(
        "node1",
        addresses=LOCAL.addresses,
        pod_cidrs=(LOCAL.pod_cidr,),
        kubelet_port=10250,
    ),
    Node(
        "node2",
        addresses=(ip_address("172.18.0.3"), ip_address("203.0.113.3")),
        pod_cidrs=(ip_network("10.2.0.0/24"),),
    ),
)
DNS = Service("kube-system", "dns", cluster_ips=(ip_address("10.200.0.10"),))
API = EndpointSlice(
    "default",
    "kubernetes",
    service="kubernetes",
    endpoints=(Endpoint((ip_address("192.0.2.7"),)), Endpoint((ip_address("172.18.0.2"),))),
    ports=(EndpointPort("https", "TCP", 6443),),
)
FORGED = EndpointSlice(
    "default",
    "forged",
    service="kubernetes",
    endpoints=(Endpoint((ip_address("203.0.113.200"),)),),
    ports=(EndpointPort("https", "TCP", 80),),
)
EVERYTHING = (LOCAL, *NODES, DNS, API, FORGED)


@pytest.mark.parametrize(
    ("address", "standing", "holder"),
    [
        ("127.0.0.1", REFUSED, "a loopback address"),
        ("0.1.2.3", REFUSED, "an unspecified address"),
        ("169.254.1.1", REFUSED, "a link-local address"),
        ("224.0.0.251", REFUSED, "a multicast address"),
        ("255.255.255.255", REFUSED, "a reserved or broadcast address"),
        ("::1", REFUSED, "a loopback address"),
        ("fe80::7", REFUSED, "a link-local address"),
        ("10.1.0.1", REFUSED, "in the podCIDR of node node1"),
        ("10.2.0.9", REFUSED, "in the podCIDR of node node2"),
        ("10.200.0.10", REFUSED, "the ClusterIP of Service kube-system/dns"),
        ("10.96.3.4", REFUSED, "in the cluster's Service range 10.96.0.0/12"),
        ("192.0.2.6", REFUSED, "the API server's"),
        ("192.0.2.7", REFUSED, "the API server's"),
        ("172.18.0.1", REFUSED, "a router's, which this node's routes lead to"),
        ("172.18.0.2", SHARED, "node node1's"),
        ("172.18.0.3", SHARED, "node node2's"),
        ("203.0.113.3", SHARED, "node node2's"),
        ("198.51.100.8", SHARED, "this node's"),
        ("172.18.0.200", SHARED, "this node's"),
        ("172.18.0.77", SHARED, "in the network 172.18.0.0/16 that nodes are connected to"),
        ("203.0.113.200", FREE, ""),
        ("2001:db8::7", FREE, ""),
    ],
)
def test_who_has_an_address(address: str, standing: Standing, holder: str) -> None:
    found = holding(ip_address(address), view(*EVERYTHING))
    assert (found.standing, found.holder) == (standing, holder)


def test_what_is_here_and_what_is_a_nodes() -> None:
    state = view(*EVERYTHING)
    places = {
        text: (holding(ip_address(text), state).here, holding(ip_address(text), state).node)
        for text in ("172.18.0.2", "172.18.0.3", "172.18.0.200", "172.18.0.77")
    }
    assert places == {
        "172.18.0.2": (True, True),
        "172.18.0.3": (False, True),
        "172.18.0.200": (True, False),
        "172.18.0.77": (False, False),
    }


def test_before_anything_is_known_only_what_nobody_can_have_is_refused() -> None:
    assert holding(ip_address("172.18.0.2"), view()).standing is FREE
    assert holding(ip_address("127.0.0.2"), view()).standing is REFUSED


@pytest.mark.parametrize(
    ("address", "protocol", "port", "use"),
    [
        ("172.18.0.2", "TCP", 6443, "the API server"),
        ("172.18.0.2", "UDP", 6443, ""),
        ("172.18.0.3", "TCP", 16443, "the API server"),
        ("172.18.0.2", "TCP", 10250, "the node's kubelet"),
        ("172.18.0.3", "TCP", 10250, ""),
        ("172.18.0.3", "UDP", 4789, "the overlay between nodes"),
        ("172.18.0.77", "UDP", 4789, ""),
        ("172.18.0.2", "TCP", 80, ""),
    ],
)
def test_ports_that_the_cluster_cannot_do_without(
    address: str, protocol: Any, port: int, use: str
) -> None:
    assert reserved(ip_address(address), protocol, port, view(*EVERYTHING)) == use


def test_of_all_addresses_of_first_octets_few_are_unusable() -> None:
    odd = {n for n in range(256) if unusable(ip_address(f"{n}.254.1.1"))}
    assert odd == {0, 127, 169, *range(224, 256)}
    assert not unusable(ip_address("169.253.1.1"))


def exposed(name: str, *addresses: str) -> Service:
    ports = (ServicePort("http", "TCP", 80, 8080),)
    wanted = tuple(map(ip_address, addresses))
    return Service("default", name, external_ips=wanted, ports=ports)


FAR, NODE, POD, CLUSTER, ENDPOINT = (
    exposed(name, address)
    for name, address in {
        "far": "203.0.113.200",
        "node": "172.18.0.3",
        "pod": "10.2.0.9",
        "cluster": "10.200.0.10",
        "endpoint": "192.0.2.7",
    }.items()
)
ALL = {each.name for each in (FAR, NODE, POD, CLUSTER, ENDPOINT)}


@pytest.mark.parametrize(
    ("old", "new", "names"),
    [
        (None, NODES[1], {"node", "pod"}),
        (NODES[1], None, {"node", "pod"}),
        (NODES[1], Node("node2", {"a": "b"}, {}, NODES[1].addresses, NODES[1].pod_cidrs), set()),
        (Node("node2"), NODES[1], {"node", "pod"}),
        (None, DNS, {"cluster"}),
        (DNS, None, {"cluster"}),
        (DNS, Service("kube-system", "dns", {"a": "b"}, cluster_ips=DNS.cluster_ips), set()),
        (None, API, {"endpoint"}),
        (API, None, {"endpoint"}),
        (None, FORGED, set()),
        (None, LOCAL, ALL),
        (None, FAR, set()),
    ],
)
def test_who_is_affected(old: Any, new: Any, names: set[str]) -> None:
    state = view(FAR, NODE, POD, CLUSTER, ENDPOINT, *(() if new is None else (new,)))
    assert {each.name for each in affected(Change.between(old, new), state)} == names
