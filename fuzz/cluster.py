"""The small cluster that packets are sent in: who is where, and what may come from there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from cubelet.testkit import samples
from cubelet_hooks.objects import Namespace, Node, Object, Pod, Protocol

from .wire import SCTP, TCP, UDP


def number(address: str) -> int:
    """An IPv4 address as a number."""
    return int(ip_address(address))


GATEWAY, NODE, HAIRPIN = number("10.1.0.1"), number("172.18.0.2"), number("169.254.1.2")
ROUTER = number("172.18.0.254")
LOCAL_PODS = {name: number(f"10.1.0.{n}") for n, name in enumerate("abcd", 2)}
POD_OF = {address: name for name, address in LOCAL_PODS.items()}
REMOTE_PODS = {"r": number("10.1.1.5"), "s": number("10.1.1.6"), "t": number("10.1.2.5")}
NODES = {"node2": ("172.18.0.3", "10.1.1.0/24"), "node3": ("172.18.0.4", "10.1.2.0/24")}
OUTSIDE = tuple(map(number, ("192.0.2.9", "192.0.2.200", "198.51.100.7", "172.18.0.77")))
WEB, OWN, EMPTY, HOSTED, FAR = (number(f"10.96.0.{n}") for n in (10, 11, 12, 13, 14))
LOCAL_ONLY = number("10.96.0.15")
NOBODYS_VIP = number("10.96.9.9")
EXTERNAL, BALANCER = number("203.0.113.5"), number("203.0.113.6")
OUTSIDE_VIRTUAL = frozenset({EXTERNAL, BALANCER})
VIRTUAL = frozenset({WEB, OWN, EMPTY, HOSTED, FAR, LOCAL_ONLY}) | OUTSIDE_VIRTUAL
VXLAN_PORT = 4789
SNAT_PORTS = range(12_000, 30_000)
NODE_PORTS = range(30_000, 32_768)
PROTOCOLS: Mapping[Protocol, int] = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}
_LABELS = {"a": "client", "b": "server", "c": "server", "d": "db", "r": "server", "s": "client"}
_NAMESPACES = {"s": "other", "t": "other"}


@dataclass(frozen=True)
class Network:
    """A network by number, for quick questions."""

    first: int
    last: int

    @classmethod
    def of(cls, text: str) -> Network:
        """From its usual form."""
        found = ip_network(text)
        return cls(int(found[0]), int(found[-1]))

    def __contains__(self, address: int) -> bool:
        return self.first <= address <= self.last


ROUTER_MAC, GATEWAY_MAC, UPLINK_MAC = (
    bytes.fromhex(mac.replace(":", ""))
    for mac in (samples.ROUTER_MAC, samples.GATEWAY_MAC, samples.UPLINK_MAC)
)
POD_MACS = {
    name: bytes.fromhex(samples.pod_mac(n).replace(":", "")) for n, name in enumerate(LOCAL_PODS)
}
PODS = Network.of("10.1.0.0/24")
LOOPBACK = Network.of("127.0.0.0/8")
CLUSTER_PODS = Network.of("10.1.0.0/16")
SERVICES = Network.of("10.96.0.0/12")
UNDERLAY = Network.of("172.18.0.0/24")
NODE_ADDRESSES = frozenset({NODE, *(number(address) for address, _ in NODES.values())})
TUNNELS = {Network.of(cidr): number(address) for address, cidr in NODES.values()}
NEVER_A_SOURCE = [Network.of(n) for n in ("0.0.0.0/8", "127.0.0.0/8", "224.0.0.0/3")]


def martian(address: int) -> bool:
    """May no packet of the nodes' network come from there? (RFC 1812 5.3.7, and our own ranges.)

    From Services' external addresses one may: they can be those of a host that shares its load.
    """
    return (
        any(address in network for network in NEVER_A_SOURCE)
        or address in CLUSTER_PODS
        or address in SERVICES
        or address in {NODE, HAIRPIN, UNDERLAY.last}
    )


@dataclass(frozen=True)
class Place:
    """Who has an address: a pod as policies see it."""

    namespace: str
    labels: Mapping[str, str]


def _place(name: str) -> Place:
    labels = {"app": _LABELS.get(name, "other")}
    return Place(_NAMESPACES.get(name, "default"), labels)


IDENTITIES = {address: _place(name) for name, address in (LOCAL_PODS | REMOTE_PODS).items()}
NAMESPACE_LABELS = {
    name: {"kubernetes.io/metadata.name": name, "team": name} for name in ("default", "other")
}


def basics() -> list[Object]:
    """Nodes, namespaces and pods, which stay as they are."""
    found: list[Object] = [
        Node(name, addresses=(ip_address(address),), pod_cidrs=(ip_network(cidr),))
        for name, (address, cidr) in NODES.items()
    ]
    found += [Namespace(name, labels=labels) for name, labels in NAMESPACE_LABELS.items()]
    for name, address in (LOCAL_PODS | REMOTE_PODS).items():
        who = IDENTITIES[address]
        node = "node1" if name in LOCAL_PODS else "node2" if name != "t" else "node3"
        found.append(
            Pod(
                who.namespace,
                name,
                labels=who.labels,
                node_name=node,
                ips=(ip_address(address),),
                phase="Running",
                ready=True,
            )
        )
    return found


def tunnel_to(address: int) -> int:
    """The node behind whose tunnel a pod's address is; 0: none."""
    return next((node for network, node in TUNNELS.items() if address in network), 0)
