"""The shortest way to each known fault: steps of which the last violates the invariant."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fuzz.cluster import (
    GATEWAY_MAC,
    LOCAL_PODS,
    NODE,
    OUTSIDE,
    POD_MACS,
    REMOTE_PODS,
    ROUTER_MAC,
    UPLINK_MAC,
)
from fuzz.conversations import UPSTREAM, Step
from fuzz.oracle import Oracle
from fuzz.wire import ACK, ICMP, SYN, TCP, Tuple, ether, icmp, inverse, ip, transport

A, B = LOCAL_PODS["a"], LOCAL_PODS["b"]
CLIENT = OUTSIDE[0]
_GRE = 47
_MACS = {"uplink": (UPLINK_MAC, UPSTREAM), "host": (ROUTER_MAC, GATEWAY_MAC)}


def _step(entry: str, t: Tuple, flags: int = SYN, to: bytes = b"") -> Step:
    dst, src = _MACS.get(entry, (ROUTER_MAC, POD_MACS.get(entry, ROUTER_MAC)))
    packet = ip(t[0], t[1], t[4], transport(t, flags, seq=4_000_000))
    return Step(entry, ether(to or dst, src, packet))


def _midstream(oracle: Oracle) -> Iterator[Step]:
    yield _step("a", (A, B, 1024, 8080, TCP), ACK)


def _martian(oracle: Oracle) -> Iterator[Step]:
    yield _step("uplink", (REMOTE_PODS["r"], B, 1024, 8080, TCP))


def _other_mac(oracle: Oracle) -> Iterator[Step]:
    yield _step("uplink", (CLIENT, B, 1024, 8080, TCP), to=POD_MACS["b"])


def _syn_forgets(oracle: Oracle) -> Iterator[Step]:
    """Who claims to be the server ends a pod's connection with one packet."""
    yield _step("a", (A, CLIENT, 1024, 443, TCP))
    back = inverse(oracle.flows[-1].left)
    yield _step("uplink", back, SYN)
    yield _step("uplink", back, SYN | ACK)
    yield _step("uplink", back, ACK)


def _quoted(oracle: Oracle) -> Iterator[Step]:
    sent = bytes(range(1, 21))
    yield Step("a", ether(ROUTER_MAC, POD_MACS["a"], ip(A, CLIENT, _GRE, sent)))
    error = ip(CLIENT, NODE, ICMP, icmp(3, 1, 0, ip(NODE, CLIENT, _GRE, sent)))
    yield Step("uplink", ether(UPLINK_MAC, UPSTREAM, error))


EXAMPLES: dict[str, Callable[[Oracle], Iterator[Step]]] = {
    "midstream": _midstream,
    "martian": _martian,
    "syn_forgets": _syn_forgets,
    "quoted": _quoted,
    "other_mac": _other_mac,
}
