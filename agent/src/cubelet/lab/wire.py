"""The underlay: a bridge in a namespace of its own that joins the nodes and the outside.

    node1 eth0 ──┐
    node2 eth0 ──┤ wire0 (namespace cubelet-LAB-wire)
    outside eth0 ┘

The outside is the nodes' default gateway, has no route to any pod, and serves TCP, UDP and SCTP on
one port, so that a check can see from which address packets of the cluster arrive.
"""

from __future__ import annotations

from typing import Final

from cubelet.lab import netns, processes
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT, UNDERLAY, LabSpec, Layout
from cubelet.net.node import mac_of

_BRIDGE: Final = "wire0"


def build(layout: Layout, spec: LabSpec) -> None:
    """Make the namespaces of the wire, the outside and all nodes, and join them."""
    places = {layout.node_netns(node.name): node.address for node in spec.nodes}
    names = dict(zip(places, (node.name for node in spec.nodes), strict=True))
    places[layout.outside_netns], names[layout.outside_netns] = OUTSIDE_ADDRESS, "outside"
    for name in (layout.wire_netns, *places):
        netns.create(name)
    lines = [f"link add {_BRIDGE} type bridge mcast_snooping 0", f"link set {_BRIDGE} up"]
    for i, place in enumerate(places):
        # The same in every lab: MAC addresses are compiled in, and what was compiled is kept.
        mac = mac_of(names[place], "nic")
        lines += [
            f"link add wire{i + 1} type veth peer name eth0 address {mac} netns {place}",
            f"link set wire{i + 1} master {_BRIDGE} up",
        ]
    netns.ip_batch(lines, layout.wire_netns)
    for place, address in places.items():
        netns.ip_batch(_addressing(address), place)


def serve_outside(layout: Layout) -> None:
    """Start the outside server, which answers with the client address that it sees."""
    ports = [(protocol, OUTSIDE_PORT) for protocol in ("TCP", "UDP", "SCTP")]
    processes.spawn_server(layout, "outside", layout.outside_netns, "outside", ports)


def _addressing(address: str) -> list[str]:
    lines = [f"address add {address}/{UNDERLAY.prefixlen} dev eth0", "link set eth0 up"]
    if address != OUTSIDE_ADDRESS:
        lines.append(f"route add default via {OUTSIDE_ADDRESS}")
    return lines
