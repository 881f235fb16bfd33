"""The checks, in the order in which they are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from cubelet.check import (
    answers,
    callbacks,
    calls,
    helpers,
    leftovers,
    metadata,
    names,
    packets,
    plans,
    programs,
    reasons,
    samples,
    settings,
)
from cubelet.check.findings import Finding
from cubelet.check.workbench import Workbench

Run = Callable[[Workbench], Iterable[Finding]]


@dataclass(frozen=True)
class Check:
    """One check. Its ``run`` gives findings; it raises UncheckedError for what cannot be checked.

    Those that are ``compiled`` need root and BCC.
    """

    name: str
    run: Run
    compiled: bool = False


CHECKS = (
    Check("metadata", metadata.check),
    Check("settings", settings.check),
    Check("names", names.check),
    Check("helpers", helpers.check),
    Check("reasons", reasons.check),
    Check("metrics", samples.check),
    Check("plans", plans.check),
    Check("programs", programs.check, compiled=True),
    Check("calls", calls.check, compiled=True),
    Check("packets", packets.check, compiled=True),
    Check("answers", answers.check, compiled=True),
    Check("callbacks", callbacks.check, compiled=True),
    Check("leftovers", leftovers.check, compiled=True),
)
