"""`cubelet lab demo`: a cluster of two nodes, real traffic, and a table of the results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from cubelet.console.output import table
from cubelet.ipc.client import call
from cubelet.lab import cluster
from cubelet.lab.demo.checks import Row, Topology
from cubelet.lab.demo.checks import run as run_checks
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import read_documents
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.lab.objects import Objects

MANIFESTS = Path(__file__).with_name("demo.yaml")


class Report(msgspec.Struct, frozen=True):
    """The demo's results; `composition` has each node's composition, as its agent reports it."""

    checks: list[Row]
    composition: dict[str, dict[str, Any]]
    seconds: float

    @property
    def ok(self) -> bool:
        """Whether every check holds."""
        return all(row.ok for row in self.checks)

    def text(self) -> str:
        """The table, the compositions and the verdict."""
        headers = ("CHECK", "EXPECTED", "SEEN", "OK", "TIME")
        rows = [
            (r.check, r.expected, r.seen, "yes" if r.ok else "NO", f"{r.seconds * 1000:.1f} ms")
            for r in self.checks
        ]
        failed = sum(not row.ok for row in self.checks)
        verdict = f"{len(rows)} checks hold" if not failed else f"{failed} of {len(rows)} fail"
        return "\n".join(
            [
                table(headers, rows),
                "",
                *(_composition(*item) for item in self.composition.items()),
                f"{verdict}, {self.seconds:.1f} s in all",
            ]
        )


def run(layout: Layout, mode: str, tell: Callable[[str], None], *, api: bool = False) -> Report:
    """Build the demo's lab, run its checks and remove it, whatever happens."""
    began = time.monotonic()
    spec = LabSpec(layout.name, plan_nodes(2, ()), {"composition": mode}, api)
    with _running(layout, spec, tell):
        tell("creating pods, Services and policies")
        _apply(layout, spec)
        tell("sending real traffic")
        rows = run_checks(Topology(layout, spec).checks())
        compositions = {
            node.name: call(str(layout.socket(node.name)), "composition") for node in spec.nodes
        }
        rows.append(_cost(compositions, mode))
        tell("tearing down")
    return Report(rows, compositions, round(time.monotonic() - began, 1))


@contextmanager
def _running(layout: Layout, spec: LabSpec, tell: Callable[[str], None]) -> Iterator[None]:
    with cluster.interruptible():
        cluster.up(layout, spec, tell)
        try:
            yield
        finally:
            cluster.down(layout)


def _apply(layout: Layout, spec: LabSpec) -> None:
    outcomes = Objects(layout, spec).apply(read_documents(MANIFESTS))
    failed = [f"{o.key}: {o.detail}" for o in outcomes if o.done == "failed"]
    if failed:
        raise LabError("the demo's objects cannot be created", "\n".join(failed))


def _cost(compositions: dict[str, dict[str, Any]], mode: str) -> Row:
    """The row with a packet's cost: it holds if every node runs `mode` and has measured it."""
    seen = ", ".join(
        f"{c.get('mode')} {c.get('cost_ns', 'not measured')}" for c in compositions.values()
    )
    ok = all(c.get("mode") == mode and c.get("cost_ns") for c in compositions.values())
    return Row("cost per established packet (ns)", f"{mode}, measured", seen, ok, 0.0)


def _composition(node: str, composition: dict[str, Any]) -> str:
    stacks = "; ".join(
        f"{port_class}: {', '.join(stack) or 'none'}"
        for port_class, stack in composition.get("stacks", {}).items()
    )
    return f"{node}: {composition.get('mode')}, {stacks}"
