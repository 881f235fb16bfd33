"""Metrics by instance: those that cubes declare (``Cube.metrics``), and counts of callbacks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from cubelet.cubes.context import Counts
from cubelet.metrics.recorder import Recorder
from cubelet_hooks import metrics as hooks
from cubelet_hooks.cube import Cube, Read
from cubelet_hooks.view import View

_MOST = 10_000
"""Samples that one instance may give: more would burden Prometheus."""

Samples = list[tuple[str, tuple[str, ...], float]]
"""Metric, label values, value."""


class BadSampleError(Exception):
    """A cube gave a sample that does not match its declared metrics."""


class CubeMetrics:
    """The families of all instances in force, without the samples of one that fails."""

    def __init__(
        self,
        cubes: Callable[[], Sequence[Cube]],
        read: Callable[[Cube], Read],
        view: View,
        recorder: Recorder,
    ) -> None:
        self._cubes = cubes
        self._read = read
        self._view = view
        self._recorder = recorder

    def families(self) -> Iterable[Metric]:
        """One family for each declared metric, with the samples of all instances of the kind."""
        families: dict[str, Metric] = {}
        for cube in self._cubes():
            if not cube.metrics:
                continue
            found = {each.name: _family(cube, each, families) for each in cube.metrics}
            for name, labels, value in self._samples(cube):
                found[name].add_metric((cube.instance, *labels), value)  # type: ignore[attr-defined]
        return families.values()

    def _samples(self, cube: Cube) -> Samples:
        try:
            samples = checked(cube.metrics, cube.collect(self._read(cube), self._view))
        except Exception as error:  # a cube's bug must not hide the samples of others
            self._recorder.failed(cube.instance, error)
            return []
        self._recorder.worked(cube.instance)
        return samples


def _family(cube: Cube, metric: hooks.Metric, families: dict[str, Metric]) -> Metric:
    make = CounterMetricFamily if metric.kind == "counter" else GaugeMetricFamily
    name = f"cubelet_{cube.kind}_{metric.name}"
    if name not in families:
        families[name] = make(name, metric.help, labels=("instance", *metric.labels))
    return families[name]


def checked(metrics: Iterable[hooks.Metric], samples: Iterable[hooks.Sample]) -> Samples:
    """The samples, if each is of a declared metric and given once. Raises BadSampleError."""
    declared: Mapping[str, hooks.Metric] = {each.name: each for each in metrics}
    found: dict[tuple[str, tuple[str, ...]], float] = {}
    for sample in samples:
        metric = declared.get(sample.metric)
        if metric is None:
            raise BadSampleError(f"{sample.metric} is none of {', '.join(declared)}")
        labels = tuple(map(str, sample.labels))
        if len(labels) != len(metric.labels):
            raise BadSampleError(
                f"{metric.name} has the labels ({', '.join(metric.labels)}), "
                f"a sample has the values ({', '.join(labels)})"
            )
        if (metric.name, labels) in found:
            raise BadSampleError(f"{metric.name} has two samples with the labels {labels}")
        found[metric.name, labels] = float(sample.value)
        if len(found) > _MOST:
            raise BadSampleError(f"there are more than {_MOST} samples")
    return [(name, labels, value) for (name, labels), value in found.items()]


def callback_families(counts: Mapping[str, Counts]) -> Iterable[Metric]:
    """What instances' Python was called for, and the events and packets that were lost."""
    texts = {
        "events": "Events that a cube's Python was told of.",
        "packets": "Packets that were handed to a cube's Python.",
        "ticks": "Times that a cube's Python was called because they were due.",
        "gone": "Objects of whose end a cube's Python was told.",
        "ended": "Flows of whose end a cube's Python was told.",
        "failures": "Calls at which a cube's Python failed.",
        "lost_events": "Events beyond the cube's rate, or without room.",
        "lost_packets": "Packets for a cube's Python beyond its rate, or without room.",
        "lost_ended": "Flows' ends beyond the rate, or without room.",
    }
    for name, text in texts.items():
        family = CounterMetricFamily(f"cubelet_cube_{name}", text, labels=("instance",))
        for instance, each in counts.items():
            family.add_metric([instance], getattr(each, name))
        yield family
