"""Counts events of the agent in objects of prometheus_client."""

from __future__ import annotations

from collections.abc import Iterator

import structlog
from prometheus_client import Counter, Histogram, Metric, disable_created_metrics

log = structlog.get_logger()

_PASS_BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0)
"""Seconds; a pass over one change takes milliseconds, one that compiles takes seconds."""
_CNI_BUCKETS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 20.0)
"""Seconds; runtimes wait longer than the last bucket."""


class Recorder:
    """Implements ``cubelet.metrics.meters.Meters``; its counters start at 0 with the agent."""

    def __init__(self) -> None:
        # Counters start with the agent, so process_start_time_seconds replaces their _created.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._passes = Histogram(
            "cubelet_pass_duration_seconds",
            "How long passes took that bring the node up to what has changed.",
            buckets=_PASS_BUCKETS,
            registry=None,
        )
        self._recompositions = Counter(
            "cubelet_recompositions",
            "Times that another composition took over, the first one included.",
            registry=None,
        )
        self._cni = Histogram(
            "cubelet_cni_call_duration_seconds",
            "How long CNI calls took, by command and by the error code of the answer (0: none).",
            ("command", "code"),
            buckets=_CNI_BUCKETS,
            registry=None,
        )
        self._failures = Counter(
            "cubelet_cube_collect_failures",
            "Times that metrics could not be had of an instance, or of a part of the agent.",
            ("instance",),
            registry=None,
        )
        self._failing: set[str] = set()

    def passed(self, seconds: float) -> None:
        """A pass has ended after so many seconds."""
        self._passes.observe(seconds)

    def recomposed(self) -> None:
        """Another composition has taken over."""
        self._recompositions.inc()

    def answered(self, command: str, code: int, seconds: float) -> None:
        """A CNI call has been answered: with this error code, 0 for a success."""
        self._cni.labels(command, str(code)).observe(seconds)

    def failed(self, instance: str, error: Exception) -> None:
        """Count a failure of an instance's metrics; the first of several in a row is logged."""
        self._failures.labels(instance).inc()
        if instance not in self._failing:
            log.error("no metrics", instance=instance, error=repr(error))
        self._failing.add(instance)

    def worked(self, instance: str) -> None:
        """An instance's metrics were read without an error."""
        self._failing.discard(instance)

    def collect(self) -> Iterator[Metric]:
        """The families of all counted events."""
        for each in (self._passes, self._recompositions, self._cni, self._failures):
            yield from each.collect()
