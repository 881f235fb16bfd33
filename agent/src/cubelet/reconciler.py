"""Brings the node to what the state demands: devices, programs, maps, attachments, routes.

Level-triggered: every pass compares what is wanted with what is. It runs in a worker thread, one
pass at a time, because compiling and netlink block.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import structlog

from cubelet.applier import Applier, Epochs, Outcome
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.rcu import synchronize
from cubelet.bpf.syscalls import BpfError
from cubelet.cni.conf import write_conflist
from cubelet.cni.install import install_plugin
from cubelet.composer.compiler import CompileError
from cubelet.composer.composition import Composition, CompositionError, Facts
from cubelet.composer.core import CoreSettings
from cubelet.datapath import Datapath, Prepared
from cubelet.flows import FlowSweeper
from cubelet.memory import Memory
from cubelet.net import NetError
from cubelet.net.node import NodeSettings, ensure
from cubelet.net.routes import sync_routes
from cubelet.planner import Planner
from cubelet.settings import Settings
from cubelet.setup import Setup
from cubelet.state import State
from cubelet_hooks.cube import Cube
from cubelet_hooks.maps import EVERYTHING
from cubelet_hooks.objects import Change, LocalNode, Network, Node, Port, Service
from cubelet_hooks.resources import Resource

log = structlog.get_logger()
_SETTLED_AT_ONCE = 4
"""Ports that a pass settles which were attached in a hurry: others want the devices' lock too."""
_PLAN_LIMIT = 5.0
"""Seconds that one cube's planning may take in a pass."""
_NODE_KINDS = frozenset({Node.kind, Service.kind, LocalNode.kind})
"""Kinds whose changes may alter devices or routes."""


@dataclass(frozen=True)
class _Plan:
    """A setup with what its cubes want. ``composition`` is what the facts make of it."""

    setup: Setup
    planner: Planner

    @classmethod
    def of(cls, setup: Setup, state: State) -> _Plan:
        """Plan for all that is known."""
        planner = Planner([setup.core, *setup.composition.cubes])
        changes = [Change.between(None, each) for each in state]
        planner.replan(planner.units(changes, state), state)
        return cls(setup, planner)


class Reconciler:
    """Owns everything on the node that follows from the state and the setup."""

    def __init__(self, settings: Settings, state: State, clock: Clock, memory: Memory) -> None:
        self._settings = settings
        self._state = state
        self._clock = clock
        self._memory = memory
        self._plan: _Plan | None = None
        self._proposed: Setup | None = None
        self._applier: Applier | None = None
        self._attached: dict[str, Port] = {}
        self._makeshift: set[str] = set()
        self._facts: Facts | None = None
        self._composed: object = None
        self._refused: object = None
        self._distrusted = True
        self.datapath = Datapath(settings.bpffs, settings.cache_dir, clock.hz)
        self.composition: Composition | None = None
        """What runs, specialised; None before the first."""
        self.sweeper: FlowSweeper | None = None
        self.serving = False
        """Whether a pass has come to its end: composed, attached, routed, announced."""
        self.complete = True
        """Whether the source could read everything; if not, nothing old is removed at a start."""
        self._kept_unknown = False
        self.faults: dict[str, str] = {}
        """Kinds that are not essential and were found to be unusable, each with the reason."""
        self.refused: str | None = None
        """Why the setup proposed last was not put in force: '' if it was, None before that."""
        self.problems: dict[str, str] = {}
        self.contests: list[str] = []
        """What several objects ask for and one alone can have; trying again changes nothing."""

    @property
    def in_force(self) -> bool:
        """Whether programs run and their maps have been filled once."""
        return self._applier is not None

    @property
    def setup(self) -> Setup | None:
        """What was put in force last, or is about to be for the first time."""
        return self._plan.setup if self._plan else self._proposed

    @property
    def watches(self) -> tuple[Resource, ...]:
        """The kinds of objects that the cubes add which are in force or proposed."""
        setups = [self._plan.setup if self._plan else None, self._proposed]
        cubes = [cube for setup in setups if setup for cube in setup.composition.cubes]
        return tuple(dict.fromkeys(each for cube in cubes for each in cube.watches))

    @property
    def cubes(self) -> tuple[Cube, ...]:
        """The instances that run; none before the first composition."""
        return self.composition.cubes if self.composition else ()

    @property
    def wanted_entries(self) -> Mapping[str, int]:
        """How many entries are wanted in every planned map, by C name."""
        return self._plan.planner.counts() if self._plan else {}

    @property
    def attached(self) -> Collection[str]:
        """The keys of the pods whose ports run the programs in force."""
        return self._attached.keys()

    def propose(self, setup: Setup) -> None:
        """Let the next pass put another setup in force, as a whole or not at all."""
        self._proposed = setup
        self.refused = None
        self.faults = {}

    @property
    def unsettled(self) -> bool:
        """Whether pods' ports were attached in a hurry, which passes without one make up for."""
        return bool(self._makeshift)

    def run(self, changes: Sequence[Change], hurry: bool = False) -> None:
        """One pass. What goes wrong is in ``problems`` afterwards, by its place; nothing raises.

        ``hurry`` says that pods wait for it. After a pass that broke off, or :meth:`distrust`, the
        next one looks at everything anew.
        """
        try:
            self._run(changes, hurry)
        except Exception as error:  # a bug here must not end the agent
            log.error("a pass failed", error=repr(error), exc_info=not isinstance(error, OSError))
            self.problems["pass"] = repr(error)
        else:
            self.problems.pop("pass", None)

    def distrust(self) -> None:
        """Let the next pass look at everything, whether it is known to have changed or not."""
        self._distrusted = True

    def _run(self, changes: Sequence[Change], hurry: bool) -> None:
        everything, self._distrusted = self._distrusted, True
        taken = [change for change in map(self._state.apply, changes) if change is not None]
        node = everything or any(change.kind in _NODE_KINDS for change in taken)
        if node or self._proposed:
            taken += self._ensure_node()
        local = self._state.local
        before = self._plan
        switched = self._take_up(local) if self._proposed and local else False
        if self._plan is not None:
            # another plan may want other contents of the same maps
            again = everything or self._plan is not before
            self._follow(self._plan, taken, local, again and not switched)
        if self._applier is not None and local is not None:
            if everything or switched:
                self.datapath.attach_node(local)
                self._attached.clear()
            self._attach_pods(local, hurry)
            if not any(place.startswith("port ") for place in self.problems):
                self.datapath.retire()
            if node or switched:
                self._route(local)
            if everything or not self.serving:
                self._announce()
            self.serving = True
        self._distrusted = False

    def _follow(
        self, plan: _Plan, taken: Sequence[Change], local: LocalNode | None, everything: bool
    ) -> None:
        """Bring maps and composition up to what has changed."""
        plan.planner.seconds.clear()
        delta = plan.planner.replan(plan.planner.units(taken, self._state), self._state)
        self._find_faults(plan.planner)
        self._note("plans", "; ".join(f"{o}: {e}" for o, e in plan.planner.failures.items()))
        self.contests = plan.planner.contests()
        if local is None:
            return
        changed = None if everything else {change.kind for change in taken}
        if not self._recompose(plan, local, changed) and self._applier is not None:
            again = everything or (self._kept_unknown and self.complete)
            outcome = self._sync(plan, self._applier) if again else self._applier.apply(delta)
            self._note_maps(outcome)

    def _note(self, place: str, problem: str) -> None:
        if problem and self.problems.get(place) != problem:
            log.error("problem", place=place, problem=problem)
        if problem:
            self.problems[place] = problem
        else:
            self.problems.pop(place, None)

    def _ensure_node(self) -> list[Change]:
        """Set up the node's devices; the change of LocalNode that follows, if any."""
        settings = self._settings
        node = self._state.nodes.get(settings.name)
        if node is None and not self.complete:
            node = self._memory.known.node(settings.name)
        if node is None or not node.pod_cidrs:
            self._note("node", f"Node {settings.name} is unknown or has no podCIDR yet")
            return []
        core = self._core_settings()
        try:
            local = ensure(
                NodeSettings(
                    node_name=node.name,
                    pod_cidr=node.pod_cidrs[0],
                    snat_ports=(core.snat_first_port, core.snat_last_port),
                    addresses=node.addresses,
                    gateway=settings.gateway,
                    overlay=settings.overlay,
                    uplink=settings.uplink,
                    vxlan_port=settings.vxlan_port,
                )
            )
            self._memory.remember_node(node)
        except (NetError, OSError) as error:
            self._note("node", str(error))
            return []
        self._note("node", "")
        change = self._state.apply(Change.between(self._state.local, local))
        return [change] if change else []

    def _core_settings(self) -> CoreSettings:
        setup = self._proposed or self.setup
        return setup.core.settings if setup else CoreSettings()

    def _take_up(self, local: LocalNode | None) -> bool:
        """Put the proposed setup in force; True if its programs took over.

        A setup that fails is given up if another one is in force, else it is tried again.
        """
        assert self._proposed is not None
        assert local is not None
        plan = _Plan.of(self._proposed, self._state)
        if self._plan is None:
            self._find_faults(plan.planner)
        switched = self._recompose(plan, local)
        problem = self.problems.get("composition", "")
        if problem and self._plan is None:
            return switched
        if problem:
            del self.problems["composition"]
            self._facts = None
        else:
            self._plan = plan
        self._proposed, self.refused = None, problem
        return switched

    def _recompose(
        self, plan: _Plan, local: LocalNode, changed: Collection[str] | None = None
    ) -> bool:
        """Compose anew if what is compiled in has changed; True if a new composition took over.

        ``changed`` kinds of objects are all that may have altered it, None: all. What goes wrong
        is the problem of the place ``composition``; what ran runs on.
        """
        try:
            facts = self._learn(plan.setup.composition, changed)
        except CompositionError as error:
            self._note("composition", str(error))
            return False
        wanted = (id(plan.setup), local, facts)
        if wanted == self._composed and self.in_force:
            self._note("composition", "")
            return False
        if wanted == self._refused:
            return False  # it would be refused again
        composition = plan.setup.composition.specialised(facts)
        try:
            prepared = self.datapath.prepare(composition, plan.setup.core, local)
        except (CompileError, BpfError) as error:
            if isinstance(error, CompileError):
                self._refused = wanted
                self._blame(composition.cubes, error.cube, str(error))
            self._note("composition", str(error))
            return False
        if prepared is not None:
            self._take_over(plan, composition, prepared)
        self.composition = composition  # also if its programs run: its cubes may be other ones
        self.datapath.attach_node(local)
        self._note("composition", "")
        self._composed, self._refused = wanted, None
        self._memory.remember(facts=facts, reasons=composition.reasons, slots=composition.slots)
        return prepared is not None

    def _find_faults(self, planner: Planner) -> None:
        """Blame cubes whose plans raise, or take so long that all others have to wait."""
        cubes = planner.cubes
        for (instance, unit), error in planner.failures.items():
            kind = cubes[instance].kind
            self._blame(cubes.values(), kind, f"planning {' '.join(unit)} failed: {error}")
        for instance, seconds in planner.seconds.items():
            if seconds > _PLAN_LIMIT:
                kind = cubes[instance].kind
                self._blame(cubes.values(), kind, f"planning took {seconds:.1f} s")

    def _blame(self, cubes: Iterable[Cube], kind: str, reason: str) -> None:
        if any(cube.kind == kind and not cube.essential for cube in cubes):
            self.faults.setdefault(kind, reason)

    def _learn(self, composition: Composition, changed: Collection[str] | None) -> Facts:
        """What is compiled in; what the last run compiled in too while not all is known."""
        if changed is None or self._facts is None:
            self._facts = composition.facts_of(self._state)
        elif changed:
            self._facts = composition.facts_of(self._state, self._facts, changed)
        unsure = not self.complete and (self._kept_unknown or not self.in_force)
        return self._facts.joined(self._memory.known.facts) if unsure else self._facts

    def _take_over(self, plan: _Plan, composition: Composition, prepared: Prepared) -> None:
        """Fill a composition's maps, then put it in force."""
        core = plan.setup.core
        ran_before = self.datapath.is_pinned(prepared.compiled.identity)
        try:
            epochs = Epochs(prepared.maps["cubelet_epochs"])
            applier = Applier(prepared.compiled.specs, prepared.maps, epochs, core.family)
            outcome = self._sync(plan, applier)
        except BaseException:
            prepared.close()
            raise
        self._note_maps(outcome)
        failed = self.datapath.switch(prepared)
        if not ran_before:
            # Others have judged what is cached, until the last packet that was in them is out.
            synchronize()
            epochs.raise_for([EVERYTHING])
        self._attached = {k: p for k, p in self._attached.items() if p.host_ifname not in failed}
        self._applier, self.composition = applier, composition
        self.sweeper = FlowSweeper(prepared.maps, self._clock, core.family)
        log.info(
            "composition in force",
            identity=self.datapath.identity,
            mode=composition.mode,
            cubes=[cube.instance for cube in composition.cubes],
            entries=outcome.written,
        )

    def _note_maps(self, outcome: Outcome) -> None:
        self._note("maps", "; ".join(f"{m}: {e}" for m, e in outcome.failures.items()))

    def _sync(self, plan: _Plan, applier: Applier) -> Outcome:
        """Make the maps hold what is wanted; what is unknown to a source in trouble is kept."""
        self._kept_unknown = not self.complete and (self._kept_unknown or not self.in_force)
        return applier.sync(plan.planner.contents(), remove=not self._kept_unknown)

    def _attach_pods(self, local: LocalNode, hurry: bool) -> None:
        wanted = dict(self._state.ports)
        for key, port in tuple(self._attached.items()):
            if wanted.get(key) != port:
                self.datapath.detach(port.host_ifname)
                del self._attached[key]
        for key, port in wanted.items():
            if key not in self._attached:
                self._attach_pod(port, local, hurry)
        self._makeshift &= self._attached.keys()
        for key in () if hurry else sorted(self._makeshift)[:_SETTLED_AT_ONCE]:
            self._attach_pod(self._attached[key], local, hurry)
        for place in [each for each in self.problems if each.startswith("port ")]:
            if place.removeprefix("port ") not in wanted:
                self._note(place, "")
        self.datapath.forget_strangers(self._attached)

    def _attach_pod(self, port: Port, local: LocalNode, hurry: bool) -> None:
        if not any(address in local.pod_cidr for address in port.addresses):
            self._note(f"port {port.key}", f"its address is not in the podCIDR {local.pod_cidr}")
            return
        try:
            self.datapath.attach_pod(port, quickly=hurry)
        except OSError as error:
            self._note(f"port {port.key}", str(error))
            return
        self._note(f"port {port.key}", "")
        self._attached[port.key] = port
        if hurry:
            self._makeshift.add(port.key)
        else:
            self._makeshift.discard(port.key)

    def _route(self, local: LocalNode) -> None:
        report = sync_routes(self._host_networks(), local)
        self._note("routes", "; ".join(f"{r.network}: {r.reason}" for r in report.refused))

    def _host_networks(self) -> Iterable[Network]:
        """What the host reaches through the datapath: pods, Services, the hairpin address."""
        setup = self.setup
        assert setup is not None
        networks = {cidr for node in self._state.nodes.values() for cidr in node.pod_cidrs}
        networks |= set(setup.service_cidrs)
        networks |= {local.pod_cidr} if (local := self._state.local) else set()
        networks.add(ipaddress.ip_network(setup.core.settings.hairpin_address))
        for service in self._state.services.values():
            addresses = (*service.external_ips, *service.load_balancer_ips)
            networks |= {ipaddress.ip_network(address) for address in addresses}
        return [network for network in networks if network.version == setup.core.family]

    def _announce(self) -> None:
        """Let the runtime send pods here: the plugin first, then the list that names it."""
        settings = self._settings
        try:
            if settings.cni_bin is not None:
                install_plugin(settings.cni_bin, settings.cache_dir)
            if settings.cni_conf is not None:
                write_conflist(settings.cni_conf, settings.socket)
        except OSError as error:
            self._note("cni", str(error))
        else:
            self._note("cni", "")
