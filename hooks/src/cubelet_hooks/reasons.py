"""Why the core drops packets. Append only: a reason's number is its place in this list.

Cubes declare their own (``Cube.reasons``); the composer numbers them in ranges of 64 above
``FIRST_CUBE_REASON``, one range per kind.
"""

from __future__ import annotations

from cubelet_hooks.cube import Reason

CORE_REASONS = (
    Reason("none", "not dropped"),
    Reason("malformed", "truncated or contradictory headers"),
    Reason("fragment", "a fragment whose first has not come, or that is too long to wait for it"),
    Reason("wrong_port", "a known flow's packet that entered by another port"),
    Reason("spoofed", "the source address is not one that this port may send from"),
    Reason("unknown_node", "tunnelled by no known node, under another VNI, or of a foreign source"),
    Reason("no_path", "no cube forwarded the packet"),
    Reason("ttl", "time to live expired in transit"),
    Reason("too_big", "larger than the MTU of where it leaves, and must not be fragmented"),
    Reason("no_source_port", "every source port that could be used is taken"),
    Reason("flow_table", "the flow's record could not be written"),
    Reason("unrelated", "an ICMP error that quotes no packet which a known flow has sent there"),
    Reason("jump", "a tail call failed: the composition is being replaced or is broken"),
    Reason("rate_limited", "an ICMP error, a reset or a packet for Python over its rate"),
    Reason("helper", "a kernel helper refused the packet"),
    Reason("unsupported", "a protocol that this port class does not carry"),
    Reason("no_flow", "TCP that belongs to no known flow, and is no SYN that could open one"),
    Reason("untranslated", "no cube is left at the flow's port that would translate it"),
    Reason("punt_too_long", "for a cube's Python, which takes frames of up to 2,048 bytes"),
    Reason("live_flow", "a SYN against the direction of a live connection"),
    Reason("tunnel_port", "to the overlay's UDP port, and not by the overlay"),
    Reason("martian", "from the uplink, of a source address that cannot be out there"),
    Reason("source_route", "the sender names routers to pass, by IP options or a routing header"),
    Reason("client_gone", "for a pod that is gone, from the peer of a connection that it had"),
    Reason("fragment_store", "a fragment that waited for its first, no longer: newer ones came"),
    Reason("extensions", "IPv6 with more extension headers than are walked"),
    Reason("unchecked", "UDP over IPv6 without a checksum (RFC 8200, 8.1)"),
)
FIRST_CUBE_REASON = 64
REASONS_PER_CUBE = 64
MAX_CUBES = 32
"""Kinds with reasons of their own at the same time."""
