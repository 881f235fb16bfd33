"""Makes the checks of a cube."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from cubelet.check.findings import Finding, Report, Result, UncheckedError
from cubelet.check.limits import EndlessError
from cubelet.check.places import raised
from cubelet.check.registry import CHECKS, Check
from cubelet.check.subject import Subject, Unusable, find
from cubelet.check.workbench import Workbench


def check(text: str, checks: Sequence[Check] = CHECKS) -> Iterator[Report]:
    """A report on each cube of a folder, or on the installed one of a kind. Raises CommandError."""
    for each in find(text):
        if isinstance(each, Unusable):
            result = Result("loading", (each.finding,))
            yield Report(each.point.name, "", [result])
        else:
            yield check_cube(each, checks)


def check_cube(subject: Subject, checks: Sequence[Check] = CHECKS) -> Report:
    """Make the checks of one cube."""
    report = Report(subject.cube.kind, str(subject.source))
    with Workbench(subject) as bench:
        for each in checks:
            report.results.append(_result(each, bench))
        report.programs += bench.verified
    return report


def _result(check: Check, bench: Workbench) -> Result:
    found: list[Finding] = []
    try:
        if bench.endless:
            raise UncheckedError(f"{bench.endless} does not end")
        found.extend(check.run(bench))
    except EndlessError as error:
        bench.endless = error.question or check.name
        found.append(raised(error, bench.cube, bench.endless, ""))
    except UncheckedError as error:
        return Result(check.name, tuple(dict.fromkeys(found)), str(error))
    return Result(check.name, tuple(dict.fromkeys(found)))
