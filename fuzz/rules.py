"""The rules of forwarding: what may open a flow, where an address is, who is seen, who may."""

from __future__ import annotations

from . import cluster
from .cluster import (
    GATEWAY,
    HAIRPIN,
    LOCAL_PODS,
    NODE,
    POD_MACS,
    POD_OF,
    ROUTER_MAC,
    UPLINK_MAC,
)
from .policies import allows
from .services import Cluster
from .wire import ACK, FIN, ICMP, LATER, RST, SYN, TCP, UDP, Packet, Tuple

_SOURCE_ROUTES = frozenset({131, 137})
SAFE_SIZE = 1400
"""Bytes that fit everywhere."""


def may_open(p: Packet) -> bool:
    """Only what begins a conversation in its protocol: of TCP a SYN, which is no answer."""
    if p.protocol != TCP:
        return True
    return p.fragment != LATER and p.flags & (SYN | ACK | RST | FIN) == SYN


def where(state: Cluster, address: int, entry: str, translated: bool) -> str:
    """Which port leads to an address; empty: none does, ``stack``: it is left to the node."""
    if entry == "uplink" and not translated and address not in cluster.PODS:
        return "stack"
    if address in cluster.LOOPBACK and entry == "host":
        return "host"  # what the loopback device gave it, which is the node's own
    if address in {NODE, GATEWAY}:
        return "stack" if entry == "uplink" and not translated else "host"
    if address in cluster.PODS:
        return state.pod_at(address)
    if cluster.tunnel_to(address):
        return "overlay" if entry != "overlay" else ""
    refused = (*cluster.NEVER_A_SOURCE, cluster.SERVICES)
    if address == HAIRPIN or any(address in network for network in refused):
        return ""
    if address in {cluster.UNDERLAY.first, cluster.UNDERLAY.last}:
        return "host" if entry != "host" else ""  # the kernel's broadcast addresses
    return "uplink"


def to_tunnel(place: str, port: int, protocol: int) -> bool:
    """Would a packet that leaves there for this port come to some node's end of the tunnel?"""
    return protocol == UDP and port == cluster.VXLAN_PORT and place in {"uplink", "host"}


def shown_source(key: Tuple, entry: str, leaves: str, left: Tuple) -> tuple[int, bool]:
    """The source address that the receiver must see, and whether many share it."""
    translated = (key[1], key[3]) != (left[1], left[3])
    if leaves == "uplink":
        own = entry == "uplink" or key[0] == NODE
        return (key[0], False) if own and not translated else (NODE, True)
    if leaves == "overlay":
        foreign = entry == "uplink" or (entry == "host" and key[0] not in cluster.PODS)
        return (GATEWAY, True) if foreign else (key[0], False)
    if leaves == "host":
        hairpin = entry in {"host", "uplink"} and translated
        return (HAIRPIN, True) if hairpin else (key[0], False)
    return (HAIRPIN, False) if entry == leaves else (key[0], False)


def permitted(state: Cluster, opened: Tuple, entry: str, left: Tuple, leaves: str) -> bool | None:
    """May this flow be? None: either is right."""
    sender, target = opened[0], left[1]
    protocol, port = left[4], left[3]
    policies = state.policies
    if entry in LOCAL_PODS and entry == leaves:
        return True
    answer: bool | None = True
    if entry in LOCAL_PODS and sender in POD_OF:
        answer = allows(policies, "egress", sender, target, True, protocol, port)
        if not answer and target in {NODE, GATEWAY}:
            answer = None  # some hold that a pod may always reach its node
    if leaves in LOCAL_PODS and target in POD_OF and entry != "host":
        known = entry != "uplink"
        if not allows(policies, "ingress", target, sender, known, protocol, port):
            answer = False
    return answer


def ours(p: Packet) -> bool:
    """Is it for a port that the node has given away?"""
    return p.dport in cluster.SNAT_PORTS or p.dport in cluster.NODE_PORTS


def node_own(p: Packet) -> bool:
    """Is a packet that came by the uplink for the node's own stack alone, such as its tunnel's?"""
    whole = p.kind == "ip" and not p.fragment and p.protocol in {TCP, UDP}
    return whole and p.dst == NODE and not ours(p)


def sound(p: Packet, entry: str) -> bool:
    """Is it as its sender's stack would have made it, and far from every limit?"""
    if p.ttl < 2 or p.total > SAFE_SIZE or options_refused(p) or p.header_residue() or p.residue():
        return False
    if entry in LOCAL_PODS:
        return p.src == LOCAL_PODS[entry] and p.frame[6:12] == POD_MACS[entry]
    if entry == "uplink":
        return p.frame[:6] == UPLINK_MAC
    return True


def options_refused(p: Packet) -> bool:
    """Has it IP options that contradict themselves, or lead it by a way of the sender's choice?"""
    at = 34
    while at < p.l4 and p.frame[at]:
        if p.frame[at] == 1:
            at += 1
            continue
        length = p.frame[at + 1] if at + 1 < p.l4 else 0
        if p.frame[at] in _SOURCE_ROUTES or length < 2 or at + length > p.l4:
            return True
        at += length
    return False


def _addressed(p: Packet, entry: str) -> bool:
    """Is the frame for the router, or for the pod that has the packet's address?"""
    pod = POD_OF.get(p.dst)
    return p.frame[:6] == ROUTER_MAC or (
        pod is not None and pod != entry and p.frame[:6] == POD_MACS[pod]
    )


def must_refuse(p: Packet, entry: str) -> bool:
    """Must its sender hear that it has no such connection (RFC 9293 3.10.7.1)?

    An answer or a reset that nobody knows stays without one: the next segment of who asked
    restores what it answers. Nor is anybody told of what was sent to a group (RFC 1122 4.2.3.10).
    """
    if any(p.dst in network for network in cluster.NEVER_A_SOURCE):
        return False
    whole = p.kind == "ip" and p.protocol == TCP and not p.fragment
    return whole and not p.flags & (SYN | RST) and sound(p, entry)


def must_open(state: Cluster, p: Packet, entry: str) -> str:
    """Why a sound packet that belongs to no flow must be sent on; empty if it need not."""
    if p.protocol == TCP and p.flags != SYN:
        return ""
    if p.protocol not in {TCP, UDP, ICMP} or (p.protocol == ICMP and p.type != 8):
        return ""
    if entry in LOCAL_PODS and not _addressed(p, entry):
        return ""
    if not _honest(p, entry) or (p.protocol != ICMP and not (p.sport and p.dport)):
        return ""
    backends = state.backends(entry, p.dst, p.dport, p.protocol)
    targets = backends if backends is not None else ((p.dst, p.dport),)
    if targets and p.dst in {cluster.UNDERLAY.first, cluster.UNDERLAY.last}:
        return ""
    for target, port in targets:
        left = (p.src, target, p.sport, port, p.protocol)
        leaves = where(state, target, entry, backends is not None)
        if to_tunnel(leaves, port, p.protocol) or to_tunnel(entry, p.sport, p.protocol):
            return ""
        if leaves in {"", "stack"} or not permitted(state, p.tuple, entry, left, leaves):
            return ""
        if p.src == target and backends is None:
            return ""
    if not targets or (entry == "uplink" and backends is None and p.dst not in cluster.PODS):
        return ""
    return f"{p.tuple} may open a flow to {targets}"


def _honest(p: Packet, entry: str) -> bool:
    if entry == "host":
        return p.src in {NODE, GATEWAY} and p.frame[:6] == ROUTER_MAC
    if entry == "uplink":
        return not cluster.martian(p.src)
    if p.protocol == ICMP and p.dst == GATEWAY:
        return False  # answered on the spot
    return p.src in POD_OF if entry in LOCAL_PODS else cluster.tunnel_to(p.src) != 0
