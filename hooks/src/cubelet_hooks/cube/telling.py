"""What a cube's C sends to its Python: events, and whole packets."""

from __future__ import annotations

from typing import Any, ClassVar

from cubelet_hooks.context import Context, Packet
from cubelet_hooks.records import Record


class Telling:
    """Set :attr:`event` to send records, :attr:`punts` to hand packets over."""

    event: ClassVar[type[Record] | None] = None
    """The record that the cube's C sends to :meth:`on_event`: ``struct KIND_event``, sent by
    ``KIND_emit(&event)``. Initialise it whole, ``struct KIND_event event = {};``, because its
    padding is copied too."""
    events_per_second: ClassVar[int | str] = 1_000
    """How many events each CPU may send per second, or the name of the setting with that number;
    the others are counted as lost."""
    event_bytes: ClassVar[int | str] = 262_144
    """How many bytes of events may wait for the agent, or the name of the setting with that
    number."""
    punts: ClassVar[bool] = False
    """The cube hands packets to its Python: ``return KIND_punt(skb, pkt);`` in ``KIND_inward`` or
    ``KIND_outward`` ends the packet there and leads to :meth:`on_packet`. No flow is made of it.
    Frames of over 2,048 bytes are dropped for ``core/punt_too_long``; those over the rate, or that
    find no room in the ring buffer, for ``core/rate_limited``."""
    packets_per_second: ClassVar[int | str] = 100
    """How many packets each CPU may hand over per second, or the name of the setting with that
    number."""
    packet_bytes: ClassVar[int | str] = 262_144
    """How many bytes of packets may wait for the agent, or the name of the setting with that
    number. Each packet takes 2,064 bytes, whatever its length."""

    def on_event(self, event: Any, context: Context) -> None:
        """Handle one :attr:`event` that the C has sent; events of one CPU come in their order.

        Must not block. An exception is logged once and counted, and the next event comes. State
        in ``self`` is lost when the configuration changes: keep in a map what has to stay.
        """

    def on_packet(self, packet: Packet, context: Context) -> None:
        """Handle one packet that the C has handed over (:attr:`punts`), by the rules of events.

        To answer a pod from Python: ``context.send(answer_to(packet.frame), packet.ifindex)``.
        """
