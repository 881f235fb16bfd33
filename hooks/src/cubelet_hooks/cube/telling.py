"""What a cube's C sends to its Python: events, and whole packets."""

from __future__ import annotations

from typing import Any, ClassVar

from cubelet_hooks.context import Context, Packet
from cubelet_hooks.records import Record


class Telling:
    """Set :attr:`event` to send records, :attr:`punts` to hand packets over."""

    event: ClassVar[type[Record] | None] = None
    """What the cube's C tells its Python: ``struct KIND_event``, sent by ``KIND_emit(&event)``, is
    the argument of :meth:`on_event`. Initialise it whole, ``struct KIND_event event = {};``: its
    padding is copied too."""
    events_per_second: ClassVar[int | str] = 1_000
    """How many events a CPU may send, or the name of the setting that says so; the others are
    counted as lost."""
    event_bytes: ClassVar[int | str] = 262_144
    """How many bytes of events may wait for the agent, or the name of the setting that says so."""
    punts: ClassVar[bool] = False
    """The cube hands packets to its Python: ``return KIND_punt(skb, pkt);`` in ``KIND_inward`` or
    ``KIND_outward`` ends the packet there and leads to :meth:`on_packet`. No flow is made of it.
    Frames of over 2,048 bytes are dropped for ``core/punt_too_long``, those over the rate, or for
    which there is no room, for ``core/rate_limited``."""
    packets_per_second: ClassVar[int | str] = 100
    """How many packets a CPU may hand over, or the name of the setting that says so."""
    packet_bytes: ClassVar[int | str] = 262_144
    """How many bytes of packets may wait for the agent (each takes 2,064 of them, whatever its
    length), or the name of the setting that says so."""

    def on_event(self, event: Any, context: Context) -> None:
        """The C has sent an :attr:`event`; called for each, in the order of each CPU.

        Must not block. What it raises is logged once and counted, and the next event comes. State
        kept in ``self`` ends when the configuration changes: keep in a map what has to stay.
        """

    def on_packet(self, packet: Packet, context: Context) -> None:
        """The C has handed over a packet (:attr:`punts`); called for each, under the same rules.

        Answering a pod from Python, say, is
        ``context.send(answer_to(packet.frame), packet.ifindex)``.
        """
