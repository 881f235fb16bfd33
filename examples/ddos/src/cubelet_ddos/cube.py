"""The ddos cube: drops unwanted sources of the uplink before anything else sees their packets.

What happens to packets is in ``bpf/ddos.bpf.c``. The lists are planned from the settings, the
cluster's Nodes and Blocklists. Temporary blocks are made by the datapath itself and by operators,
with ``cubelet ddos block``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

from cubelet_ddos import control, lists, show
from cubelet_ddos.networks import parse
from cubelet_ddos.records import (
    Block,
    Bucket,
    Cause,
    Flooder,
    Packets,
    Prefix,
    Present,
    RateLimit,
    Source,
    bits_of,
    prefix,
)
from cubelet_ddos.settings import Settings
from cubelet_hooks import cube
from cubelet_hooks.context import Context
from cubelet_hooks.cube import Cube, Entry, Placement, Read, Reason, Row, Unit
from cubelet_hooks.flows import Index
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.metrics import Metric, Sample
from cubelet_hooks.objects import Change, LocalNode, Node
from cubelet_hooks.records import Network, Record
from cubelet_hooks.resources import Resource
from cubelet_hooks.view import View

SECOND = 1_000_000_000
"""Nanoseconds."""


class Ddos(Cube):
    """Drops sources that are listed, that an operator blocks, or that send too much."""

    kind: ClassVar[str] = "ddos"
    early: ClassVar[bool] = True
    placement: ClassVar[tuple[Placement, ...]] = (Placement("uplink"),)
    # Whether there is a rate limit is compiled in; only the settings say so.
    specialised_by: ClassVar[frozenset[str] | None] = frozenset()
    settings_type: ClassVar[type[cube.Settings]] = Settings
    settings: Settings
    # In the order of Cause.
    reasons: ClassVar[tuple[Reason, ...]] = (
        Reason("listed", "its source is in a Blocklist or in the setting block"),
        Reason("blocked", "its source was blocked by an operator, for a time"),
        Reason("rate", "its source has sent more than the setting rate allows"),
    )
    # They concern no cached verdict, since the cube sees every packet, established or not.
    maps: ClassVar[tuple[Map, ...]] = (
        Map("allowed", MapType.LPM_TRIE, Prefix, Present, "max_prefixes"),
        Map("limits", MapType.ARRAY, Index, RateLimit, 1),
        Map("listed", MapType.LPM_TRIE, Prefix, Present, "max_prefixes"),
        Map("blocked", MapType.LRU_HASH, Source, Block, "max_blocked", planned=False),
        Map("buckets", MapType.LRU_HASH, Source, Bucket, "max_sources", planned=False),
        Map("spared", MapType.PERCPU_ARRAY, Index, Packets, len(Cause), planned=False),
    )
    event: ClassVar[type[Record] | None] = Flooder
    events_per_second: ClassVar[int | str] = 10
    watches: ClassVar[tuple[Resource, ...]] = (lists.BLOCKLIST,)
    shows: ClassVar[Mapping[str, str]] = {"blocked": "blocked", "blocklists": "listed"}
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("blocked_sources", "gauge", "Addresses that are blocked for a time.", ("cause",)),
        Metric("listed_prefixes", "gauge", "Prefixes in Blocklists and in the setting block."),
        Metric(
            "spared_packets", "counter", "Packets let pass for the allowlist alone.", ("cause",)
        ),
    )
    commands: ClassVar[str] = "cubelet_ddos.commands:app"

    def defines(self, view: View) -> Mapping[str, int]:
        """Numbers of causes, and whether there is a rate limit; its height is in a map."""
        return {
            "ADDRESS_BITS": bits_of(self.family),
            "BY_OPERATOR": Cause.OPERATOR,
            "BY_RATE": Cause.RATE,
            "RATE_LIMITED": int(self.settings.rate > 0),
        }

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """Each Node and Blocklist, and ``("local",)``: the settings and this node's addresses."""
        if change.kind == LocalNode.kind:
            return [("local",)]
        if change.kind in (Node.kind, lists.BLOCKLIST.kind):
            return [(change.kind, change.key)]
        return ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """Entries for allowed and listed networks, and for the rate limit."""
        if unit == ("local",):
            return dict.fromkeys(self._plan_local(view))
        if unit[0] == Node.kind:
            node = view.nodes.get(unit[1])
            return self._entries("allowed", lists.hosts(node.addresses) if node else ())
        blocklist = view.custom(lists.BLOCKLIST.kind).get(unit[1])
        return self._entries("listed", lists.content(blocklist).networks if blocklist else ())

    def _plan_local(self, view: View) -> Iterator[Entry]:
        chosen = self.settings
        limits = RateLimit(chosen.block_seconds * SECOND, chosen.rate, chosen.depth)
        yield Entry("limits", Index(0), limits)
        yield from self._entries("listed", map(parse, chosen.block))
        yield from self._entries("allowed", map(parse, chosen.allow))
        if view.local is not None:
            yield from self._entries("allowed", lists.hosts(view.local.addresses))

    def _entries(self, name: str, networks: Iterable[Network]) -> Iterable[Entry]:
        return dict.fromkeys(
            Entry(name, prefix(each), Present(1))
            for each in networks
            if each.version == self.family
        )

    def rows(self, noun: str, read: Read, view: View) -> Iterable[Row]:
        """The dropped sources with their causes, or the Blocklists."""
        if noun == "blocklists":
            return show.blocklists(view)
        return show.blocked(read, self.settings, view, control.now())

    def collect(self, read: Read, view: View) -> Iterable[Sample]:
        """Numbers of blocked sources, listed networks, and packets that the allowlist let in."""
        return show.samples(read, control.now())

    def on_event(self, event: Flooder, context: Context) -> None:
        """Log a source that was blocked for its rate; of many at once some events are lost."""
        seconds = self.settings.block_seconds
        context.log.warning("over the rate", source=str(event.source), seconds=seconds)

    def answer(self, method: str, params: Mapping[str, Any], context: Context) -> object:
        """``block``, ``unblock`` and ``list``, for the commands."""
        handle = control.METHODS.get(method)
        if handle is None:
            return super().answer(method, params, context)
        return handle(control.Control(self.settings, self.family, context), params)


@hookimpl
def cubelet_cubes() -> Sequence[type[Cube]]:
    """The one cube of this package."""
    return [Ddos]
