"""Checks that the C compiles and passes the verifier, in each way of joining cubes."""

from __future__ import annotations

from collections.abc import Iterator

from cubelet.check.findings import Finding, UncheckedError, Verified
from cubelet.check.places import raised
from cubelet.check.workbench import Tried, Workbench
from cubelet.composer.errors import CompileError


def check(bench: Workbench) -> Iterator[Finding]:
    """Compile every composition, and count the verified instructions of those that load."""
    for each in bench.tried():
        if each.error is not None:
            yield _failure(bench, each, each.error)
        elif each.datapath is not None:
            programs = each.datapath.programs
            named = {**{f"cubelet_{k}": v for k, v in programs.entries.items()}, **programs.others}
            bench.verified += [
                Verified(each.wanted.name, name, program.info().verified_insns)
                for name, program in named.items()
            ]
    if bench.obstacles:
        raise UncheckedError("; ".join(bench.obstacles))


def _failure(bench: Workbench, tried: Tried, error: Exception) -> Finding:
    name = tried.wanted.name
    if isinstance(error, CompileError):
        source = bench.subject.source
        file = str(source) if error.file == source.name else error.file
        remedy = "mend it there" if error.cube == bench.cube.kind else "it runs without this cube"
        return Finding(f"{name}: {error.message}", remedy, file, error.line)
    return raised(error, bench.cube, "source", f"{name}: mend it there")
