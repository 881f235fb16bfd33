"""A cube's own metrics for a monitoring system, beside those that the agent has of every cube.

    class Quota(Cube):
        kind = "quota"
        metrics = (
            Metric("budget_bytes", "gauge", "Bytes a pod may still send today.", ("pod",)),
            Metric("resets", "counter", "Times that budgets began anew."),
        )

        def collect(self, read, view):
            for key, budget in read("budgets").items():
                yield Sample("budget_bytes", budget.left, (str(key.address),))
            yield Sample("resets", sum(each.resets for each in read("budgets").values()))

An agent whose setting ``metrics`` names an address answers there at ``/metrics``, with
``cubelet_quota_budget_bytes{instance="quota0",pod="10.1.0.2"}`` and
``cubelet_quota_resets_total{instance="quota0"}`` among the rest. Drops are counted by reason, and
the maps' entries by map, for every cube: neither needs a metric of its own.

Names and units follow https://prometheus.io/docs/practices/naming/: seconds and bytes, and the
unit at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MetricKind = Literal["counter", "gauge"]
"""A counter only grows as long as its map lives; a gauge is a current value."""


@dataclass(frozen=True)
class Metric:
    """A family of samples, called ``cubelet_KIND_NAME`` where it is read.

    ``name`` and ``labels`` are lower-case words joined by ``_``. A counter's name gets ``_total``
    at its end; do not write it. Every sample also has the label ``instance``. A label must have
    few values, that do not change with each packet: monitoring systems keep each for ever.
    """

    name: str
    kind: MetricKind
    help: str
    labels: tuple[str, ...] = ()


@dataclass(frozen=True)
class Sample:
    """A value of the metric called ``metric``; ``labels`` are values in its labels' order."""

    metric: str
    value: float
    labels: tuple[str, ...] = ()
