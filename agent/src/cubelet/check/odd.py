"""Objects such as a tenant may make and an author may not expect: both families, odd addresses.

The API server takes them all; what it refuses, and scoped addresses (RFC 4007), sources refuse.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Literal

import msgspec

from cubelet_hooks.objects import (
    Endpoint,
    EndpointPort,
    EndpointSlice,
    HostPort,
    LabelSelector,
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

_NONSENSE = tuple(
    map(
        ip_address,
        (
            *("0.0.0.0", "127.0.0.1", "169.254.1.1", "224.0.0.1", "255.255.255.255"),
            *("::", "::1", "fe80::1", "ff02::1", "::ffff:10.1.0.2", "2001:db8::9"),
        ),
    )
)
"""Nobody's, the host's own, on the link, many's, IPv4-mapped (RFC 4291, 2.5.5.2)."""
_POD = ip_address("10.1.0.20")
_POD6 = ip_address("fd00:1::20")
_HTTP = (ServicePort("", "TCP", 80, 8080, 30090),)


def _service(name: str, *addresses: str, **fields: object) -> Service:
    made = Service("default", name, cluster_ips=tuple(map(ip_address, addresses)), ports=_HTTP)
    return msgspec.structs.replace(made, **fields)


def _slice(
    name: str, service: str, family: Literal["IPv4", "IPv6", "FQDN"], *addresses: str
) -> EndpointSlice:
    return EndpointSlice(
        "default",
        name,
        service=service,
        address_type=family,
        endpoints=tuple(Endpoint((ip_address(each),), node_name="node1") for each in addresses),
        ports=(EndpointPort("", "TCP", 8080),),
    )


def odd_objects() -> list[Object]:
    """One of each; none has the name of another sample."""
    return [
        Node(
            "node6",
            addresses=(ip_address("fd00:18::6"), ip_address("172.18.0.66")),
            pod_cidrs=(ip_network("fd00:6::/64"), ip_network("10.1.66.0/24")),
        ),
        Node("node66", addresses=_NONSENSE, pod_cidrs=(ip_network("fd00:66::/64"),)),
        Node("nowhere"),
        Pod("default", "dual", uid="uid-dual", node_name="node1", ips=(_POD6, _POD), ready=True),
        Pod("default", "six", labels={"app": "web"}, node_name="node1", ips=(_POD6,)),
        Pod("default", "nonsense", labels={"app": "web"}, node_name="node2", ips=_NONSENSE),
        Port(
            "default",
            "dual",
            container_id="c-dual",
            ifname="eth0",
            netns="/run/netns/dual",
            host_ifname="veth20",
            ifindex=30,
            mac="02:00:00:00:01:20",
            host_mac="02:00:00:00:02:20",
            addresses=(_POD6, _POD),
            mtu=1450,
            uid="uid-dual",
            host_ports=tuple(
                HostPort(9000 + number, 80, "SCTP" if number % 2 else "UDP", address)
                for number, address in enumerate(_NONSENSE)
            ),
        ),
        _service("six", "fd00:96::10", selector={"app": "web"}),
        _service("dual", "10.96.0.60", "fd00:96::60"),
        _service("laud", "fd00:96::61", "10.96.0.61", type="NodePort"),
        _service("nonsense", *map(str, _NONSENSE), external_ips=_NONSENSE, type="NodePort"),
        _service(
            "balanced",
            "fd00:96::62",
            type="LoadBalancer",
            load_balancer_ips=_NONSENSE,
            session_affinity="ClientIP",
            source_ranges=(ip_network("2001:db8::/32"), ip_network("0.0.0.0/0")),
        ),
        _slice("six-1", "six", "IPv6", "fd00:1::20", "fe80::1"),
        _slice("dual-1", "dual", "IPv4", "10.1.0.20", "0.0.0.0", "255.255.255.255"),
        _slice("dual-2", "dual", "IPv6", "fd00:1::20", "::ffff:10.1.0.20", "::"),
        _slice("laud-1", "laud", "FQDN"),
        EndpointSlice(
            "default",
            "mixed",
            service="laud",
            endpoints=(Endpoint((_POD6, _POD)), Endpoint(()), Endpoint(_NONSENSE)),
            ports=(EndpointPort("", "TCP", 8080), EndpointPort("", "SCTP", 8080)),
        ),
        NetworkPolicy(
            "default",
            "six",
            pod_selector=LabelSelector(),
            ingress=(
                PolicyRule(
                    (
                        PolicyPeer(cidr=ip_network("2001:db8::/32")),
                        PolicyPeer(cidr=ip_network("::/0"), excepts=(ip_network("::ffff:0:0/96"),)),
                        PolicyPeer(
                            cidr=ip_network("0.0.0.0/0"), excepts=(ip_network("0.0.0.0/0"),)
                        ),
                    ),
                    (PolicyPort("SCTP", 1, 65535), PolicyPort("UDP", "no-such-name")),
                ),
            ),
            egress=(PolicyRule((PolicyPeer(cidr=ip_network("fe80::/10")),)),),
        ),
    ]
