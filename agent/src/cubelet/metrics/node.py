"""Metrics of the agent as a whole; none of them reads a map."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib.metadata import version

from prometheus_client import Metric
from prometheus_client.core import GaugeMetricFamily, InfoMetricFamily

from cubelet.control.reconciler import Reconciler
from cubelet.cubes.discovery import Discovery
from cubelet.sources.feed import Feed

_PLACES = (
    *(
        "composition",
        "configuration",
        "cni",
        "cube",
        "early",
        "facts",
        "maps",
        "mode",
        "node",
        "pass",
        "plans",
    ),
    *("port", "rejected", "routes", "runtime", "source", "sweep", "uplinks"),
)
"""Places of problems; each is a sample, 0 if it has none."""
_LONGEST = 120
"""Characters of a reason that a label keeps."""


class NodeMetrics:
    """The families of the agent as a whole.

    ``refused`` gives the reason why the configuration is not in force, ``passing_since`` the start
    of the pass under way in monotonic seconds.
    """

    def __init__(
        self,
        source: str,
        feed: Feed,
        reconciler: Reconciler,
        discovery: Discovery,
        refused: Callable[[], str],
        passing_since: Callable[[], float | None],
    ) -> None:
        self._source = source
        self._feed = feed
        self._reconciler = reconciler
        self._discovery = discovery
        self._refused = refused
        self._passing_since = passing_since

    def families(self) -> Iterator[Metric]:
        """All families."""
        yield InfoMetricFamily("cubelet_build", "What runs.", {"version": version("cubelet")})
        yield from self._composition()
        yield _plugins(self._discovery.rows(self._kinds()))
        yield _problems(self._problem_counts())
        yield _of_source("synced", "Whether all that it held was known once.", self._at_source(0))
        yield _of_source("away", "Whether it cannot be reached now.", self._at_source(1))
        yield GaugeMetricFamily(
            "cubelet_ports_attached",
            "Pods that are attached.",
            len(self._reconciler.ports.attached),
        )
        since = self._passing_since()
        running = 0.0 if since is None else time.monotonic() - since
        yield GaugeMetricFamily(
            "cubelet_pass_running_seconds", "How long the pass under way has run.", running
        )

    def _at_source(self, which: int) -> tuple[str, bool]:
        return self._source, (self._feed.synced, self._feed.away)[which]

    def _kinds(self) -> list[str]:
        return [cube.kind for cube in self._reconciler.switchover.cubes]

    def _composition(self) -> Iterator[Metric]:
        composition = self._reconciler.switchover.composition
        if composition is not None:
            cubes = ",".join(cube.instance for cube in composition.cubes)
            told = {
                "mode": composition.mode,
                "identity": self._reconciler.datapath.identity,
                "cubes": cubes,
            }
            yield InfoMetricFamily("cubelet_composition", "What is composed.", told)

    def _problem_counts(self) -> Mapping[str, int]:
        places = (place.partition(" ")[0] for place in self._reconciler.problems)
        return Counter(places) + Counter(
            source=len(self._feed.problems),
            configuration=int(bool(self._refused())),
            rejected=len(self._reconciler.rejected) + len(self._reconciler.complaints),
            cube=len(self._discovery.quarantined()),
            mode=int(bool(self._reconciler.switchover.modes.problem)),
        )


def _of_source(name: str, text: str, told: tuple[str, bool]) -> Metric:
    family = GaugeMetricFamily(
        f"cubelet_source_{name}", f"Where objects come from: {text}", labels=("source",)
    )
    family.add_metric([told[0]], int(told[1]))
    return family


def _problems(counts: Mapping[str, int]) -> Metric:
    family = GaugeMetricFamily(
        "cubelet_problems", "Problems as cubelet status has them, by place.", labels=("place",)
    )
    for place in (*_PLACES, *sorted(counts.keys() - set(_PLACES))):
        family.add_metric([place], counts.get(place, 0))
    return family


def _plugins(rows: Iterable[Mapping[str, object]]) -> Metric:
    labels = ("kind", "distribution", "version", "state")
    family = InfoMetricFamily(
        "cubelet_plugin", "Installed cubes, and why one is quarantined.", labels=labels
    )
    for row in rows:
        reason = " ".join(str(row["reason"]).split())[:_LONGEST]
        family.add_metric([str(row[label]) for label in labels], {"reason": reason})
    return family
