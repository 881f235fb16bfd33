"""What Prometheus reads: written and read again by its own library, as the agent serves it."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar, cast

import pytest
from prometheus_client import Metric as Family
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.openmetrics.parser import (
    text_string_to_metric_families as open_metrics_families,
)
from prometheus_client.parser import text_string_to_metric_families

from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.layout import MapLayout
from cubelet.cni.relay import Reply
from cubelet.composer.layout import MapSpec
from cubelet.cubes.context import Counts
from cubelet.cubes.declarations import OWN_METRICS
from cubelet.datapath.flows import SweepResult
from cubelet.ipc.client import AgentError
from cubelet.metrics.cubes import CubeMetrics, callback_families
from cubelet.metrics.maps import copy_families, drop_families, fill_families, flow_families
from cubelet.metrics.meters import metered
from cubelet.metrics.node import NodeMetrics
from cubelet.metrics.page import Page
from cubelet.metrics.recorder import Recorder
from cubelet.state.cluster import State
from cubelet_hooks.cube import Cube, Read, Settings
from cubelet_hooks.flows import Counter, Index
from cubelet_hooks.metrics import Metric, Sample
from cubelet_hooks.view import View

PAGE = Path(__file__).parents[3] / "docs/metrics.md"
_ROW = re.compile(r"^\| `(cubelet_\w+)` \|", re.MULTILINE)
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]
"""Values by name and ordered labels."""


def samples(families: Iterable[Family]) -> Samples:
    return {
        (each.name, tuple(sorted(each.labels.items()))): each.value
        for family in families
        for each in family.samples
    }


def at(found: Samples, name: str, **labels: str) -> float | None:
    return found.get((name, tuple(sorted(labels.items()))))


async def at_once(work: Callable[..., Any], *arguments: Any) -> Any:
    return work(*arguments)


def rendered(page: Page, accept: str = "") -> Samples:
    body, content_type = asyncio.run(page.render(accept))
    parse = text_string_to_metric_families
    if accept:
        assert content_type.startswith("application/openmetrics-text")
        parse = open_metrics_families
    else:
        assert content_type.startswith("text/plain")
    return samples(parse(body.decode()))


def gauge(name: str, value: float) -> Callable[[], Iterable[Family]]:
    return lambda: [GaugeMetricFamily(name, "A test's.", value)]


def broken() -> Iterable[Family]:
    raise OSError("a map has gone")


# The page


@pytest.mark.parametrize("accept", ["", "application/openmetrics-text; version=1.0.0"])
def test_a_part_that_fails_is_left_out_counted_and_logged_once(
    accept: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = Page(Recorder(), {"a": gauge("a", 1), "b": broken}, {"c": gauge("c", 3)}, at_once)
    for times in (1, 2):
        found = rendered(page, accept)
        assert (at(found, "a"), at(found, "c")) == (1, 3)
        failures = at(found, "cubelet_cube_collect_failures_total", instance="b")
        assert failures == times
    assert capsys.readouterr().out.count("a map has gone") == 1


def test_it_has_the_processs_own_figures_and_no_creation_times() -> None:
    found = rendered(Page(Recorder(), {}, {}, at_once))
    assert (at(found, "process_resident_memory_bytes") or 0) > 1 << 20
    assert at(found, "cubelet_recompositions_total") == 0
    assert not [name for name, _ in found if name.endswith("_created")]


def test_it_is_answered_while_maps_cannot_be_read() -> None:
    numbers = iter(range(10))

    async def run() -> list[float | None]:
        busy, loop = threading.Event(), asyncio.get_running_loop()

        async def on_datapath(work: Callable[..., Any], *arguments: Any) -> Any:
            await asyncio.to_thread(busy.wait)
            return await loop.run_in_executor(None, work, *arguments)

        def count() -> Iterable[Family]:
            return gauge("maps", next(numbers))()

        page = Page(
            Recorder(), {"now": gauge("now", 1)}, {"maps": count}, on_datapath, patience=0.05
        )

        async def maps() -> float | None:
            found = samples(text_string_to_metric_families((await page.render())[0].decode()))
            assert at(found, "now") == 1
            return at(found, "maps")

        first = await maps()  # nothing has been read yet
        busy.set()
        second = await maps()
        together = await asyncio.gather(maps(), maps(), maps())
        busy.clear()
        stale = await maps()
        busy.set()
        return [first, second, *together, stale]

    first, second, *together, stale = asyncio.run(asyncio.wait_for(run(), 4))
    assert (first, second) == (None, 0)
    assert together == [1, 1, 1]  # one reading for all
    assert stale == 1


# Cubes' own


class Quota(Cube):
    """Says what a test puts into it."""

    kind = "quota"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("left_bytes", "gauge", "Bytes left.", ("pod",)),
        Metric("resets", "counter", "Times it began anew."),
    )
    given: ClassVar[dict[str, Any]] = {}

    def collect(self, read: Read, view: View) -> Iterator[Sample]:
        yield from self.given[self.instance](read, view)


def quotas(given: Mapping[str, Callable[[Read, View], Iterable[Sample]]]) -> Page:
    Quota.given = dict(given)
    cubes = [Quota(name, Settings()) for name in given]
    recorder = Recorder()

    def read(cube: Cube) -> Read:
        return lambda name: {f"{cube.instance}/{name}": 5}

    own = CubeMetrics(lambda: cubes, read, State(), recorder)
    return Page(recorder, {}, {"cubes": own.families}, at_once)


def sound(read: Read, view: View) -> Iterator[Sample]:
    for pod, left in read("budgets").items():
        yield Sample("left_bytes", left, (pod,))
    yield Sample("resets", 2)


def test_a_cubes_metrics_have_its_kind_and_its_instance() -> None:
    found = rendered(quotas({"quota0": sound, "quota1": sound}))
    own = {key: value for key, value in found.items() if key[0].startswith("cubelet_quota_")}
    assert own == {
        ("cubelet_quota_left_bytes", (("instance", name), ("pod", f"{name}/budgets"))): 5
        for name in ("quota0", "quota1")
    } | {("cubelet_quota_resets_total", (("instance", n),)): 2 for n in ("quota0", "quota1")}


def breaks_off(read: Read, view: View) -> Iterator[Sample]:
    yield Sample("resets", 1)
    raise KeyError("budgets")


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (breaks_off, "KeyError('budgets')"),
        (lambda r, v: [Sample("rests", 1)], "rests is none of left_bytes, resets"),
        (lambda r, v: [Sample("left_bytes", 1)], "the labels (pod), a sample has the values ()"),
        (lambda r, v: [Sample("resets", 1), Sample("resets", 2)], "resets has two samples"),
        (
            lambda r, v: [Sample("resets", cast("float", "many"))],
            "could not convert string to float",
        ),
        (
            lambda r, v: (Sample("left_bytes", 1, (str(n),)) for n in range(10_001)),
            "more than 10000 samples",
        ),
    ],
)
def test_an_instance_that_fails_costs_nobody_elses_metrics(
    bad: Any, reason: str, capsys: pytest.CaptureFixture[str]
) -> None:
    page = quotas({"quota0": bad, "quota1": sound})
    for times in (1, 2):
        found = rendered(page)
        assert at(found, "cubelet_quota_resets_total", instance="quota1") == 2
        assert at(found, "cubelet_quota_resets_total", instance="quota0") is None
        failures = at(found, "cubelet_cube_collect_failures_total", instance="quota0")
        assert failures == times
    out = capsys.readouterr().out
    assert (out.count("no metrics"), reason in out) == (1, True)
    Quota.given["quota0"] = sound
    assert at(rendered(page), "cubelet_quota_resets_total", instance="quota0") == 2
    Quota.given["quota0"] = bad
    rendered(page)
    assert capsys.readouterr().out.count("no metrics") == 1  # it has failed anew


def test_what_cubes_were_told_is_counted() -> None:
    found = samples(callback_families({"guard0": Counts(9, 8, 7, 6, 5, 4, 3, 2, 1)}))
    names = (
        *("events", "packets", "ticks", "gone", "ended", "failures"),
        *("lost_events", "lost_packets", "lost_ended"),
    )
    told = [at(found, f"cubelet_cube_{name}_total", instance="guard0") for name in names]
    assert told == [9, 8, 7, 6, 5, 4, 3, 2, 1]


# Maps


def test_drops_are_counted_by_whose_reason_it_is() -> None:
    row = {"cube": "firewall", "reason": "ingress_denied", "class": "pod", "text": "denied"}
    found = samples(drop_families([{**row, "packets": 3, "bytes": 180}]))
    labels = {"cube": "firewall", "reason": "ingress_denied", "class": "pod"}
    assert at(found, "cubelet_dropped_packets_total", **labels) == 3
    assert at(found, "cubelet_dropped_bytes_total", **labels) == 180


def test_flows_are_as_the_last_sweep_found_them() -> None:
    result = SweepResult(3, 0, {"established": 2, "new": 1}, {}, {}, 0.25)
    sweeper: Any = SimpleNamespace(last=result)
    found = samples(flow_families(sweeper))
    assert at(found, "cubelet_flow_records", state="established") == 2
    assert at(found, "cubelet_flow_table_used_ratio") == 0.25
    assert samples(flow_families(None)) == {("cubelet_flow_table_used_ratio", ()): 0}


def test_copies_are_counted_over_all_cpus() -> None:
    layout = MapLayout(MapType.PERCPU_ARRAY, 4, Counter.layout().size, 2, MapFlags.NONE)
    counted = {0: (7, 5), 1: (0, 1)}

    def lookup(key: bytes) -> bytes:
        cpus = counted[Index.unpack(key).index]
        return b"".join(Counter(packets, 1500 * packets).pack() for packets in cpus)

    table: Any = SimpleNamespace(layout=layout, lookup=lookup)
    found = samples(copy_families(table))
    assert at(found, "cubelet_flow_copies_total", result="sent") == 12
    assert at(found, "cubelet_flow_copies_total", result="lost") == 1
    assert samples(copy_families(None)) == {}


def spec(owner: str, name: str, type_: MapType, size: int) -> MapSpec:
    return MapSpec(owner, name, MapLayout(type_, 4, 4, size, MapFlags.NONE), "")


def test_how_full_maps_are_is_known_counted_or_not_told() -> None:
    specs = [
        spec("cubelet", "flows", MapType.HASH, 1 << 18),
        spec("lbrp0", "backends", MapType.HASH, 1 << 18),
        spec("bridge0", "learned", MapType.LRU_HASH, 4096),
        spec("bridge0", "ports", MapType.ARRAY, 256),
        spec("big0", "seen", MapType.LRU_HASH, 1 << 20),
        spec("gone0", "seen", MapType.HASH, 16),
    ]
    held: Any = SimpleNamespace(items=lambda: [(b"a", b"b")] * 7)
    maps = {each.c_name: held for each in specs[:-1]}
    found = samples(fill_families(specs, maps, {"cubelet_flows": 100, "lbrp0_backends": 9}))
    assert found == {
        (f"cubelet_map_{name}", (("instance", owner), ("map", of))): value
        for owner, of, entries, most in (
            ("core", "flows", 100, 1 << 18),
            ("lbrp0", "backends", 9, 1 << 18),
            ("bridge0", "learned", 7, 4096),
            ("big0", "seen", None, 1 << 20),
        )
        for name, value in (("entries", entries), ("max_entries", most))
        if value is not None
    }


# The agent


def node(**changed: Any) -> NodeMetrics:
    composition = SimpleNamespace(mode="fused", cubes=[SimpleNamespace(kind="nat", instance="nat")])
    reconciler = SimpleNamespace(
        switchover=SimpleNamespace(
            composition=composition,
            cubes=composition.cubes,
            modes=SimpleNamespace(problem="fused it is refused"),
        ),
        ports=SimpleNamespace(attached=["shop/c"]),
        datapath=SimpleNamespace(identity="3f2a"),
        problems={"port shop/a": "no", "port shop/b": "no", "maps": "full"},
        rejected=["a"],
        complaints={"b"},
    )
    row = {"kind": "nat", "distribution": "cubelet-nat", "version": "1"}
    rows = [
        {**row, "state": "active", "reason": ""},
        {**row, "kind": "odd", "state": "quarantined", "reason": "a\nb " + 200 * "c"},
    ]
    discovery = SimpleNamespace(rows=lambda active: rows, quarantined=lambda: {"odd": "a"})
    parts: dict[str, Any] = {
        "feed": SimpleNamespace(synced=True, away=False, problems=["x.yaml: no"]),
        "reconciler": reconciler,
        "discovery": discovery,
        "refused": lambda: "",
        "passing_since": lambda: None,
    }
    return NodeMetrics("manifests", **{**parts, **changed})


def test_the_agent_tells_what_it_runs_and_what_is_wrong() -> None:
    found = samples(node().families())
    composed = {"mode": "fused", "identity": "3f2a", "cubes": "nat"}
    assert at(found, "cubelet_composition_info", **composed) == 1
    problems = {dict(labels)["place"]: n for (m, labels), n in found.items() if "problems" in m}
    assert problems == dict.fromkeys(problems, 0) | {
        "port": 2,
        "maps": 1,
        "rejected": 2,
        "source": 1,
        "cube": 1,
        "mode": 1,
    }
    assert {"pass", "composition", "configuration"} <= problems.keys()
    assert at(found, "cubelet_ports_attached") == 1
    assert at(found, "cubelet_source_synced", source="manifests") == 1
    assert at(found, "cubelet_source_away", source="manifests") == 0
    plugins = [dict(labels) for name, labels in found if name == "cubelet_plugin_info"]
    (odd,) = (each for each in plugins if each["kind"] == "odd")
    assert (odd["state"], odd["reason"][:4], len(odd["reason"])) == ("quarantined", "a b ", 120)


def test_it_tells_of_a_refused_configuration_and_a_pass_that_hangs() -> None:
    found = samples(node(refused=lambda: "no", passing_since=lambda: 0.0).families())
    assert at(found, "cubelet_problems", place="configuration") == 1
    assert (at(found, "cubelet_pass_running_seconds") or 0) > 0


def test_a_node_that_has_composed_nothing_yet_says_no_more_than_that() -> None:
    nothing = SimpleNamespace(
        switchover=SimpleNamespace(composition=None, cubes=(), modes=SimpleNamespace(problem="")),
        ports=SimpleNamespace(attached=[]),
        problems={},
        rejected=[],
        complaints=(),
    )
    found = samples(node(reconciler=nothing).families())
    assert not [name for name, _ in found if "composition" in name]


def test_names_are_the_agents_own() -> None:
    recorder = Recorder()
    families = (
        *node().families(),
        *recorder.collect(),
        *drop_families([]),
        *flow_families(None),
        *copy_families(None),
        *fill_families([], {}, {}),
        *callback_families({}),
    )
    for family in families:
        prefix, word = family.name.split("_")[:2]
        assert (prefix, word in OWN_METRICS) == ("cubelet", True), family.name
    suffixes = {"counter": "_total", "info": "_info"}
    names = {family.name + suffixes.get(family.type, "") for family in families}
    assert set(_ROW.findall(PAGE.read_text())) == names


def test_passes_and_cni_calls_are_counted_as_they_end() -> None:
    recorder = Recorder()
    for seconds in (0.004, 0.4, 100):
        recorder.passed(seconds)
    recorder.recomposed()

    async def call(command: str, reply: Reply) -> Reply:
        async def handle(params: Mapping[str, Any]) -> Reply:
            return reply

        return await metered(handle, recorder)({"env": {"CNI_COMMAND": command}})

    asyncio.run(call("ADD", Reply(0, {"ips": []})))
    asyncio.run(call("ADD", Reply(1, {"code": 11, "msg": "later"})))
    asyncio.run(call("DANCE", Reply(1, {"code": 4})))
    found = samples(recorder.collect())
    assert at(found, "cubelet_pass_duration_seconds_count") == 3
    assert at(found, "cubelet_pass_duration_seconds_bucket", le="0.005") == 1
    assert at(found, "cubelet_recompositions_total") == 1
    counted = [
        at(found, "cubelet_cni_call_duration_seconds_count", command=command, code=code)
        for command, code in (("ADD", "0"), ("ADD", "11"), ("unknown", "4"), ("DANCE", "4"))
    ]
    assert counted == [1, 1, 1, None]


def test_a_cni_call_that_is_none_is_passed_on() -> None:
    async def refuse(params: Mapping[str, Any]) -> Reply:
        raise AgentError(1, "no such protocol")

    async def call() -> Reply:
        return await metered(refuse, Recorder())({})

    with pytest.raises(AgentError, match="no such protocol"):
        asyncio.run(call())


def test_an_agent_without_metrics_does_not_import_the_library() -> None:
    code = "import sys, cubelet.daemon.agent; print('prometheus_client' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stdout == "False\n", done.stderr
