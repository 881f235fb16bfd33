"""The findings of a check, and the report of all checks of one cube."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Literal

State = Literal["passed", "failed", "not checked"]


@dataclass(frozen=True)
class Finding:
    """One error: its message, its remedy and, if known, its file and line."""

    message: str
    remedy: str
    file: str = ""
    line: int = 0

    @property
    def place(self) -> str:
        """``file:line``, or as much of it as there is."""
        return ":".join([self.file, *([str(self.line)] if self.line else [])])


@dataclass(frozen=True)
class Verified:
    """How many instructions of a program the verifier went through (``verified_insns``)."""

    composition: str
    program: str
    instructions: int


class UncheckedError(Exception):
    """The check cannot be made here; the text says why, and what it needs."""


@dataclass(frozen=True)
class Result:
    """The result of one check. ``reason`` says why it, or a part of it, could not be made."""

    check: str
    findings: tuple[Finding, ...] = ()
    reason: str = ""

    @property
    def state(self) -> State:
        """``failed`` if there are findings, also where the rest could not be checked."""
        if self.findings:
            return "failed"
        return "not checked" if self.reason else "passed"


@dataclass
class Report:
    """The results of all checks of one cube, or of a package that offers none."""

    kind: str
    source: str
    results: list[Result] = field(default_factory=list)
    programs: list[Verified] = field(default_factory=list)

    @property
    def findings(self) -> Iterator[tuple[str, Finding]]:
        """All findings, each with the name of its check."""
        return ((each.check, finding) for each in self.results for finding in each.findings)

    @property
    def unchecked(self) -> bool:
        """Whether some check could not be made."""
        return any(each.reason for each in self.results)
