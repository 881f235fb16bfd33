"""Runs of the fuzzer: cases one after another, what they break, and the shortest way to it."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from .cluster import LOCAL_PODS
from .conversations import Step
from .known import KNOWN
from .machine import WAYS, Machine
from .oracle import Oracle, Violation
from .traffic import Traffic

CASE = 400
"""Steps before the datapath begins afresh: enough for flows' lives, few enough to be told."""
_ATTEMPTS = 400


@dataclass(frozen=True)
class Failure:
    """A violation, the case that showed it first, and the steps that are enough for it."""

    violation: Violation
    seed: int
    case: int
    mode: str
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        head = f"{self.violation.name}: {self.violation.text}"
        again = f"./dev fuzz --seed {self.seed} --case {self.case} --mode {self.mode}"
        return "\n".join([head, f"  again: {again}", *map(_line, self.steps)])


def _line(step: Step) -> str:
    if step.frame:
        return f"  {step.entry}: {step.frame.hex()}"
    return f"  {step.entry} {step.choice} {' '.join(map(str, step.keys))}".rstrip()


@dataclass
class Report:
    """What a campaign has seen. ``known`` counts violations that are expected."""

    frames: int = 0
    seconds: float = 0.0
    failures: list[Failure] = field(default_factory=list)
    known: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)


class Run:
    """One machine and its model, from a fresh start."""

    def __init__(self, machine: Machine) -> None:
        machine.reset()
        self._machine = machine
        self.oracle = Oracle(machine)
        self.outcome = ""

    def take(self, step: Step) -> list[Violation]:
        """Do a step; what it violates."""
        if step.frame:
            try:
                out = self._machine.send(step.entry, step.frame)
            except OSError as error:
                return [Violation("run", str(error))]
            self.oracle.judge(step.entry, step.frame, out)
            self.outcome = out.reason if out.sent == 0 else WAYS[out.sent]
            return self.oracle.found
        self.outcome = step.entry
        getattr(self, f"_{step.entry}")(step)
        return []

    def _age(self, step: Step) -> None:
        self._machine.age()

    def _policy(self, step: Step) -> None:
        self._machine.policy(step.choice)
        self._machine.forget_fragments()
        self.oracle.policies_changed()

    def _endpoints(self, step: Step) -> None:
        self._machine.endpoints(step.choice)
        self._machine.forget_fragments()
        self.oracle.endpoints_changed()

    def _expire(self, step: Step) -> None:
        self._machine.forget(*step.keys)
        self._machine.forget_fragments()
        for flow in [f for f in self.oracle.flows if f.opened == step.keys[0]]:
            self.oracle.forget(flow)

    def _leave(self, step: Step) -> None:
        pod = list(LOCAL_PODS)[step.choice]
        self._machine.pods(self._machine.cluster.gone | {pod})
        self.oracle.pod_changed(pod)

    def _come(self, step: Step) -> None:
        pod = list(LOCAL_PODS)[step.choice]
        self._machine.pods(self._machine.cluster.gone - {pod})
        self.oracle.pod_changed(pod)

    def _evict(self, step: Step) -> None:
        self._machine.forget(step.keys[step.choice])
        for flow in self.oracle.flows:
            if flow.opened == step.keys[0]:
                flow.sure, flow.evicted = False, True


def case_rng(seed: int, case: int) -> random.Random:
    """A case's own numbers, so that it can be run without those before it."""
    return random.Random(f"{seed} {case}")


class Campaign:
    """Cases of one seed on one machine."""

    def __init__(self, machine: Machine, seed: int, known: Iterable[str] = KNOWN) -> None:
        self._machine = machine
        self._seed = seed
        self._known = frozenset(known)
        self.report = Report()
        self._told: set[str] = set()

    def run(
        self,
        frames: int,
        first: int = 0,
        stride: int = 1,
        tell: Callable[[Report], None] | None = None,
        most: int = 1,
    ) -> Report:
        """Cases ``first``, ``first + stride``, ..., until so many frames or failures."""
        report, began, case = self.report, time.monotonic(), first
        while report.frames < frames and len(report.failures) < most:
            self.case(case)
            case += stride
            report.seconds = time.monotonic() - began
            if tell:
                tell(report)
        return report

    def case(self, case: int) -> None:
        """One case."""
        run = Run(self._machine)
        traffic = Traffic(case_rng(self._seed, case), run.oracle)
        done: list[Step] = []
        for _ in range(CASE):
            step = traffic.next()
            done.append(step)
            found = run.take(step)
            self.report.outcomes[run.outcome] += 1
            self.report.frames += bool(step.frame)
            for violation in list(found):
                if violation.name in self._known:
                    self.report.known[violation.name] += 1
                elif violation.name not in self._told:
                    self._told.add(violation.name)
                    self._fail(violation, case, done)
                    return

    def _fail(self, violation: Violation, case: int, steps: Sequence[Step]) -> None:
        shortest = shrink(steps, lambda some: self._shows(some, violation.name))
        text = self._last(shortest, violation)
        self.report.failures.append(
            Failure(text, self._seed, case, self._machine.mode, tuple(shortest))
        )

    def _shows(self, steps: Sequence[Step], name: str) -> bool:
        """Does the last of these steps violate that?"""
        run = Run(self._machine)
        found: list[Violation] = []
        for step in steps:
            found = run.take(step)
        return any(each.name == name for each in found)

    def _last(self, steps: Sequence[Step], violation: Violation) -> Violation:
        run = Run(self._machine)
        found: list[Violation] = []
        for step in steps:
            found = list(run.take(step))
        return next((each for each in found if each.name == violation.name), violation)


def shrink(steps: Sequence[Step], shows: Callable[[Sequence[Step]], bool]) -> list[Step]:
    """The shortest part found that still ends in the violation (delta debugging)."""
    current, size, attempts = list(steps), max(len(steps) // 2, 1), 0
    while size and attempts < _ATTEMPTS:
        start, removed = 0, False
        while start < len(current) - 1 and attempts < _ATTEMPTS:
            shorter = current[:start] + current[min(start + size, len(current) - 1) :]
            attempts += 1
            if shows(shorter):
                current, removed = shorter, True
            else:
                start += size
        if not removed or size == 1:
            size = size // 2 if size > 1 else (1 if removed else 0)
    return current
