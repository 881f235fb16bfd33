"""Checks that programs give every frame a known verdict, and every drop a known reason."""

from __future__ import annotations

from collections.abc import Iterator

from cubelet.bpf.testrun import TestRun, one_cpu, skb_context
from cubelet.check.compositions import Wanted
from cubelet.check.ctokens import declared
from cubelet.check.findings import Finding
from cubelet.check.frames import Entry, entries, frames
from cubelet.check.workbench import Workbench
from cubelet.composer.core import TRACE, Trace
from cubelet.datapath.drops import Reasons
from cubelet.testkit.datapath import VERDICTS, Datapath

_PUNTED, _KEPT = 3, 4
"""How a packet left, in ``Trace.sent``: it was handed to a cube's Python, or is a fragment that
waits for its first, and so is no drop."""
_BROKEN = frozenset(("jump", "helper"))
"""Drop reasons of the core that only a broken program leads to."""


def check(bench: Workbench) -> Iterator[Finding]:
    """Send every frame into every composition by every port."""
    for wanted, datapath in bench.datapaths():
        with one_cpu():
            yield from _problems(bench, wanted, datapath)


def _problems(bench: Workbench, wanted: Wanted, datapath: Datapath) -> Iterator[Finding]:
    trace = datapath.maps[f"cubelet_{TRACE.name}"]
    floods = any(cube.floods for cube in datapath.composition.core)
    seen = set()
    for entry in entries(datapath.network):
        program, context = datapath.programs.entries[entry.port_class], _context(entry)
        for frame in frames(entry):
            trace.update(bytes(4), bytes(TRACE.size))
            run = program.test_run(frame, 1, context)
            left = Trace.unpack(trace.lookup(bytes(4)) or bytes(TRACE.size))
            problem = _problem(run, left, datapath.reasons, floods)
            if problem and problem not in seen:
                seen.add(problem)
                message = f"{wanted.name}: {problem}, of {frame.hex()} by {entry.port_class}"
                yield Finding(message, "give one of verdict.h's answers", *_entry(bench))


def _context(entry: Entry) -> bytes:
    return skb_context(ifindex=entry.ifindex)


def _problem(run: TestRun, left: Trace, reasons: Reasons, floods: bool) -> str:
    """The error in a verdict; empty for none.

    The original of a flooded frame has no trace, since only its copies are sent.
    """
    verdict = run.retval - (1 << 32) if run.retval >> 31 else run.retval
    if verdict not in VERDICTS:
        return f"the program answers {verdict}"
    if left.reason not in reasons:
        return f"dropped for the reason {left.reason}, which is nobody's"
    reason = reasons[left.reason]
    if reason.cube == "core" and reason.name in _BROKEN:
        return f"dropped for core/{reason.name}: {reason.text}"
    elsewhere = left.sent in (_PUNTED, _KEPT)
    unexplained = not left.reason and not elsewhere and (left.verdict or not floods)
    if VERDICTS[verdict] == "drop" and unexplained:
        return "dropped without a reason"
    return ""


def _entry(bench: Workbench) -> tuple[str, int]:
    """File and line of the cube's first entry function."""
    source, names = bench.subject.source, ("inward", "outward", "packet", "early")
    functions = {f"{bench.cube.kind}_{name}" for name in names}
    lines = (each.line for each in declared(source.read_text()) if each.text in functions)
    return str(source), next(lines, 0)
