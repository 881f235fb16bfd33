"""Brings the node to what the state demands: devices, programs, maps, attachments, routes.

Level-triggered: every pass compares what is wanted with what is. It runs in a worker thread, one
pass at a time, because compiling and netlink block.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Sequence

import structlog

from cubelet.applier import Applier, Epochs, Outcome
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.syscalls import BpfError
from cubelet.cni.conf import write_conflist
from cubelet.composer.compiler import CompileError
from cubelet.composer.composition import Composition
from cubelet.composer.core import Core
from cubelet.datapath import Datapath, Prepared
from cubelet.flows import FlowSweeper
from cubelet.net import NetError
from cubelet.net.node import NodeSettings, ensure
from cubelet.net.routes import sync_routes
from cubelet.planner import Planner
from cubelet.settings import Settings
from cubelet.state import State
from cubelet_hooks.objects import Change, LocalNode, Network, Node, Port, Service

log = structlog.get_logger()
_NODE_KINDS = frozenset({Node.kind, Service.kind, LocalNode.kind})
"""Kinds whose changes may alter devices or routes."""


class Reconciler:
    """Owns everything on the node that follows from the state."""

    def __init__(
        self, settings: Settings, composition: Composition, core: Core, state: State, clock: Clock
    ) -> None:
        self._settings = settings
        self._composition = composition
        self._core = core
        self._state = state
        self._clock = clock
        self._planner = Planner([core, *composition.cubes])
        self._applier: Applier | None = None
        self._attached: dict[str, Port] = {}
        self._defines: object = None
        self._refused: object = None
        self._distrusted = True
        self.datapath = Datapath(settings.bpffs, settings.cache_dir, clock.hz)
        self.sweeper: FlowSweeper | None = None
        self.serving = False
        """Whether a pass has come to its end: composed, attached, routed, announced."""
        self.complete = True
        """Whether the source could read everything; if not, nothing old is removed at a start."""
        self._kept_unknown = False
        self.problems: dict[str, str] = {}

    @property
    def in_force(self) -> bool:
        """Whether programs run and their maps have been filled once."""
        return self._applier is not None

    def run(self, changes: Sequence[Change]) -> None:
        """One pass. What goes wrong is in ``problems`` afterwards, by its place; nothing raises.

        After a pass that broke off, or :meth:`distrust`, the next one looks at everything anew.
        """
        try:
            self._run(changes)
        except Exception as error:  # a bug here must not end the agent
            log.error("a pass failed", error=repr(error), exc_info=not isinstance(error, OSError))
            self.problems["pass"] = repr(error)
        else:
            self.problems.pop("pass", None)

    def distrust(self) -> None:
        """Let the next pass look at everything, whether it is known to have changed or not."""
        self._distrusted = True

    def _run(self, changes: Sequence[Change]) -> None:
        everything, self._distrusted = self._distrusted, True
        taken = [change for change in map(self._state.apply, changes) if change is not None]
        node = everything or any(change.kind in _NODE_KINDS for change in taken)
        if node:
            taken += self._ensure_node()
        delta = self._planner.replan(self._planner.units(taken, self._state), self._state)
        self._note("plans", "; ".join(f"{o}: {e}" for o, e in self._planner.failures.items()))
        local = self._state.local
        if local is None:
            return
        if not self._compose(local) and self._applier is not None:
            again = everything or (self._kept_unknown and self.complete)
            outcome = self._sync(self._applier) if again else self._applier.apply(delta)
            self._note_maps(outcome)
        if self._applier is not None:
            if everything:
                self.datapath.attach_node(local)
                self._attached.clear()
            self._attach_pods(local)
            if not any(place.startswith("port ") for place in self.problems):
                self.datapath.retire()
            if node:
                self._route(local)
            self._announce()
            self.serving = True
        self._distrusted = False

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
        if node is None or not node.pod_cidrs:
            self._note("node", f"Node {settings.name} is unknown or has no podCIDR yet")
            return []
        ports = (self._core.settings.snat_first_port, self._core.settings.snat_last_port)
        try:
            local = ensure(
                NodeSettings(
                    node_name=node.name,
                    pod_cidr=node.pod_cidrs[0],
                    snat_ports=ports,
                    addresses=node.addresses,
                    gateway=settings.gateway,
                    overlay=settings.overlay,
                    uplink=settings.uplink,
                    vxlan_port=settings.vxlan_port,
                )
            )
        except NetError as error:
            self._note("node", str(error))
            return []
        self._note("node", "")
        change = self._state.apply(Change.between(self._state.local, local))
        return [change] if change else []

    def _compose(self, local: LocalNode) -> bool:
        """Compose anew if what is compiled in has changed; True if a new composition took over."""
        defines = (local, [dict(cube.defines(self._state)) for cube in self._composition.cubes])
        if defines == self._defines and self.in_force:
            self._note("composition", "")
            return False
        if defines == self._refused:
            return False  # it would be refused again
        try:
            prepared = self.datapath.prepare(self._composition, self._core, self._state, local)
        except (CompileError, BpfError) as error:
            self._refused = defines if isinstance(error, CompileError) else None
            self._note("composition", str(error))
            return False
        if prepared is not None:
            self._take_over(prepared)
        self.datapath.attach_node(local)
        self._note("composition", "")
        self._defines, self._refused = defines, None
        return prepared is not None

    def _take_over(self, prepared: Prepared) -> None:
        """Fill a composition's maps, then put it in force."""
        try:
            epochs = Epochs(prepared.maps["cubelet_epochs"])
            applier = Applier(prepared.compiled.specs, prepared.maps, epochs, self._core.family)
            outcome = self._sync(applier)
        except BaseException:
            prepared.close()
            raise
        self._note_maps(outcome)
        failed = self.datapath.switch(prepared)
        self._attached = {k: p for k, p in self._attached.items() if p.host_ifname not in failed}
        self._applier = applier
        self.sweeper = FlowSweeper(prepared.maps, self._clock, self._core.family)
        log.info(
            "composition in force",
            identity=self.datapath.identity,
            mode=self._composition.mode,
            cubes=[cube.instance for cube in self._composition.cubes],
            entries=outcome.written,
        )

    def _note_maps(self, outcome: Outcome) -> None:
        self._note("maps", "; ".join(f"{m}: {e}" for m, e in outcome.failures.items()))

    def _sync(self, applier: Applier) -> Outcome:
        """Make the maps hold what is wanted; what is unknown to a source in trouble is kept."""
        self._kept_unknown = not self.complete and (self._kept_unknown or not self.in_force)
        return applier.sync(self._planner.contents(), remove=not self._kept_unknown)

    def _attach_pods(self, local: LocalNode) -> None:
        wanted = dict(self._state.ports)
        for key, port in tuple(self._attached.items()):
            if wanted.get(key) != port:
                self.datapath.detach(port.host_ifname)
                del self._attached[key]
        for key, port in wanted.items():
            if key not in self._attached:
                self._attach_pod(port, local)
        for place in [each for each in self.problems if each.startswith("port ")]:
            if place.removeprefix("port ") not in wanted:
                self._note(place, "")
        self.datapath.forget_strangers(self._attached)

    def _attach_pod(self, port: Port, local: LocalNode) -> None:
        if not any(address in local.pod_cidr for address in port.addresses):
            self._note(f"port {port.key}", f"its address is not in the podCIDR {local.pod_cidr}")
            return
        try:
            self.datapath.attach_pod(port)
        except OSError as error:
            self._note(f"port {port.key}", str(error))
            return
        self._note(f"port {port.key}", "")
        self._attached[port.key] = port

    def _route(self, local: LocalNode) -> None:
        report = sync_routes(self._host_networks(), local)
        self._note("routes", "; ".join(f"{r.network}: {r.reason}" for r in report.refused))

    def _host_networks(self) -> Iterable[Network]:
        """What the host reaches through the datapath: pods, Services, the hairpin address."""
        networks = {cidr for node in self._state.nodes.values() for cidr in node.pod_cidrs}
        networks |= set(self._settings.service_cidrs)
        networks |= {local.pod_cidr} if (local := self._state.local) else set()
        networks.add(ipaddress.ip_network(self._core.settings.hairpin_address))
        for service in self._state.services.values():
            addresses = (*service.external_ips, *service.load_balancer_ips)
            networks |= {ipaddress.ip_network(address) for address in addresses}
        return [network for network in networks if network.version == self._core.family]

    def _announce(self) -> None:
        if self._settings.cni_conf is not None:
            try:
                write_conflist(self._settings.cni_conf, self._settings.socket)
            except OSError as error:
                self._note("cni", str(error))
                return
            self._note("cni", "")
