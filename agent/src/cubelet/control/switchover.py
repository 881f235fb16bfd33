"""Makes a composition from a setup and the facts, fills its maps, and switches to it."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

import structlog
from msgspec.structs import replace

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.rcu import synchronize
from cubelet.bpf.syscalls import BpfError
from cubelet.composer.background import Compiling
from cubelet.composer.composition import Composition, CompositionError, Facts
from cubelet.composer.ends import ends_per_second
from cubelet.composer.errors import CompileError
from cubelet.config.setup import Setup
from cubelet.control.lingering import Lingering
from cubelet.control.modes import Modes
from cubelet.control.planner import Planner
from cubelet.control.problems import Problems
from cubelet.datapath.applier import Applier, Delta, Outcome, Refuse
from cubelet.datapath.epochs import Epochs
from cubelet.datapath.flows import FlowSweeper
from cubelet.datapath.fragments import FragmentSweeper
from cubelet.datapath.programs import Datapath, Prepared
from cubelet.guests.host import GuestError
from cubelet.guests.proxy import Guest
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.cube import Cube
from cubelet_hooks.maps import EVERYTHING
from cubelet_hooks.objects import Change, LocalNode

log = structlog.get_logger()
_RECOVERY = 30.0
"""Seconds in which TCP that is under way may open flows, after records were lost."""
_PAUSE = 5.0
"""Seconds until a composition that failed for want of time or memory is tried again."""
_KEPT = "{}; its defines and places stay as they were; remedy: report it to the cube's author"
PLACE = "composition"
"""The place of problems that keep the wanted composition from being in force."""


@dataclass(frozen=True, eq=False)
class Plan:
    """A setup with its cubes' wanted entries, and the classes they were needed on lately."""

    setup: Setup
    planner: Planner
    lingering: Lingering

    @classmethod
    def of(cls, setup: Setup, state: State, linger_seconds: float) -> Plan:
        """Make a plan for all objects in ``state``."""
        planner = Planner([setup.core, *setup.composition.cubes])
        changes = [Change.between(None, each) for each in state]
        planner.replan(planner.units(changes, state), state)
        return cls(setup, planner, Lingering(linger_seconds))


@dataclass(frozen=True, eq=False)
class InForce:
    """A composition that runs, specialised; what fills its maps, and what sweeps them."""

    composition: Composition
    applier: Applier
    epochs: Epochs
    sweeper: FlowSweeper
    fragments: FragmentSweeper


class Switchover:
    """Knows what is in force, and puts another composition in its place."""

    def __init__(
        self,
        datapath: Datapath,
        state: State,
        clock: Clock,
        memory: Memory,
        problems: Problems,
        compiling: Callable[[], bool],
    ) -> None:
        self._datapath = datapath
        self._compiling = compiling
        self._state = state
        self._clock = clock
        self._memory = memory
        self._problems = problems
        self._facts: Facts | None = None
        self._kept: dict[str, str] = {}
        self._composed: object = None
        self._refused: object = None
        self._ordered: object = None
        self._not_before = 0.0
        self._verdicts_due = False
        self.modes = Modes(datapath, memory)
        self.in_force: InForce | None = None
        """The running composition, whose maps have been filled; None before the first."""
        self.complete = True
        """Whether the source could read everything; if not, nothing old is removed at a start."""
        self.kept_unknown = False
        """Whether entries of an earlier run were kept although no known object wants them."""
        self.awaited: Composition | None = None
        """The composition that takes over once it is compiled; the running one serves till then."""
        self.lacking: frozenset[str] = frozenset()
        """Kinds of essential cubes that are wanted and do not run."""
        self.failed: Collection[str] = ()
        """Devices on which the last switch failed."""
        self.faults: dict[str, str] = {}
        """Kinds, not essential, that proved unusable, each with the reason."""
        self.suspects: dict[str, str] = {}
        """Essential kinds that did so: the node does not run without them, but may with another
        version."""

    @property
    def composition(self) -> Composition | None:
        """The running composition, specialised; None before the first."""
        return self.in_force.composition if self.in_force else None

    @property
    def cubes(self) -> tuple[Cube, ...]:
        """The instances that run; none before the first composition."""
        return self.in_force.composition.cubes if self.in_force else ()

    @property
    def sweeper(self) -> FlowSweeper | None:
        """The sweeper of idle flows; None before the first composition."""
        return self.in_force.sweeper if self.in_force else None

    def close(self) -> None:
        """Unmap the epochs."""
        if self.in_force is not None:
            self.in_force.epochs.close()
            self.in_force.sweeper.close()

    def forget_facts(self) -> None:
        """Ask all cubes for their facts again: the known ones belong to a setup given up."""
        self._facts = None

    def makes_ready(self, composition: Composition) -> bool:
        """Whether all guests can be made with their settings; if not that is the problem."""
        for cube in composition.cubes:
            try:
                if isinstance(cube, Guest):
                    cube.make_ready()
            except GuestError as error:
                self._fail(composition, cube.kind, f"cube {cube.instance} cannot be made: {error}")
                return False
        return True

    def recompose(
        self, plan: Plan, local: LocalNode, changed: Collection[str] | None = None
    ) -> bool:
        """Compose again if the facts have changed; True if a new composition took over.

        Only the ``changed`` kinds of objects can have altered the facts (None: any kind). An error
        is the problem of the place ``composition``; the running composition then stays, as it does
        while the new one is ``awaited``.
        """
        setup = plan.setup
        try:
            facts = self._learn(plan, changed)
        except CompositionError as error:
            self.awaited = None
            self._fail(setup.composition, error.kind, str(error))
            return False
        wanted = (setup, local, facts.defines, facts.needed)
        if self.awaited is not None and wanted == self._ordered and self._compiling():
            return False
        self.awaited = None
        if wanted == self._composed and self.in_force:
            self._problems.note(PLACE, "")
            return False
        if wanted == self._refused or time.monotonic() < self._not_before:
            return False  # it would be refused again, or it is too early to try
        composition = setup.composition.specialised(facts)
        try:
            fitted = self.modes.prepare(setup, composition, local)
        except Compiling:
            self.awaited, self._ordered = composition, wanted
            return False
        except (CompileError, BpfError) as error:
            if isinstance(error, CompileError) and error.final:
                self._refused = wanted
                self._fail(composition, error.cube, str(error))
            else:
                self._not_before = time.monotonic() + _PAUSE
                self._fail(composition, "", str(error))
            return False
        composition, prepared = fitted.composition, fitted.made
        if prepared is not None:
            self._take_over(plan, composition, prepared)
        # also if the same programs run already: the cubes' Python objects may be new
        if self.in_force is not None:
            self.in_force = dataclasses.replace(self.in_force, composition=composition)
        self._problems.note(PLACE, "")
        self._composed, self._refused, self.lacking = wanted, None, frozenset()
        self.modes.took_over(fitted.refusal)
        self._memory.remember(facts=facts, reasons=composition.reasons, slots=composition.slots)
        return prepared is not None

    def _fail(self, wanted: Composition, kind: str, problem: str) -> None:
        self._problems.note(PLACE, problem)
        self.blame(wanted.cubes, kind, problem)
        self.lacking = self.essentials(wanted)

    def essentials(self, wanted: Composition) -> frozenset[str]:
        """The kinds of a composition's essential cubes that do not run now."""
        running = {cube.kind for cube in self.cubes}
        return frozenset(cube.kind for cube in wanted.cubes if cube.essential) - running

    def blame(self, cubes: Iterable[Cube], kind: str, reason: str) -> None:
        """Record the fault of a kind, unless none of these cubes has it."""
        for cube in cubes:
            if cube.kind == kind:
                (self.suspects if cube.essential else self.faults).setdefault(kind, reason)

    def _learn(self, plan: Plan, changed: Collection[str] | None) -> Facts:
        """The facts to compile in; classes needed lately still count as needed.

        If the source could not read everything, the facts of the last run are added. A cube that
        cannot say its own keeps those it had, which is the problem of the place ``facts``.
        """
        composition = plan.setup.composition
        known = self._facts or self._memory.known.facts
        if changed is None or self._facts is None:
            changed = None
            self._kept.clear()
        if changed is None or changed:
            known = composition.facts_of(self._state, known, changed, self._kept)
            self._problems.note("facts", "; ".join(map(_KEPT.format, self._kept.values())))
        self._facts = known
        facts = replace(known, needed=plan.lingering.joined(known.needed))
        unsure = not self.complete and (self.kept_unknown or not self.in_force)
        return facts.joined(self._memory.known.facts) if unsure else facts

    def _take_over(self, plan: Plan, composition: Composition, prepared: Prepared) -> None:
        """Fill a composition's maps, then put it in force."""
        core = plan.setup.core
        same = not self.in_force and self._datapath.runs_alone(prepared.compiled.identity)
        try:
            epochs = Epochs(prepared.maps["cubelet_epochs"], self._state)
            applier = Applier(prepared.compiled.specs, prepared.maps, epochs, core.family)
            outcome = self._fill(plan, applier)
            failed = self._datapath.switch(prepared)
        except BaseException:
            if self._datapath.programs is not prepared.programs:
                prepared.close()
            raise
        self.close()
        live = core.settings.live_flows
        ends = ends_per_second(composition.cubes)
        sweeper = FlowSweeper(prepared.maps, self._clock, live, core.family, ends)
        fragments = FragmentSweeper(prepared.maps, self._clock, core.family)
        self.in_force = InForce(composition, applier, epochs, sweeper, fragments)
        if prepared.fresh:
            sweeper.recover(_RECOVERY)
        self.failed = failed
        # Cached verdicts came from other programs, which judge until all ports run this one.
        self._verdicts_due = self._verdicts_due or not same
        self._note_maps(outcome)
        log.info(
            "composition in force",
            identity=self._datapath.identity,
            mode=composition.mode,
            cubes=[cube.instance for cube in composition.cubes],
            entries=outcome.written,
        )

    def settle_verdicts(self, final: bool) -> None:
        """Have all flows judged again that earlier programs judged, after their last packet.

        Call it once all ports run the composition, or (not ``final``) all but some that cannot.
        """
        if self._verdicts_due and self.in_force is not None:
            synchronize()
            self.judge_again()
            self._verdicts_due = not final

    def judge_again(self) -> None:
        """Have all flows judged again: where they lead, or whether they may, is to be seen anew."""
        if self.in_force is not None:
            self.in_force.epochs.raise_for([EVERYTHING])

    def sync(self, plan: Plan) -> None:
        """Compare the maps' actual contents with the wanted ones and correct them."""
        if self.in_force is not None:
            self._note_maps(self._fill(plan, self.in_force.applier))

    def apply(self, plan: Plan, delta: Delta) -> None:
        """Write what has changed in what is wanted."""
        if self.in_force is not None:
            self._note_maps(self.in_force.applier.apply(delta, self._refuse(plan)))

    def _refuse(self, plan: Plan) -> Refuse:
        """What the kernel does not take is the problem of those alone whose it is."""
        return lambda keys, reason: plan.planner.refuse(keys, reason, self._state)

    def _note_maps(self, outcome: Outcome) -> None:
        """Note failed map writes as the problem of the place ``maps``."""
        self._problems.note("maps", "; ".join(f"{m}: {e}" for m, e in outcome.failures.items()))

    def _fill(self, plan: Plan, applier: Applier) -> Outcome:
        """Fill the maps; unwanted entries stay if the source is incomplete or a unit was left."""
        self.kept_unknown = not self.complete and (self.kept_unknown or not self.in_force)
        contents, refuse = plan.planner.contents(), self._refuse(plan)
        return applier.sync(contents, not self.kept_unknown, plan.planner.unsure, refuse)
