"""Where a cube stands in a composition, and which packets it sees."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

PORT_CLASSES = ("pod", "host", "overlay", "uplink")
"""Where packets enter and leave a node, in the order of ``enum cubelet_class``."""

UPLINK_EGRESS = "uplink-egress"
"""Beside the port classes a place that :meth:`Planned.needed_on` can name: while some cube does,
what the host's sockets send out by the uplink is looked up, so that flows from there can reach
those sockets under their client's address (``cubelet_keep_src``)."""

Direction = Literal["both", "inward", "outward"]
"""Which first packets a cube on a stack sees: those entering by the port, leaving, or both."""


@dataclass(frozen=True)
class Placement:
    """A place on a port class's stack: ``before`` names cubes further from the port.

    Cubes are named by kind or by instance. Without ``before`` and ``after`` a cube stands next to
    the port.
    """

    port_class: str
    direction: Direction = "both"
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class Placed:
    """Where the cube stands. Most cubes set only :attr:`inward` and :attr:`outward`."""

    core: ClassVar[bool] = False
    """A forwarding cube of the middle; all others are transparent cubes of a stack."""
    inward: ClassVar[frozenset[str]] = frozenset()
    """Port classes on whose packets ``KIND_inward`` can run."""
    outward: ClassVar[frozenset[str]] = frozenset()
    per_packet: ClassVar[frozenset[str]] = frozenset()
    """Port classes of which ``KIND_packet`` sees every packet of a flow that enters or leaves by
    them: ``__u16 KIND_packet(struct __sk_buff *skb, const struct cubelet_headers *h, struct
    cubelet_flow *flow)`` gives 0 to let it pass, or the reason to drop it. It is called once for a
    packet, also between two such ports and whatever the placement's direction: ``flow->enters`` and
    ``flow->leaves`` say which ports they are. The packet is as it entered, not rewritten yet. What
    has no flow is not seen: frames that are not IP, floods, ICMP errors, answers of cubes."""
    early: ClassVar[bool] = False
    """On the uplink's stack it sees every IP packet from there before anything else does, the
    host's own traffic and tunnels' outer packets too: ``__u16 KIND_early(const struct
    cubelet_early *e)`` gives 0 to let it pass, or the reason to drop it. It runs in XDP where the
    only uplink's driver has it, else at the head of uplinks' programs: there packets that the
    kernel has put together (GRO) come as one, and none comes that is shorter than it claims. It may
    use maps and send an :attr:`event`. For a deadline that Python sets or reads,
    ``bpf_ktime_get_ns()`` has the clock of ``time.monotonic_ns()``."""
    mirrors: ClassVar[bool] = False
    """``KIND_inward`` and ``KIND_outward`` may call ``KIND_mirror(pkt, ifindex)``: a copy of each
    packet of the flow, of both directions and as it entered, goes to the pod behind that port of
    this node as well. It changes no verdict and opens no flow, and takes 24 of the 64 bytes that a
    flow has for cubes. Whose packets may be copied to whom is the cube's to see to: see the
    contract."""
    floods: ClassVar[bool] = False
    """A core cube that returns ``cubelet_flood``: its array ``KIND_flood_ports`` (of the record
    ``FloodPort`` with ``ifindex``, ``address`` and ``segment``) lists where to; 0 ends it."""
    admits: ClassVar[bool] = False
    """Defines ``int KIND_admits(skb, pkt, const struct cubelet_addr *pod)``: may a flooded IP
    packet reach the pod? While such a cube stands on pods' ports policies are in force, and
    ``CUBELET_POLICED`` is 1: core cubes then let nothing pass that it would not see."""
    placement: ClassVar[tuple[Placement, ...]] = ()
    """Where the cube joins every composition once it is installed, unless the configuration
    excludes it or places it itself. Empty: it joins only where the configuration places it. Names
    of cubes that are not there are passed over."""
    essential: ClassVar[bool] = False
    """The node must not run without it. If an essential cube fails, the new composition is given up
    and the running one stays; it runs on as it was in force, though its package breaks or is
    removed, until the configuration excludes it. Any other cube that fails runs on as it was in
    force too, if that was another version; else it is quarantined with its reason, and the
    composition goes on without it."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Kinds that must be in the composition for this one to work."""

    @classmethod
    def places(cls) -> frozenset[str]:
        """The port classes on whose stacks the cube has something to do."""
        early = frozenset({"uplink"}) if cls.early else frozenset()
        return cls.inward | cls.outward | cls.per_packet | early
