"""The cluster of the measured packets: two nodes, some pods, a Service, NetworkPolicies.

Pod ``default/a`` (10.1.0.2) is the client; ``default/b`` serves on this node, ``default/r`` on the
other one. Policies isolate client and servers, so that both directions are judged.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Literal

from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.composer.composition import default_chain
from cubelet.testkit import Datapath
from cubelet.testkit.network import TestNetwork
from cubelet.testkit.samples import ROUTER_MAC, pod_mac
from cubelet_bridge.cube import Bridge
from cubelet_firewall.cube import Firewall
from cubelet_hooks.cube import Cube
from cubelet_hooks.objects import (
    Address,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    LabelSelector,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    PolicyPeer,
    PolicyPort,
    PolicyRule,
    Service,
    ServicePort,
)
from cubelet_lbrp.cube import Lbrp
from cubelet_nat.cube import Nat
from cubelet_router.cube import Router

CUBES: Mapping[str, type[Cube]] = {c.kind: c for c in (Bridge, Router, Lbrp, Nat, Firewall)}
CLIENT, SERVER, REMOTE, OUTSIDE = "10.1.0.2", "10.1.0.3", "10.1.1.5", "198.51.100.7"
CLIENT_ADDRESS = ip_address(CLIENT)
SERVICE = "10.96.0.10"
FIRST_PORT = 20_000
"""First source port of opened flows; masquerading need not change these ports."""

_PORT, _SERVICE_PORT = 8080, 80
_CLIENTS, _SERVERS = LabelSelector({"app": "client"}), LabelSelector({"app": "server"})
_TO_SERVERS = PolicyRule(
    peers=(PolicyPeer(pod_selector=_SERVERS),),
    ports=(PolicyPort("TCP", _PORT), PolicyPort("UDP", _PORT)),
)
_OUT = PolicyRule(peers=(PolicyPeer(cidr=ip_network("198.51.100.0/24")),))
_FROM_CLIENTS = PolicyRule(peers=(PolicyPeer(pod_selector=_CLIENTS),), ports=_TO_SERVERS.ports)


def objects() -> list[Object]:
    """Everything but this node and its ports."""
    ports = tuple(ServicePort(p.lower(), p, _SERVICE_PORT, _PORT) for p in ("TCP", "UDP"))
    served = tuple(EndpointPort(port.name, port.protocol, _PORT) for port in ports)
    return [
        Node(
            "node2", addresses=(ip_address("172.18.0.3"),), pod_cidrs=(ip_network("10.1.1.0/24"),)
        ),
        Namespace("default", labels={"kubernetes.io/metadata.name": "default"}),
        _pod("a", "client", CLIENT, "node1"),
        _pod("b", "server", SERVER, "node1"),
        _pod("r", "server", REMOTE, "node2"),
        NetworkPolicy("default", "clients", pod_selector=_CLIENTS, egress=(_TO_SERVERS, _OUT)),
        NetworkPolicy("default", "servers", pod_selector=_SERVERS, ingress=(_FROM_CLIENTS,)),
        Service("default", "web", cluster_ips=(ip_address(SERVICE),), ports=ports),
        EndpointSlice(
            "default",
            "web-1",
            service="web",
            endpoints=(Endpoint((ip_address(SERVER),), node_name="node1", target="default/b"),),
            ports=served,
        ),
    ]


def _pod(name: str, app: str, address: str, node: str) -> Pod:
    return Pod(
        "default",
        name,
        labels={"app": app},
        node_name=node,
        ips=(ip_address(address),),
        phase="Running",
        ready=True,
    )


def default_datapath(network: TestNetwork) -> Datapath:
    """The composition that ships with cubelet, its maps filled for :func:`objects`."""
    chain = default_chain()
    return Datapath(
        network,
        stacks={name: [CUBES[kind] for kind in kinds] for name, kinds in chain.stacks.items()},
        core=[CUBES[kind] for kind in chain.core],
        objects=objects(),
    )


@dataclass(frozen=True)
class Case:
    """A flow of the client. ``dst`` and ``dport`` are its destination, ``peer`` is who answers.

    ``mac`` is its frames' destination; ``leaves`` the port class they leave by; ``sport`` the
    client's port if the flow is established.
    """

    name: str
    dst: str
    dport: int
    peer: str
    mac: str
    leaves: Literal["pod", "overlay", "uplink"]
    sport: int
    protocol: Literal["TCP", "UDP"] = "TCP"

    @property
    def address(self) -> Address:
        """The destination address."""
        return ip_address(self.dst)

    @property
    def number(self) -> int:
        """The protocol's number."""
        return {"TCP": 6, "UDP": 17}[self.protocol]

    def frame(self, sport: int = 0, flags: str = "A") -> Packet:
        """A packet of the client's, 100 bytes of payload."""
        return _frame(
            self,
            Ether(src=pod_mac(0), dst=self.mac) / IP(src=CLIENT, dst=self.dst),
            (sport or self.sport, self.dport),
            flags,
        )

    def answer(self, flags: str = "SA") -> Packet:
        """A packet of the peer's, as it enters this node."""
        source = pod_mac(1) if self.leaves == "pod" else "02:00:00:00:ee:01"
        return _frame(
            self,
            Ether(src=source, dst=pod_mac(0) if self.dst == SERVER else ROUTER_MAC)
            / IP(src=self.peer, dst=CLIENT),
            (_PORT, self.sport),
            flags,
        )


def _frame(case: Case, below: Packet, ports: tuple[int, int], flags: str) -> Packet:
    sport, dport = ports
    if case.protocol == "UDP":
        return below / UDP(sport=sport, dport=dport) / Raw(bytes(100))
    return below / TCP(sport=sport, dport=dport, flags=flags, ack=1, seq=1) / Raw(bytes(100))


TO_POD = Case("pod to pod", SERVER, _PORT, SERVER, pod_mac(1), "pod", 10_001)
TO_SERVICE = Case("Service", SERVICE, _SERVICE_PORT, SERVER, ROUTER_MAC, "pod", 10_002)
TO_SERVICE_UDP = Case(
    "Service, UDP", SERVICE, _SERVICE_PORT, SERVER, ROUTER_MAC, "pod", 10_003, "UDP"
)
TO_REMOTE = Case("remote pod", REMOTE, _PORT, REMOTE, ROUTER_MAC, "overlay", 10_004)
TO_OUTSIDE = Case("outside", OUTSIDE, _PORT, OUTSIDE, ROUTER_MAC, "uplink", 10_005)


def establish(path: Datapath, case: Case) -> None:
    """Open a flow and answer it, so that its records are those of an established flow."""
    steps: Sequence[tuple[Packet, str, str]] = (
        (case.frame(flags="S"), "pod", "default/a"),
        (case.answer(), case.leaves, "default/b"),
        (_acknowledging(case.frame()), "pod", "default/a"),
    )
    for packet, enters, pod in steps:
        result = path.send(packet, enters, pod)
        if result.verdict != "redirect":
            raise RuntimeError(f"{case.name}: {packet.summary()} was dropped: {result.reason}")


def _acknowledging(packet: Packet) -> Packet:
    """Set the acknowledgement that shows that the client has seen the answer (sequence 1)."""
    if TCP in packet:
        packet[TCP].ack = 2
    return packet
