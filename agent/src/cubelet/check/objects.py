"""The objects of a small cluster, odd ones too, and a history of their changes, for planning."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import msgspec

from cubelet.check.odd import odd_objects
from cubelet.testkit import local_node
from cubelet_hooks.objects import (
    Change,
    ContainerPort,
    Custom,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    HostPort,
    LabelSelector,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Port,
    Service,
    ServicePort,
)
from cubelet_hooks.resources import Resource

LOCAL = local_node()


def node(number: int, zone: str = "") -> Node:
    """A node; the first one is this node."""
    return Node(
        f"node{number}",
        labels={"topology.kubernetes.io/zone": zone} if zone else {},
        addresses=(ip_address(f"172.18.0.{number + 1}"),),
        pod_cidrs=(ip_network(f"10.1.{number - 1}.0/24"),),
    )


def pod(name: str, where: int, number: int, **fields: object) -> Pod:
    """A running pod with the node's n-th address."""
    made = Pod(
        "default",
        name,
        uid=f"uid-{name}",
        labels={"app": name},
        node_name=f"node{where}",
        ips=(ip_address(f"10.1.{where - 1}.{number}"),),
        phase="Running",
        ready=True,
        ports=(ContainerPort(8080, "TCP", "http"), ContainerPort(53, "UDP", "dns", 5353)),
    )
    return msgspec.structs.replace(made, **fields)


def port(name: str, number: int, **fields: object) -> Port:
    """The attachment of a pod on this node."""
    made = Port(
        namespace="default",
        name=name,
        container_id=f"c-{name}",
        ifname="eth0",
        netns=f"/run/netns/{name}",
        host_ifname=f"veth{number}",
        ifindex=10 + number,
        mac=f"02:00:00:00:01:{number:02x}",
        host_mac=f"02:00:00:00:02:{number:02x}",
        addresses=(ip_address(f"10.1.0.{number}"),),
        mtu=1450,
        uid=f"uid-{name}",
    )
    return msgspec.structs.replace(made, **fields)


SERVICE = Service(
    "default",
    "web",
    type="NodePort",
    cluster_ips=(ip_address("10.96.0.10"),),
    ports=(ServicePort("http", "TCP", 80, "http", 30080), ServicePort("dns", "UDP", 53, 53)),
    selector={"app": "web"},
)
EXPOSED = Service(
    "default",
    "exposed",
    type="LoadBalancer",
    cluster_ips=(ip_address("10.96.0.12"),),
    # nobody's, a node's, a pod's, a ClusterIP, and one that comes onto the node's network
    external_ips=tuple(
        map(ip_address, ("203.0.113.9", "172.18.0.3", "10.1.1.2", "10.96.0.10", "198.51.100.9"))
    ),
    load_balancer_ips=(ip_address("203.0.113.10"),),
    ports=(ServicePort("http", "TCP", 80, 8080),),
    created=1714564800,
)
SLICE = EndpointSlice(
    "default",
    "web-1",
    service="web",
    endpoints=(
        Endpoint((ip_address("10.1.0.2"),), node_name="node1", target="default/web"),
        Endpoint((ip_address("10.1.1.2"),), node_name="node2", target="default/far", zone="b"),
    ),
    ports=(EndpointPort("http", "TCP", 8080), EndpointPort("dns", "UDP", 53)),
)
POLICY = NetworkPolicy(
    "default",
    "only-clients",
    pod_selector=LabelSelector(match_labels={"app": "web"}),
    ingress=(
        PolicyRule(
            peers=(
                PolicyPeer(pod_selector=LabelSelector(match_labels={"app": "client"})),
                PolicyPeer(namespace_selector=LabelSelector()),
                PolicyPeer(cidr=ip_network("192.0.2.0/24"), excepts=(ip_network("192.0.2.8/29"),)),
            ),
            ports=(PolicyPort("TCP", "http"), PolicyPort("UDP", 53, 60)),
        ),
    ),
    egress=(),
)


def cluster(watches: Iterable[Resource] = ()) -> list[Object]:
    """Objects of every kind, including one with an empty ``spec`` of each kind in ``watches``."""
    return [
        LOCAL,
        node(1, "a"),
        node(2, "b"),
        Namespace("default", {"kubernetes.io/metadata.name": "default"}),
        Namespace("other", {"kubernetes.io/metadata.name": "other", "team": "b"}),
        pod("web", 1, 2),
        pod("client", 1, 3),
        pod("far", 2, 2),
        Pod("other", "waiting"),
        Pod("default", "host", node_name="node1", host_network=True, ips=LOCAL.addresses),
        port("web", 2, host_ports=(HostPort(8443, 8080), HostPort(5353, 53, "UDP"))),
        port("client", 3),
        SERVICE,
        Service("default", "none", cluster_ips=(ip_address("10.96.0.11"),)),
        Service("default", "headless", ports=(ServicePort("", "TCP", 80, 80),)),
        Service("default", "name", type="ExternalName"),
        SLICE,
        EndpointSlice("default", "orphan", endpoints=(Endpoint((ip_address("10.1.0.9"),)),)),
        POLICY,
        NetworkPolicy("other", "deny-all", ingress=(), egress=()),
        EXPOSED,
        *odd_objects(),
        *(_custom(each) for each in watches),
    ]


def _custom(resource: Resource) -> Custom:
    """An object as a folder of manifests may contain it, where no schema validates it."""
    return Custom(resource.kind, "default" if resource.namespaced else "", "example")


def history(watches: Iterable[Resource] = ()) -> Iterator[Change]:
    """All objects are added, some change, some are removed and added again."""
    replace = msgspec.structs.replace
    first: list[Any] = cluster(watches)
    both = (ip_address("fd00:96::10"), *SERVICE.cluster_ips)
    six = replace(SLICE, address_type="IPv6", endpoints=(Endpoint((both[0],)),))
    endpoints = replace(SLICE, endpoints=SLICE.endpoints[1:])
    local = replace(SERVICE, external_traffic_policy="Local", session_affinity="ClientIP")
    yield from (Change.between(None, each) for each in first)
    for old, new in (
        (first[5], pod("web", 1, 2, ready=False, labels={"app": "web", "tier": "x"})),
        (first[6], pod("client", 1, 3, phase="Succeeded", ready=False)),
        (SLICE, endpoints),
        (endpoints, six),
        (six, endpoints),
        (SERVICE, replace(SERVICE, cluster_ips=both)),
        (SERVICE, replace(SERVICE, cluster_ips=both[:1], external_ips=both)),
        (SERVICE, local),
        (POLICY, replace(POLICY, egress=None)),
        (first[2], node(2, "a")),
        (first[4], Namespace("other", {"kubernetes.io/metadata.name": "other"})),
        (first[5], pod("web", 1, 2, ips=(both[0], *first[5].ips))),
        (first[10], replace(first[10], addresses=(both[0], *first[10].addresses))),
        (LOCAL, replace(LOCAL, addresses=(*LOCAL.addresses, both[0]), held=both)),
        (LOCAL, replace(LOCAL, uplink_mtu=1400, onlink=(ip_network("198.51.100.0/24"),))),
        (first[10], port("web", 4)),
    ):
        yield Change.between(old, new)
    for gone in (first[7], local, endpoints, first[11], first[2]):
        yield Change.between(gone, None)
    yield from (Change.between(None, each) for each in (SERVICE, first[11]))
