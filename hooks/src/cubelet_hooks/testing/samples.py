"""Objects for tests of plans, which need neither root nor a kernel."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import msgspec

from cubelet_hooks.objects import LocalNode
from cubelet_hooks.records import Network

ROUTER_MAC = "02:00:00:00:00:01"
GATEWAY_MAC = "02:00:00:00:00:02"
UPLINK_MAC = "02:00:00:00:00:03"
PODS = ip_network("10.1.0.0/24")
_LOCAL = LocalNode(
    name="node1",
    addresses=(ip_address("172.18.0.2"),),
    pod_cidr=PODS,
    gateway=PODS[1],
    gateway_mac=GATEWAY_MAC,
    gateway_ifindex=2,
    datapath_ifindex=3,
    overlay_ifindex=4,
    uplink_ifindex=5,
    uplink_mac=UPLINK_MAC,
    uplink_mtu=1500,
    overlay_mtu=1450,
    router_mac=ROUTER_MAC,
)


def local_node(pod_cidr: Network = PODS, **fields: object) -> LocalNode:
    """This node: ``node1``, 172.18.0.2, its gateway the podCIDR's first; with these fields."""
    wanted = {"pod_cidr": pod_cidr, "gateway": pod_cidr[1], **fields}
    return msgspec.structs.replace(_LOCAL, **wanted)


def pod_mac(number: int) -> str:
    """The MAC address of the n-th pod's end."""
    return f"02:00:00:00:01:{number:02x}"
