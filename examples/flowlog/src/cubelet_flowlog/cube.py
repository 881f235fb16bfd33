"""The flowlog cube: a record of each flow that opens, with its pods' names, sampled.

It stands next to every port, inward and outward: a packet that it sees on the way out has been
allowed by all other cubes. What happens to packets is in ``bpf/flowlog.bpf.c``; this module turns
events into records (:mod:`cubelet_flowlog.lines`), for the agent's log or a file.
"""

from __future__ import annotations

import json
import time
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from itertools import count
from typing import Any, ClassVar

from cubelet_flowlog.lines import Line, clock_offset, describe, describe_end
from cubelet_flowlog.names import Names
from cubelet_flowlog.records import Fields, How, Mark, Told, What
from cubelet_flowlog.settings import Settings
from cubelet_flowlog.writer import Writer
from cubelet_hooks import cube
from cubelet_hooks.context import Context
from cubelet_hooks.cube import PORT_CLASSES, Cube, Placement, Read
from cubelet_hooks.ends import EndedFlow
from cubelet_hooks.flows import Index
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.metrics import Metric, Sample
from cubelet_hooks.objects import Object, Pod
from cubelet_hooks.records import Family, Record
from cubelet_hooks.view import View

RECENT = 1_000
"""Records that ``cubelet flowlog tail`` can still show."""
MAX_CPUS = 256
"""CPUs on which denied packets are reported: the size of the array of marks, by CPU number."""
SETTLED = 1_000_000_000
"""Nanoseconds after which a packet whose mark is still there counts as denied: judging takes far
less than this second."""
LOOK = 0.5
"""Seconds between two looks for such marks."""


class Flowlog(Cube):
    """Reports flows and never decides about them."""

    kind: ClassVar[str] = "flowlog"
    inward: ClassVar[frozenset[str]] = frozenset(PORT_CLASSES)
    outward: ClassVar[frozenset[str]] = frozenset(PORT_CLASSES)
    per_packet: ClassVar[frozenset[str]] = frozenset(PORT_CLASSES)
    placement: ClassVar[tuple[Placement, ...]] = tuple(map(Placement, PORT_CLASSES))
    specialised_by: ClassVar[frozenset[str] | None] = frozenset()
    settings_type: ClassVar[type[cube.Settings]] = Settings
    settings: Settings
    maps: ClassVar[tuple[Map, ...]] = (
        Map("marks", MapType.ARRAY, Index, Mark, MAX_CPUS, planned=False),
    )
    flow_fields: ClassVar[type[Record] | None] = Fields
    event: ClassVar[type[Record] | None] = Told
    events_per_second: ClassVar[int | str] = "rate"
    ended: ClassVar[int | str] = "ends"
    every: ClassVar[float | str] = LOOK
    gone: ClassVar[frozenset[str]] = frozenset({Pod.kind})
    commands: ClassVar[str] = "cubelet_flowlog.commands:app"
    metrics: ClassVar[tuple[Metric, ...]] = (
        Metric("records", "counter", "Records made, by what they tell of a flow.", ("event",)),
        Metric("lost_records", "counter", "Records that could not be written to the file."),
    )

    def __init__(self, instance: str, settings: cube.Settings, family: Family = 4) -> None:
        super().__init__(instance, settings, family)
        told = self.settings
        self._writer = Writer(told.file, told.max_bytes, told.files) if told.file else None
        self._names = Names()
        self._recent: deque[tuple[int, Line]] = deque(maxlen=RECENT)
        # Numbers also grow from one composition to the next, so that ``tail --follow`` misses none.
        self._numbers = count(time.monotonic_ns())
        self._made: Counter[What] = Counter()
        self._settled: dict[int, int] = {}
        self._complained = ""

    def defines(self, view: View) -> Mapping[str, int]:
        """The numbers of :class:`What` and :class:`How` by name, and the settings.

        Without an interval ``KIND_packet`` compiles to nothing; without sampling there is no hash.
        """
        numbers = {str(each.name): int(each) for each in (*What, *How)}
        chosen = self.settings
        return numbers | {
            "MARKS": int(chosen.denied),
            "SAMPLE": chosen.sample,
            "INTERVAL": chosen.interval,
            "NAMES": int(chosen.names),
            "ENDS": int(bool(chosen.ends)),
        }

    def on_event(self, event: Told, context: Context) -> None:
        """Record an event of the C, unless it is of a denied packet that a tick came first to."""
        if event.time not in self._settled.values():
            self._record(event, context)

    def _record(self, told: Told, context: Context) -> None:
        line = describe(told, context.view, clock_offset(), self._names)
        self._write(What(told.what), line, context)

    def on_ended(self, flow: EndedFlow, context: Context) -> None:
        """Record the end of a flow that was chosen when it was opened."""
        if flow.fields is not None and flow.fields.counting:
            line = describe_end(flow, context.view, time.time_ns(), self._names)
            self._write(What.ENDED, line, context)

    def _write(self, what: What, line: Line, context: Context) -> None:
        self._made[what] += 1
        self._recent.append((next(self._numbers), line))
        if self._writer is None:
            context.log.info("flow", **{"flow_event" if k == "event" else k: line[k] for k in line})
            return
        self._writer.write(json.dumps(line, separators=(",", ":")))
        self._complain(self._writer.error, context)

    def _complain(self, error: str, context: Context) -> None:
        """Log an error of the file once, and again when it is another one."""
        if error and error != self._complained:
            context.log.warning(
                "flow records are lost",
                error=error,
                remedy="make the folder, mounted where the agent sees it, or change `file`",
            )
        self._complained = error

    def on_tick(self, context: Context) -> None:
        """Record denied packets whose marks no later packet on their CPUs has replaced."""
        now = time.monotonic_ns()
        for index, mark in dict(context.table("marks")).items():
            known = self._settled.get(index.index) == mark.time
            if not mark.time or known or now - mark.time < SETTLED:
                continue
            self._settled[index.index] = mark.time
            arrived, enters = mark.arrived, mark.enters
            denied = Told(mark.time, 0, 0, arrived, arrived, enters, enters, What.DENIED, 0)
            self._record(denied, context)

    def on_gone(self, gone: Object, context: Context) -> None:
        """Go on naming the pod: what is told of its connections may come later."""
        if isinstance(gone, Pod):
            self._names.gone(gone)

    def answer(self, method: str, params: Mapping[str, Any], context: Context) -> object:
        """``records``: those after the number ``after``, oldest first; ``status``: what it does."""
        if method == "records":
            after = int(params.get("after", 0))
            return [[number, dict(line)] for number, line in self._recent if number > after]
        if method == "status":
            return self._status()
        return super().answer(method, params, context)

    def _status(self) -> Mapping[str, object]:
        writer, chosen = self._writer, self.settings
        status: dict[str, object] = {
            "sample": chosen.sample,
            "denied": chosen.denied,
            "interval": chosen.interval,
            "names": chosen.names,
            "ends": chosen.ends,
            **{f"records {what.name.lower()}": self._made[what] for what in What},
            "file": chosen.file,
        }
        if writer:
            status |= {"written": writer.written, "lost": writer.lost, "error": writer.error}
        return status

    def collect(self, read: Read, view: View) -> Iterable[Sample]:
        """Numbers of records since this configuration took over, and of those lost for the file."""
        for what in What:
            yield Sample("records", self._made[what], (what.name.lower(),))
        yield Sample("lost_records", self._writer.lost if self._writer else 0)


@hookimpl
def cubelet_cubes() -> Sequence[type[Cube]]:
    """The one cube of this package."""
    return [Flowlog]
