"""A node, its pods, and events as the C would send them."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from cubelet import testkit
from cubelet_flowlog.records import Told, What
from cubelet_hooks.flows import PortClass, Tuple
from cubelet_hooks.objects import Object, Pod
from cubelet_hooks.view import View

WEB, VIP, DB, NODE = map(ip_address, ("10.1.0.2", "10.96.0.9", "10.1.1.3", "172.18.0.2"))
SENT = Tuple(WEB, VIP, 4000, 80, 6)
LEFT = Tuple(WEB, DB, 4000, 8080, 6)
LOCAL = testkit.local_node(addresses=(NODE,))


def pod(name: str, address: Any, phase: str = "Running", host_network: bool = False) -> Pod:
    """A pod of the namespace shop."""
    return Pod("shop", name, ips=(address,), phase=phase, host_network=host_network)


def view(*objects: Object) -> View:
    """What the node knows: itself, the pods web and db, and more objects."""
    return testkit.view(LOCAL, pod("web", WEB), pod("db", DB), *objects)


def event(
    what: What, arrived: Tuple, left: Tuple, how: int = 0, packets: int = 0, size: int = 0
) -> Told:
    """An event of a packet from a pod to the overlay, 1.25 s after the clock's begin."""
    ports = PortClass.POD, PortClass.OVERLAY
    return Told(1_250_000_000, packets, size, arrived, left, *ports, what, how)
