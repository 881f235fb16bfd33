"""What a cube's Python is called for: events and packets of its C, the time, and what goes."""

from __future__ import annotations

from typing import Any, ClassVar

from cubelet_hooks.context import Context, Packet
from cubelet_hooks.ends import EndedFlow
from cubelet_hooks.objects import Object
from cubelet_hooks.records import Record


class Telling:
    """Set :attr:`event` to send records, :attr:`punts` to hand packets over, :attr:`every` for what
    is due at times, :attr:`gone` to hear of what goes."""

    settings: Any

    event: ClassVar[type[Record] | None] = None
    """The record that the cube's C sends to :meth:`on_event`: ``struct KIND_event``, sent by
    ``KIND_emit(&event)``. Initialise it whole, ``struct KIND_event event = {};``, because its
    padding is copied too."""
    events_per_second: ClassVar[int | str] = 1_000
    """How many events the node may send per second, as many at once, or the name of the setting
    with that number; the others are counted as lost."""
    event_bytes: ClassVar[int | str] = 262_144
    """How many bytes of events may wait for the agent, or the name of the setting with that
    number."""
    punts: ClassVar[bool] = False
    """The cube hands packets to its Python: ``return KIND_punt(skb, pkt);`` in ``KIND_inward`` or
    ``KIND_outward`` ends the packet there and leads to :meth:`on_packet`. No flow is made of it.
    Frames of over 2,048 bytes are dropped for ``core/punt_too_long``; those over the rate, or that
    find no room in the ring buffer, for ``core/rate_limited``."""
    packets_per_second: ClassVar[int | str] = 100
    """How many packets the node may hand over per second, as many at once, or the name of the
    setting with that number."""
    packet_bytes: ClassVar[int | str] = 262_144
    """How many bytes of packets may wait for the agent, or the name of the setting with that
    number. Each packet takes 2,064 bytes, whatever its length."""

    every: ClassVar[float | str] = 0
    """Seconds between two calls of :meth:`on_tick`, 0.1 to 86,400, or the name of the setting with
    that number; 0: none."""

    gone: ClassVar[frozenset[str]] = frozenset()
    """The kinds of objects of whose end :meth:`on_gone` is told, such as ``Port`` for pods that are
    detached from this node: built-in ones, or in :attr:`Planned.watches`."""

    ended: ClassVar[int | str] = 0
    """How many flows' ends the node may tell :meth:`on_ended` of in a second, or the name of the
    setting with that number; 0: none. The others are counted as lost. If another cube wants more,
    this one is told of more."""

    @property
    def tick_seconds(self) -> float:
        """The seconds that :attr:`every` stands for under the instance's settings."""
        chosen = self.every
        return float(getattr(self.settings, chosen) if isinstance(chosen, str) else chosen)

    def on_event(self, event: Any, context: Context) -> None:
        """Handle one :attr:`event` that the C has sent; events of one CPU come in their order.

        Must not block. An exception is logged once and counted, and the next event comes. State
        in ``self`` is lost when the configuration changes: keep in a map what has to stay.
        """

    def on_packet(self, packet: Packet, context: Context) -> None:
        """Handle one packet that the C has handed over (:attr:`punts`), by the rules of events.

        To answer a pod from Python: ``context.send(answer_to(packet.frame), packet.ifindex)``.
        """

    def on_ended(self, flow: EndedFlow, context: Context) -> None:
        """A flow that had been answered has ended; by the rules of events.

        It comes when the flow's records are forgotten: of a closed connection some seconds after,
        of an idle one with a sweep (from Linux 5.13 on; before, of closed ones alone). As many are
        told of those a sweep finds as of those that programs forget. What an LRU table evicts
        is not told.
        """

    def on_tick(self, context: Context) -> None:
        """Do what is due :attr:`every` so many seconds, by the rules of events.

        The first call comes that long after the instance has joined the composition; a change of
        the composition does not begin to wait anew. What the agent could not call in time is called
        once. A tick is followed by 20 times its own duration at least, so that all of them take
        5 % of the thread at most. Without an agent, or while :meth:`Planned.needed_on` names no
        place, nothing is called.
        """

    def on_gone(self, gone: Object, context: Context) -> None:
        """An object of a kind in :attr:`gone` is no more; by the rules of events.

        It comes after the pass that took the object's planned entries out of the maps, with the
        object as it was last: deleted, or replaced by another one of its name (a pod of another
        UID, an attachment by another device). What goes while no agent runs, or while the cube is
        not composed, is not told: entries that are about planned ones better go by
        ``Map.follows``, which misses nothing.
        """
