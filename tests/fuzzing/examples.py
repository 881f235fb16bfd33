"""The shortest way to each known fault: steps of which the last violates the invariant."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from fuzz.cluster import (
    GATEWAY_MAC,
    LOCAL_PODS,
    OUTSIDE,
    POD_MACS,
    ROUTER_MAC,
    UPLINK_MAC,
)
from fuzz.conversations import UPSTREAM, Step
from fuzz.oracle import Oracle
from fuzz.wire import SYN, TCP, Tuple, ether, ip, transport

B = LOCAL_PODS["b"]
CLIENT = OUTSIDE[0]
_MACS = {"uplink": (UPLINK_MAC, UPSTREAM), "host": (ROUTER_MAC, GATEWAY_MAC)}


def _step(entry: str, t: Tuple, flags: int = SYN, to: bytes = b"") -> Step:
    dst, src = _MACS.get(entry, (ROUTER_MAC, POD_MACS.get(entry, ROUTER_MAC)))
    packet = ip(t[0], t[1], t[4], transport(t, flags, seq=4_000_000))
    return Step(entry, ether(to or dst, src, packet))


def _other_mac(oracle: Oracle) -> Iterator[Step]:
    yield _step("uplink", (CLIENT, B, 1024, 8080, TCP), to=POD_MACS["b"])


EXAMPLES: dict[str, Callable[[Oracle], Iterator[Step]]] = {
    "other_mac": _other_mac,
}
