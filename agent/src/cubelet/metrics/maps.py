"""Metrics that are read from maps: drops, flows, and how full the tables are."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from cubelet.bpf.constants import MapType
from cubelet.bpf.layout import split_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.composer.layout import MapSpec
from cubelet.composer.mirrors import COPIES
from cubelet.control.reconciler import Reconciler
from cubelet.datapath.drops import Reasons, drop_rows
from cubelet.datapath.flows import TABLES, FlowSweeper
from cubelet_hooks.flows import Counter, Index

_COUNTED = frozenset({MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.LPM_TRIE})
"""Types that fill up; an array is always full."""
_COUNTABLE = 65_536
"""The largest size of a map whose entries are counted one by one, at up to 1 µs each."""


class MapMetrics:
    """The families of the composition in force. ``reasons`` names its drop reasons."""

    def __init__(self, reconciler: Reconciler, reasons: Callable[[], Reasons]) -> None:
        self._reconciler = reconciler
        self._reasons = reasons

    def drops(self) -> Iterable[Metric]:
        """Dropped packets by cube, drop reason, and port class they entered by."""
        maps = self._reconciler.datapath.maps
        return drop_families(drop_rows(maps, self._reasons()) if maps else [])

    def flows(self) -> Iterable[Metric]:
        """Flow records by state, as the last sweep found them."""
        return flow_families(self._reconciler.switchover.sweeper)

    def copies(self) -> Iterable[Metric]:
        """Packets that were to be copied for cubes."""
        table = self._reconciler.datapath.maps.get(f"cubelet_{COPIES}")
        return copy_families(table)

    def fill(self) -> Iterable[Metric]:
        """Entries and size of every map that can be full."""
        datapath = self._reconciler.datapath
        specs = datapath.compiled.specs if datapath.compiled else ()
        counts = {**self._reconciler.wanted_entries, **_swept(self._reconciler.switchover.sweeper)}
        return fill_families(specs, datapath.maps, counts)


def drop_families(rows: Iterable[Mapping[str, object]]) -> Iterable[Metric]:
    """Packets and bytes of rows as ``monitor.drop_rows`` gives them."""
    labels = ("cube", "reason", "class")
    packets = CounterMetricFamily("cubelet_dropped_packets", "Packets dropped.", labels=labels)
    size = CounterMetricFamily("cubelet_dropped_bytes", "Bytes of packets dropped.", labels=labels)
    for row in rows:
        values = [str(row[label]) for label in labels]
        packets.add_metric(values, float(str(row["packets"])))
        size.add_metric(values, float(str(row["bytes"])))
    return packets, size


def copy_families(table: BpfMap | None) -> Iterator[Metric]:
    """Copies that were sent, and that were not; no samples while no cube mirrors."""
    family = CounterMetricFamily(
        "cubelet_flow_copies",
        "Copies of packets for pods that a cube has named, by what became of them.",
        labels=("result",),
    )
    for slot, result in enumerate(("sent", "lost")):
        raw = table.lookup(Index(slot).pack()) if table else None
        if table is None or raw is None:
            continue
        cpus = (Counter.unpack(each) for each in split_cpus(raw, table.layout))
        family.add_metric([result], sum(each.packets for each in cpus))
    yield family


def flow_families(sweeper: FlowSweeper | None) -> Iterator[Metric]:
    """Flow records by state; a connection has two."""
    family = GaugeMetricFamily(
        "cubelet_flow_records",
        "Flow records by state, of which a connection has two, as of the last sweep.",
        labels=("state",),
    )
    last = sweeper.last if sweeper else None
    for state, count in last.states.items() if last else ():
        family.add_metric([state], count)
    yield family
    yield GaugeMetricFamily(
        "cubelet_flow_table_used_ratio",
        "Replied connections, of those that have room, as of the last sweep.",
        last.used if last else 0,
    )


def _swept(sweeper: FlowSweeper | None) -> Mapping[str, int]:
    """The flow tables' entries as of the last sweep: the tables are too large to count here."""
    return sweeper.last.tables if sweeper and sweeper.last else {}


def fill_families(
    specs: Iterable[MapSpec], maps: Mapping[str, BpfMap], known: Mapping[str, int]
) -> Iterable[Metric]:
    """Entries and sizes of maps: entries from ``known``, by C name, or counted in small maps."""
    labels = ("instance", "map")
    entries = GaugeMetricFamily(
        "cubelet_map_entries",
        "Entries of a map: those wanted where the agent fills it, else those found.",
        labels=labels,
    )
    limits = GaugeMetricFamily(
        "cubelet_map_max_entries", "Entries that a map has room for.", labels=labels
    )
    for spec in specs:
        table = maps.get(spec.c_name)
        if table is None or spec.layout.type not in _COUNTED:
            continue
        place = ["core" if spec.owner == "cubelet" else spec.owner, spec.name]
        limits.add_metric(place, spec.layout.max_entries)
        count = known.get(spec.c_name)
        if count is None and spec.layout.max_entries <= _COUNTABLE and spec.c_name not in TABLES:
            count = sum(1 for _ in table.items())
        if count is not None:
            entries.add_metric(place, count)
    return entries, limits
