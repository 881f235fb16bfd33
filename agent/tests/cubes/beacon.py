"""A cube that uses all that a cube can have in the agent."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, ClassVar

from cubelet_hooks.context import Context, Packet
from cubelet_hooks.cube import Cube, Entry, Reason, Settings, Unit
from cubelet_hooks.ends import EndedFlow
from cubelet_hooks.flows import Index
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, LocalNode, Object, Port
from cubelet_hooks.records import U32, U64, Addr, Be16, Record
from cubelet_hooks.view import View

BAD_PORT = 666
"""Events of this port are answered with an exception."""


class Opened(Record):
    """A flow, by who opened it and to which port."""

    source: Addr
    port: Be16


class Source(Record):
    """Who sends."""

    address: Addr


class Until(Record):
    """A second."""

    second: U32


class Tally(Record):
    """Flows."""

    flows: U64


class BeaconSettings(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How many events may be sent in a second, and how often it ticks."""

    rate: int = 1_000_000
    every: float = 0.0
    ends: int = 0


class Beacon(Cube):
    """Keeps what it is told in ``told``, ``packets``, ``ticks``, ``left`` and
    ``over``, of all instances."""

    kind = "beacon"
    inward = frozenset({"pod"})
    reasons = (Reason("blocked", "the source is blocked"),)
    settings_type = BeaconSettings
    settings: BeaconSettings
    event = Opened
    events_per_second = "rate"
    event_bytes = 1 << 20
    punts = True
    every = "every"
    ended = "ends"
    gone = frozenset({Port.kind})
    maps = (
        Map(
            "blocked",
            MapType.LRU_HASH,
            Source,
            Until,
            64,
            planned=False,
            concerns=lambda key, value: key.address,
        ),
        Map("seen", MapType.PERCPU_ARRAY, Index, Tally, 2, planned=False),
        Map("wanted", MapType.HASH, Index, Tally, 8),
    )
    told: ClassVar[list[tuple[str, Opened]]] = []
    packets: ClassVar[list[Packet]] = []
    left: ClassVar[list[tuple[str, int]]] = []
    over: ClassVar[list[tuple[str, EndedFlow]]] = []
    ticks: ClassVar[list[tuple[str, int]]] = []

    @classmethod
    def source(cls) -> Path:
        """Beside the tests."""
        return Path(__file__).parent / "bpf" / "beacon.bpf.c"

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """One, of the node."""
        return (("own",),) if change.kind == LocalNode.kind else ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """One entry."""
        yield Entry("wanted", Index(1), Tally(7))

    def on_event(self, event: Any, context: Context) -> None:
        """Keep it, or fail."""
        self.told.append((self.instance, event))
        if event.port == BAD_PORT:
            raise RuntimeError("a bad port")

    def on_packet(self, packet: Packet, context: Context) -> None:
        """Keep it, and send it back with its MACs swapped."""
        self.packets.append(packet)
        frame = packet.frame
        context.send(frame[6:12] + frame[:6] + frame[12:], packet.ifindex)

    def on_tick(self, context: Context) -> None:
        """Keep how many are blocked."""
        self.ticks.append((self.instance, len(context.table("blocked"))))

    def on_ended(self, flow: EndedFlow, context: Context) -> None:
        """Keep it, or fail."""
        self.over.append((self.instance, flow))
        if flow.sent.dport == BAD_PORT:
            raise RuntimeError("a bad port")

    def on_gone(self, gone: Object, context: Context) -> None:
        """Keep its device."""
        assert isinstance(gone, Port)
        self.left.append((self.instance, gone.ifindex))
