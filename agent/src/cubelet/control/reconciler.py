"""Brings the node to what the state demands: devices, programs, maps, attachments, routes.

Level-triggered: every pass compares the wanted with the actual state. Passes run on the datapath
thread, one at a time, because compiling and netlink block.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence

import structlog

from cubelet.bpf.jiffies import Clock
from cubelet.composer.compiler import Compile, compile_source
from cubelet.composer.composition import Composition
from cubelet.composer.refusals import Refusals
from cubelet.config.node import Settings
from cubelet.config.setup import Setup
from cubelet.control.host import HostNetwork, concerns
from cubelet.control.planner import Planner
from cubelet.control.ports import PodPorts
from cubelet.control.problems import Problems
from cubelet.control.switchover import PLACE, Plan, Switchover
from cubelet.datapath.programs import Datapath
from cubelet.guests.proxy import Guest
from cubelet.guests.registry import Guests
from cubelet.net.changes import Affected
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.cube import Complaint, Condition
from cubelet_hooks.objects import Change, LocalNode, Object, Port
from cubelet_hooks.resources import Resource

log = structlog.get_logger()
_GONE = 65_536
"""Objects that are no more, of which is told once a pass completes: the last so many."""
_PLAN_LIMIT = 5.0
"""Seconds that one cube's planning may take in a pass until it is told."""


class Reconciler:
    """Makes the passes.

    ``switchover`` knows which composition is in force, ``ports`` which pods run it, ``datapath``
    its programs and maps; ``problems`` are the last pass's, by place.
    """

    def __init__(
        self,
        settings: Settings,
        state: State,
        clock: Clock,
        memory: Memory,
        compile: Compile = compile_source,
        compiling: Callable[[], bool] = lambda: False,
        guests: Guests | None = None,
    ) -> None:
        self._linger_seconds = settings.linger_seconds
        self._state = state
        self._guests = guests or Guests(state)
        self.problems = Problems()
        refusals = Refusals(compile, memory.known.refused)
        self.datapath = Datapath(settings.bpffs, settings.cache_dir, clock.hz, refusals)
        self.switchover = Switchover(self.datapath, state, clock, memory, self.problems, compiling)
        self.ports = PodPorts(self.datapath, self.problems)
        self._host = HostNetwork(settings, state, memory, self.problems)
        self._plan: Plan | None = None
        self._proposed: Setup | None = None
        self._compiling = compiling
        self._ordered: Composition | None = None
        self._trying = False
        self._review = True
        self.serving = False
        """Whether some pass has completed: composed, attached, routed, announced."""
        self.refused: str | None = None
        """Why the setup proposed last was not put in force: '' if it was, None before that."""
        self.rejected: list[str] = []
        """What several units ask for and one alone can have, and what does not fit into maps, if no
        object can be named; trying again changes nothing."""
        self._complaints: frozenset[Complaint] = frozenset()
        self._conditions: frozenset[Condition] = frozenset()
        self._gone: deque[Object] = deque(maxlen=_GONE)

    def propose(self, setup: Setup) -> None:
        """Let the next pass put another setup in force, as a whole or not at all."""
        self._proposed = setup
        self._ordered = None
        self.refused = None
        self.switchover.faults.clear()
        self.switchover.suspects.clear()

    @property
    def setup(self) -> Setup | None:
        """The setup in force; before the first, the proposed one."""
        return self._plan.setup if self._plan else self._proposed

    @property
    def watches(self) -> tuple[Resource, ...]:
        """The kinds of objects that cubes in force or proposed add."""
        setups = [self._plan.setup if self._plan else None, self._proposed]
        cubes = [cube for setup in setups if setup for cube in setup.composition.cubes]
        return tuple(dict.fromkeys(each for cube in cubes for each in cube.watches))

    @property
    def wanted_entries(self) -> Mapping[str, int]:
        """How many entries are wanted in every planned map, by C name."""
        return self._plan.planner.counts() if self._plan else {}

    @property
    def complaints(self) -> frozenset[Complaint]:
        """What is wrong with objects, as the cubes' plans and the host's routes have it."""
        return self._complaints | self._host.complaints

    @property
    def conditions(self) -> frozenset[Condition]:
        """What has become of cubes' own objects, as their plans have it."""
        return self._conditions

    def astray(self) -> bool:
        """Whether others have changed the kernel settings that the node was left with."""
        return self._host.astray()

    @property
    def lingers(self) -> float | None:
        """Seconds until a pass has to remove a cube that is no longer needed; None if none is."""
        return self._plan.lingering.left if self._plan else None

    def blocker(self, port: Port) -> str:
        """Why ADD must not report a pod's port as served; '' if it is served.

        An essential cube's policy that could not be written or composed counts too, and one that
        could not be planned or does not fit, unless it is closed or of another namespace.
        """
        found = [self.problems.get(p, "") for p in ("pass", "maps", f"port {port.key}")]
        found.append(self.problems.get(PLACE, "") if self.switchover.lacking else "")
        if self._plan is not None:
            found.append(self._plan.planner.holds_up(port.namespace, port.key))
        return "; ".join(filter(None, found))

    @property
    def awaited(self) -> tuple[Composition, ...]:
        """Compositions that are being compiled: that of the proposed setup, that of new facts."""
        return tuple(each for each in (self._ordered, self.switchover.awaited) if each is not None)

    @property
    def pods_wait(self) -> bool:
        """Whether ADD must wait for what is being compiled.

        It brings an essential cube that does not run yet, such as the one that keeps policies.
        """
        return any(map(self.switchover.essentials, self.awaited))

    def take_gone(self) -> list[Object]:
        """The objects that are no more, whose entries the maps have lost; each is given once."""
        if "pass" in self.problems or not self.serving:
            return []
        gone = list(self._gone)
        self._gone.clear()
        return gone

    def review_all(self) -> None:
        """Let the next pass compare everything, not only the known changes."""
        self._review = True

    def close(self) -> None:
        """Close everything; attached and pinned programs keep forwarding."""
        self._guests.close()
        self.switchover.close()
        self.datapath.close()

    def run(
        self,
        changes: Sequence[Change],
        affected: Affected = Affected.NOTHING,
        *,
        hurry: bool = False,
        complete: bool = True,
    ) -> None:
        """Make one pass. It raises nothing: errors are in ``problems``, by place.

        ``affected`` is what others may have changed on the node, ``hurry`` says that pods wait for
        it, ``complete`` that the source could read everything: if not, nothing old is removed at a
        start. After a pass that failed, and after :meth:`review_all`, the next pass compares
        everything.
        """
        self.switchover.complete = complete
        try:
            self._run(changes, affected, hurry)
        except Exception as error:  # a bug here must not end the agent
            log.error("a pass failed", error=repr(error), exc_info=not isinstance(error, OSError))
            self.problems["pass"] = repr(error)
        else:
            self.problems.pop("pass", None)

    def _run(self, changes: Sequence[Change], affected: Affected, hurry: bool) -> None:
        everything, self._review = self._review, True
        if everything:
            affected = Affected.ALL
        if affected & Affected.PATHS:  # before what may take long, and again when all is right
            self.switchover.judge_again()
        taken = [change for change in map(self._state.apply, changes) if change is not None]
        self._gone += [change.gone for change in taken if change.gone is not None]
        around = bool(affected & (Affected.NODE | Affected.TABLES))
        node = around or self._host.outdated or any(map(concerns, taken))
        setup = self._proposed or self.setup
        if setup is not None and (node or self._proposed):
            taken += self._host.ensure_devices(setup, self.switchover.complete)
        local = self._state.local
        before, switched = self._plan, False
        ordered = self._ordered is not None and self._compiling()
        if self._proposed is not None and local is not None and not ordered:
            switched = self._take_up(self._proposed, local)
        if self._plan is not None:
            # another plan may want other contents of the same maps
            again = everything or self._plan is not before
            switched = self._follow(self._plan, taken, local, again and not switched) or switched
            self.rejected = self._plan.planner.rejected()
            self._complaints = self._plan.planner.complaints()
            self._conditions = self._plan.planner.conditions()
        if self._trying and self.switchover.in_force:
            self._trying, self.refused = False, ""
        if self._plan is not None and self.switchover.in_force and local is not None:
            self._serve(local, everything, switched or around, hurry)
            if node or switched:
                self._host.route(self._plan.setup, local, not self.switchover.kept_unknown)
            if affected & Affected.PATHS and node:
                self.switchover.judge_again()
            if everything or not self.serving:
                self._host.announce()
            self.serving = True
        self._review = False

    def _take_up(self, setup: Setup, local: LocalNode) -> bool:
        """Put the proposed setup in force; True if its programs took over.

        One that has to be compiled stays proposed. One that fails is given up if another one is in
        force, else it is tried again.
        """
        first = self.switchover.in_force is None
        plan, switched = self._plan, False
        if ready := self.switchover.makes_ready(setup.composition):
            plan = Plan.of(setup, self._state, self._linger_seconds)
            switched = self.switchover.recompose(plan, local)
            self._ordered = self.switchover.awaited
            if self._ordered is not None:
                return False  # it is proposed again once it is compiled
        self._proposed = setup if first and not ready else None
        self.refused = self.problems.get(PLACE, "")
        self._trying = first and bool(self.refused)
        if first or not self.refused:
            self._plan = plan
        else:
            self.problems.note(PLACE, "")
            self.switchover.forget_facts()
        self._guests.retain(self._plan.setup.composition.cubes if self._plan else ())
        return switched

    def _follow(
        self, plan: Plan, taken: Sequence[Change], local: LocalNode | None, everything: bool
    ) -> bool:
        """Apply the changes to maps and composition; True if another composition took over."""
        plan.planner.seconds.clear()
        units = plan.planner.units(taken, self._state)
        if everything or self.switchover.kept_unknown:
            units |= plan.planner.forgiven()
        delta = plan.planner.replan(units, self._state)
        self._find_faults(plan.planner)
        if local is None:
            return False
        changed = None if everything else {change.kind for change in taken}
        if self.switchover.recompose(plan, local, changed):
            return True
        if everything or (self.switchover.kept_unknown and self.switchover.complete):
            self.switchover.sync(plan)
        else:
            self.switchover.apply(plan, delta)
        return False

    def _serve(self, local: LocalNode, everything: bool, anew: bool, hurry: bool) -> None:
        """Attach the programs in force to every port, and retire all others.

        ``anew``: to the node's own, too, for programs or devices may be others.
        """
        if anew:
            self.ports.drop(self.switchover.failed)
        if everything:
            self.ports.attach_all_anew()
        if everything or anew:
            self._serve_node(local)
        self.ports.follow(dict(self._state.ports), local, hurry)
        self.switchover.settle_verdicts(final=not self.ports.failing)
        if not self.ports.failing:
            self.datapath.retire()

    def _serve_node(self, local: LocalNode) -> None:
        try:
            self.datapath.run_early()
        except OSError as error:
            self.problems.note("early", f"no packet is seen early: {error}")
        else:
            self.problems.note("early", "")
        failed = self.datapath.attach_node(local)
        self.problems.note("uplinks", "; ".join(f"{name}: {e}" for name, e in failed.items()))

    def _find_faults(self, planner: Planner) -> None:
        """Blame guests that were stopped too often; tell whose plans have taken long."""
        slow = []
        for cube in planner.cubes.values():
            if isinstance(cube, Guest) and cube.fault:
                self.switchover.blame([cube], cube.kind, cube.fault)
            if cube.instance in planner.waiting:
                slow.append(f"{cube.instance} has used up its time; what waits is planned soon")
            elif (seconds := planner.seconds[cube.instance]) > _PLAN_LIMIT:
                slow.append(f"planning of {cube.instance} took {seconds:.1f} s in one pass")
        self.problems.note("plans", "; ".join(slow))
