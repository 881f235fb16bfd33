"""Brings the node to what the state demands: devices, programs, maps, attachments, routes.

Level-triggered: every pass compares what is wanted with what is. It runs in a worker thread, one
pass at a time, because compiling and netlink block.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping, Sequence

import structlog

from cubelet.bpf.jiffies import Clock
from cubelet.cni.conf import write_conflist
from cubelet.cni.install import install_plugin
from cubelet.composer.composition import Composition
from cubelet.composer.core import CoreSettings
from cubelet.config.node import Settings
from cubelet.config.setup import Setup
from cubelet.control.planner import Planner
from cubelet.control.ports import PodPorts
from cubelet.control.problems import Problems
from cubelet.control.switchover import PLACE, Plan, Switchover
from cubelet.datapath.flows import FlowSweeper
from cubelet.datapath.programs import Datapath
from cubelet.net import NetError
from cubelet.net.node import NodeSettings, ensure
from cubelet.net.routes import sync_routes
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.cube import Cube
from cubelet_hooks.objects import Change, LocalNode, Network, Node, Port, Service
from cubelet_hooks.resources import Resource

log = structlog.get_logger()
_PLAN_LIMIT = 5.0
"""Seconds that one cube's planning may take in a pass that follows changes."""
_NODE_KINDS = frozenset({Node.kind, Service.kind, LocalNode.kind})
"""Kinds whose changes may alter devices or routes."""


class Reconciler:
    """Owns everything on the node that follows from the state and the setup."""

    def __init__(self, settings: Settings, state: State, clock: Clock, memory: Memory) -> None:
        self._settings = settings
        self._state = state
        self._memory = memory
        self._plan: Plan | None = None
        self._proposed: Setup | None = None
        self._trying = False
        self._distrusted = True
        self.problems = Problems()
        self.datapath = Datapath(settings.bpffs, settings.cache_dir, clock.hz)
        self._switchover = Switchover(self.datapath, state, clock, memory, self.problems)
        self._ports = PodPorts(self.datapath, self.problems)
        self.serving = False
        """Whether a pass has come to its end: composed, attached, routed, announced."""
        self.refused: str | None = None
        """Why the setup proposed last was not put in force: '' if it was, None before that."""
        self.contests: list[str] = []
        """What several objects ask for and one alone can have; trying again changes nothing."""

    @property
    def complete(self) -> bool:
        """Whether the source could read everything; if not, nothing old is removed at a start."""
        return self._switchover.complete

    @complete.setter
    def complete(self, complete: bool) -> None:
        self._switchover.complete = complete

    @property
    def faults(self) -> dict[str, str]:
        """Kinds that are not essential and were found to be unusable, each with the reason."""
        return self._switchover.faults

    @property
    def composition(self) -> Composition | None:
        """What runs, specialised; None before the first."""
        return self._switchover.composition

    @property
    def sweeper(self) -> FlowSweeper | None:
        """What removes idle flows; None before the first composition."""
        return self._switchover.sweeper

    @property
    def in_force(self) -> bool:
        """Whether programs run and their maps have been filled once."""
        return self._switchover.in_force

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
        return self._ports.attached.keys()

    def propose(self, setup: Setup) -> None:
        """Let the next pass put another setup in force, as a whole or not at all."""
        self._proposed = setup
        self.refused = None
        self.faults.clear()

    def close(self) -> None:
        """Let go of everything; what is attached and pinned forwards on."""
        self._switchover.close()
        self.datapath.close()

    @property
    def unsettled(self) -> bool:
        """Whether pods' ports were attached in a hurry, which passes without one make up for."""
        return self._ports.unsettled

    @property
    def lingers(self) -> float | None:
        """Seconds until a pass has to take out what is needed no more; None if nothing is."""
        return self._plan.lingering.left if self._plan else None

    def hindrance(self, port: Port) -> str:
        """Why a pod's port must not be said to be served; '' if it is.

        An essential cube's policy that could not be planned, written or composed counts too.
        """
        lacking = self._switchover.lacking
        found = [self.problems.get(p, "") for p in ("pass", "maps", "plans", f"port {port.key}")]
        found.append(self.problems.get(PLACE, "") if lacking else "")
        return "; ".join(filter(None, found))

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
        before, switched = self._plan, False
        if self._proposed is not None and local is not None:
            switched = self._take_up(self._proposed, local)
        if self._plan is not None:
            # another plan may want other contents of the same maps
            again = everything or self._plan is not before
            switched = self._follow(self._plan, taken, local, again and not switched) or switched
        if self._trying and self.in_force:
            self._trying, self.refused = False, ""
        if self.in_force and local is not None:
            self._serve(local, everything, switched, hurry)
            if node or switched:
                self._route(local)
            if everything or not self.serving:
                self._announce()
            self.serving = True
        self._distrusted = False

    def _take_up(self, setup: Setup, local: LocalNode) -> bool:
        """Put the proposed setup in force; True if its programs took over.

        A setup that fails is given up if another one is in force, else it is tried again.
        """
        plan = Plan.of(setup, self._state, self._settings.linger_seconds)
        first = not self.in_force
        if first:
            self._find_faults(plan.planner, slow=False)
        switched = self._switchover.recompose(plan, local)
        self._proposed, self.refused = None, self.problems.get(PLACE, "")
        self._trying = first and bool(self.refused)
        if first or not self.refused:
            self._plan = plan
        else:
            self.problems.note(PLACE, "")
            self._switchover.forget_facts()
        return switched

    def _follow(
        self, plan: Plan, taken: Sequence[Change], local: LocalNode | None, everything: bool
    ) -> bool:
        """Bring maps and composition up to what has changed; True if another one took over."""
        plan.planner.seconds.clear()
        delta = plan.planner.replan(plan.planner.units(taken, self._state), self._state)
        self._find_faults(plan.planner, slow=True)
        self.contests = plan.planner.contests()
        if local is None:
            return False
        changed = None if everything else {change.kind for change in taken}
        switchover = self._switchover
        if switchover.recompose(plan, local, changed):
            return True
        if everything or (switchover.kept_unknown and switchover.complete):
            switchover.sync(plan)
        elif switchover.applier is not None:
            switchover.note_maps(switchover.applier.apply(delta))
        return False

    def _serve(self, local: LocalNode, everything: bool, switched: bool, hurry: bool) -> None:
        """Have the programs in force run on every port, and let go of all others."""
        if switched:
            self._ports.drop(self._switchover.failed)
        if everything:
            self._ports.distrust()
        if everything or switched:
            self._serve_node(local)
        self._ports.follow(dict(self._state.ports), local, hurry)
        self._switchover.settle_verdicts(final=not self._ports.failing)
        if not self._ports.failing:
            self.datapath.retire()

    def _serve_node(self, local: LocalNode) -> None:
        try:
            self.datapath.run_early()
        except OSError as error:
            self.problems.note("early", f"no packet is seen early: {error}")
        else:
            self.problems.note("early", "")
        self.datapath.attach_node(local)

    def _find_faults(self, planner: Planner, slow: bool) -> None:
        """Blame cubes whose plans raise, or take so long that all others have to wait.

        What essential ones could not plan is the problem of the place ``plans``.
        """
        cubes, blame = planner.cubes, self._switchover.blame
        for (instance, unit), error in planner.failures.items():
            reason = f"planning {' '.join(unit)} failed: {error}"
            blame(cubes.values(), cubes[instance].kind, reason)
        for instance, seconds in planner.seconds.items() if slow else ():
            if seconds > _PLAN_LIMIT:
                blame(cubes.values(), cubes[instance].kind, f"planning took {seconds:.1f} s")
        own = {o: e for o, e in planner.failures.items() if cubes[o[0]].essential}
        self.problems.note("plans", "; ".join(f"{owned}: {error}" for owned, error in own.items()))

    def _ensure_node(self) -> list[Change]:
        """Set up the node's devices; the change of LocalNode that follows, if any."""
        settings = self._settings
        node = self._state.nodes.get(settings.name)
        if node is None and not self.complete:
            node = self._memory.known.node(settings.name)
        if node is None or not node.pod_cidrs:
            self.problems.note("node", f"Node {settings.name} is unknown or has no podCIDR yet")
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
        except NetError as error:
            self.problems.note("node", str(error))
            return []
        self.problems.note("node", "")
        change = self._state.apply(Change.between(self._state.local, local))
        return [change] if change else []

    def _core_settings(self) -> CoreSettings:
        setup = self._proposed or self.setup
        return setup.core.settings if setup else CoreSettings()

    def _route(self, local: LocalNode) -> None:
        remove = not self._switchover.kept_unknown
        report = sync_routes(self._host_networks(), local, remove)
        self.problems.note("routes", "; ".join(f"{r.network}: {r.reason}" for r in report.refused))

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
            self.problems.note("cni", str(error))
        else:
            self.problems.note("cni", "")
