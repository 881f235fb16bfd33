"""Puts ``/metrics`` together for an agent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from cubelet.bpf.maps import BpfMap
from cubelet.control.reconciler import Reconciler
from cubelet.cubes.context import Counts
from cubelet.cubes.discovery import Discovery
from cubelet.datapath.drops import Monitor
from cubelet.datapath.records import reader_of
from cubelet.datapath.thread import OnDatapath
from cubelet.metrics.cubes import CubeMetrics, callback_families
from cubelet.metrics.maps import MapMetrics
from cubelet.metrics.node import NodeMetrics
from cubelet.metrics.page import Page
from cubelet.metrics.recorder import Recorder
from cubelet.sources.feed import Feed
from cubelet_hooks.view import View


@dataclass(frozen=True)
class Sources:
    """The parts of the agent that metrics are read from.

    ``counts`` gives the counts of events and packets by instance, ``refused`` the reason why the
    configuration is not in force, ``passing_since`` the start of the pass under way in monotonic
    seconds, None between passes.
    """

    name: str
    feed: Feed
    reconciler: Reconciler
    discovery: Discovery
    monitor: Monitor
    view: View
    counts: Callable[[], Mapping[str, Counts]]
    refused: Callable[[], str]
    passing_since: Callable[[], float | None]


def make_page(sources: Sources, on_datapath: OnDatapath) -> tuple[Recorder, Page]:
    """The recorder of events, and the page; ``on_datapath`` runs the sections that read maps."""
    reconciler, recorder = sources.reconciler, Recorder()
    node = NodeMetrics(
        sources.name,
        sources.feed,
        reconciler,
        sources.discovery,
        sources.refused,
        sources.passing_since,
    )

    def table(name: str) -> BpfMap:
        return reconciler.datapath.maps[name]

    maps = MapMetrics(reconciler, lambda: sources.monitor.reasons)
    own = CubeMetrics(
        lambda: reconciler.switchover.cubes,
        lambda cube: reader_of(cube, table),
        sources.view,
        recorder,
    )
    of_maps = {
        "drops": maps.drops,
        "flows": maps.flows,
        "copies": maps.copies,
        "maps": maps.fill,
        "callbacks": lambda: callback_families(sources.counts()),
        "cubes": own.families,
    }
    return recorder, Page(recorder, {"agent": node.families}, of_maps, on_datapath)
