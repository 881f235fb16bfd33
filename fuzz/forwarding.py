"""What is right of a frame that was sent on: its bytes, its way, and whom it says it is from."""

from __future__ import annotations

from . import cluster
from .answers import Say
from .cluster import GATEWAY, GATEWAY_MAC, LOCAL_PODS, NODE, POD_MACS, UPLINK_MAC
from .machine import Out
from .rules import may_open, shown_source, to_tunnel, where
from .services import Cluster
from .wire import ICMP, TCP, UDP, Packet, Tuple, rewritable, same_but

_SEGMENT = frozenset({*LOCAL_PODS, "host"})


def check_frame(p: Packet, entry: str, leaves: str, q: Packet, out: Out, say: Say) -> None:
    """Size, hops and MAC addresses."""
    if len(out.frame) != len(p.frame):
        say("length", f"{len(p.frame)} bytes came, {len(out.frame)} left")
    spent = p.ttl - q.ttl
    bridged = entry in _SEGMENT and leaves in _SEGMENT
    if spent != 1 and not (bridged and spent == 0):
        say("ttl", f"TTL {p.ttl} left as {q.ttl}")
    if spent and p.ttl <= 1:
        say("ttl", f"a packet with TTL {p.ttl} was routed")
    fits = p.total <= out.mtu or (leaves == "overlay" and not p.df)
    if not fits:
        say("mtu", f"{p.total} bytes left where {out.mtu} fit")


def check_whole(p: Packet, q: Packet, out: Out, say: Say) -> None:
    """Nothing but what forwarding rewrites has changed; checksums are as right as before."""
    if not same_but(p.frame, out.frame, rewritable(p)):
        say("bytes", f"more than addresses and ports was changed: {out.frame.hex()}")
    elif p.header_residue() != q.header_residue():
        say("checksum", f"the IP header's: {out.frame.hex()}")
    elif p.residue() != q.residue():
        say("checksum", f"the transport's: {out.frame.hex()}")


def check_sender(state: Cluster, p: Packet, entry: str, say: Say) -> None:
    """May that port send from there?"""
    src_mac, dst_mac = p.frame[6:12], p.frame[:6]
    if entry in LOCAL_PODS:
        if p.src != LOCAL_PODS[entry]:
            say("spoofed", f"pod {entry} sent from {p.src:#x}")
        taken = {GATEWAY_MAC, *state.macs()} - {POD_MACS[entry]}
        if src_mac in taken and may_open(p):  # else that is what is wrong with it
            say("mac", f"pod {entry} sent from the MAC address {src_mac.hex()}")
    elif entry == "host":
        if p.src not in {NODE, GATEWAY}:
            say("spoofed", "the host forwarded what is not its own")
    elif entry == "uplink":
        if cluster.martian(p.src):
            say("martian", f"from the uplink, from {p.src:#x}")
        if dst_mac != UPLINK_MAC:
            say("other_mac", f"from the uplink, for {dst_mac.hex()}")


def check_path(
    state: Cluster, key: Tuple, entry: str, leaves: str, left: Tuple, out: Out, say: Say
) -> None:
    """Is it where its address leads, by way of a Service or not?"""
    backends = state.backends(entry, key[1], key[3], key[4])
    if backends is None and left[1] != key[1]:
        say("translation", f"{key} belongs to no Service, and went to {left}")
    if backends is not None and (left[1], left[3]) not in backends:
        say("translation", f"{key} went to {left}, no backend of {backends}")
    if backends is None and left[3] != key[3]:
        say("translation", f"{key} went to another port: {left}")
    wanted = where(state, left[1], entry, backends is not None)
    edge = left[1] in {cluster.UNDERLAY.first, cluster.UNDERLAY.last}
    if wanted != leaves and not edge:  # those are the kernel's to decide about
        say("path", f"{key} to {left[1]:#x} left by {leaves}, not by {wanted}")
    if leaves == "overlay" and out.remote != cluster.tunnel_to(left[1]):
        say("path", f"{left} into the tunnel to {out.remote:#x}")
    if to_tunnel(leaves, left[3], key[4]) or to_tunnel(entry, key[2], key[4]):
        say("tunnel", f"{key} speaks to a node's tunnel, or has its answers go there: {left}")
    if leaves == "uplink":
        hop = left[1] if left[1] in cluster.UNDERLAY else cluster.ROUTER
        if out.remote != hop:
            say("path", f"{left} to the next hop {out.remote:#x}, not {hop:#x}")


def check_source(key: Tuple, entry: str, leaves: str, left: Tuple, say: Say) -> None:
    """Is the source address the one that replies find back to?"""
    source, moved = shown_source(key, entry, leaves, left)
    if left[0] != source:
        say("source", f"{key} by {leaves} left from {left[0]:#x}, not {source:#x}")
    has_ports = key[4] in {TCP, UDP} or (key[4] == ICMP and left[2] != 0 and not key[3])
    if left[2] != key[2]:
        if left[2] not in cluster.SNAT_PORTS:
            say("source", f"{key} left from port {left[2]}")
    elif moved and left[2] not in cluster.SNAT_PORTS and has_ports:
        say("source", f"{key} kept a port that may be the node's own: {left}")
    elif moved and leaves == "uplink" and not has_ports:
        say("no_ports", f"nothing tells the answers to {left} from those to the node's own")
