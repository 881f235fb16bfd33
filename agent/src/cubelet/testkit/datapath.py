"""A composed datapath to send packets through, without devices: trial runs in the kernel."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cubelet.bpf.folders import private_folder
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.testrun import one_cpu, skb_context
from cubelet.composer.compiler import compile_source
from cubelet.composer.composition import Chain, Composition, Mode, compose
from cubelet.composer.core import TRACE, Core, CoreSettings, Trace
from cubelet.composer.loader import load_programs
from cubelet.composer.reasons import number_reasons
from cubelet.composer.source import write_source
from cubelet.control.planner import Planner
from cubelet.datapath.applier import Applier, Outcome
from cubelet.datapath.epochs import Epochs
from cubelet.datapath.maps import close_maps, open_maps
from cubelet.state.cluster import State
from cubelet.testkit.collector import Collector, collecting
from cubelet.testkit.contents import Contents
from cubelet.testkit.network import TestNetwork
from cubelet.testkit.outlet import Outlet
from cubelet_hooks.cube import PORT_CLASSES, UPLINK_EGRESS, Complaint, Cube, Direction
from cubelet_hooks.flows import Hop
from cubelet_hooks.objects import Change, Node, Object
from cubelet_hooks.records import Family

if TYPE_CHECKING:
    from scapy.packet import Packet

_SENT, _ANSWERED, _PUNTED, _KEPT = 1, 2, 3, 4
"""How a packet left, in ``Trace.sent``."""
VERDICTS = {-1: "pass", 0: "ok", 2: "drop", 7: "redirect"}
# What was compiled. Nobody but root may put anything there, since it is loaded as it is.
CACHE = Path("/var/cache/cubelet-testkit")


@dataclass(frozen=True)
class Result:
    """What became of a packet.

    ``verdict`` is ``redirect``, ``drop``, ``pass`` (left to the node's stack untouched), ``punt``
    (handed to a cube's Python: see :meth:`Datapath.punted`) or ``keep`` (a fragment that waits for
    its first, whose arrival makes it enter its device once more);
    ``reason`` is ``cube/name`` of why it was dropped or refused (``core/none`` else); ``hop`` is
    where it was sent; ``answered`` says that an answer went back to where it came from.
    """

    verdict: str
    packet: Packet
    reason: str
    hop: Hop | None
    answered: bool
    duration_ns: int

    @property
    def leaves(self) -> str | None:
        """The port class the packet left by; None if it did not."""
        return PORT_CLASSES[self.hop.port_class] if self.hop and not self.answered else None


class Datapath(Contents):
    """Cubes composed for trial runs: give it objects, it fills the maps; then send packets.

    ``stacks`` lists the cubes of each port class from the port inward, ``core`` the forwarding
    ones (default: an :class:`Outlet`, whose settings say where everything leaves). A further
    instance of a kind is given by its name, ``{"pod": [Meter, "meter1"]}``, and has settings of
    its own; where a method takes a ``cube``, a kind stands for its first instance.
    ``directions`` are those of a Chain. Of ``family`` 6 the nodes and pods have the addresses that
    stand for those of family 4: see ``twin`` in ``cubelet.testkit.families``.
    """

    def __init__(
        self,
        network: TestNetwork,
        stacks: Mapping[str, Sequence[type[Cube] | str]] | None = None,
        core: Sequence[type[Cube]] = (Outlet,),
        settings: Mapping[str, Mapping[str, Any]] | None = None,
        mode: Mode = "fused",
        objects: Iterable[Object] = (),
        early_xdp: bool = False,
        directions: Mapping[str, Mapping[str, Direction]] | None = None,
        family: Family = 4,
    ) -> None:
        super().__init__()
        self.network = network = network.of(family)
        self._early_xdp = early_xdp
        self.state = State()
        Outlet.devices = {"overlay": network.local.overlay_ifindex, **_devices(network)}
        own = CoreSettings(**(settings or {}).get("core", {}))
        self.core = Core("cubelet", own, family)
        self.composition = _composition(
            stacks or {}, core, settings or {}, mode, directions, family
        )
        self._planner = Planner([self.core, *self.composition.cubes])
        basics = [network.local, _own_node(network), *network.ports.values(), *objects]
        changes = [c for o in basics if (c := self.state.apply(Change.between(None, o)))]
        self._load()
        self._plan(changes)

    def _load(self) -> None:
        with Clock() as clock:
            self.hz = clock.hz
            # All cubes, also those that have nothing to do yet.
            facts = self.composition.facts_of(self.state)
            egress = (name for name, needed in facts.needed.items() if UPLINK_EGRESS in needed)
            everywhere = dict.fromkeys(egress, (*PORT_CLASSES, UPLINK_EGRESS))
            facts = msgspec.structs.replace(facts, needed=everywhere)
            self.composition = self.composition.specialised(facts)
            source = write_source(
                self.composition,
                self.core,
                self.network.local,
                clock.hz,
                trial=True,
                early_xdp=self._early_xdp,
            )
        compiled = compile_source(source, private_folder(CACHE))
        self.compiled, self.specs = compiled, compiled.specs
        self.maps = open_maps(compiled.specs, None)
        self.programs = load_programs(compiled, self.maps)
        self._epochs = Epochs(self.maps["cubelet_epochs"], self.state)
        self._applier = Applier(
            self.specs, self.maps, self._epochs, self.core.family, _nobody_reads
        )
        self.reasons = number_reasons(map(type, self.composition.cubes), self.composition.reasons)

    def apply(self, *objects: Object) -> Outcome:
        """Add or replace objects; returns what was written. Cubes are told of what is gone."""
        changes = [Change.between(self._known(o), o) for o in objects]
        return self._plan([c for c in map(self.state.apply, changes) if c])

    def delete(self, *objects: Object) -> Outcome:
        """Remove objects. Cubes that asked for it (``Cube.gone``) are told."""
        changes = [Change.between(o, None) for o in objects]
        return self._plan([c for c in map(self.state.apply, changes) if c])

    @property
    def complaints(self) -> frozenset[Complaint]:
        """What the cubes complain about, and who does not get what others have, as it is now."""
        return self._planner.complaints()

    @property
    def rejected(self) -> list[str]:
        """What ``cubelet status`` would say of units that conflict or do not fit, where no
        object can be named."""
        return self._planner.rejected()

    def _known(self, wanted: Object) -> Object | None:
        return next((o for o in self.state if (o.kind, o.key) == (wanted.kind, wanted.key)), None)

    def _plan(self, changes: Sequence[Change]) -> Outcome:
        units = self._planner.units(changes, self.state)
        outcome = self._applier.apply(self._planner.replan(units, self.state))
        if self._planner.failures or outcome.failures:
            raise AssertionError(f"plans {self._planner.failures}, maps {outcome.failures}")
        self._tell_gone([change.gone for change in changes if change.gone is not None])
        return outcome

    def send(
        self,
        packet: Packet,
        enters: str = "pod",
        pod: str = "default/a",
        gso_size: int = 0,
        repeat: int = 1,
    ) -> Result:
        """Run one frame through the entry program of a port class; ``pod`` names the pod's port."""
        from scapy.layers.l2 import Ether

        ifindex = self._ifindex(enters, pod)
        trace = self.maps[f"cubelet_{TRACE.name}"]
        trace.update(bytes(4), bytes(TRACE.size))
        with one_cpu():
            run = self.programs.entries[enters].test_run(
                bytes(packet), repeat, skb_context(ifindex=ifindex, gso_size=gso_size)
            )
        seen = Trace.unpack(trace.lookup(bytes(4)) or bytes(TRACE.size))
        verdict = VERDICTS[run.retval - (1 << 32) if run.retval >> 31 else run.retval]
        reason = self.reasons[seen.reason]
        return Result(
            {_PUNTED: "punt", _KEPT: "keep"}.get(seen.sent, verdict),
            Ether(run.packet),
            f"{reason.cube}/{reason.name}",
            seen.hop if seen.sent in (_SENT, _ANSWERED) else None,
            seen.sent == _ANSWERED,
            run.duration_ns,
        )

    def collector(self, pod: str) -> AbstractContextManager[Collector]:
        """Listen at a pod's port for the copies that cubes have made for it (``Cube.mirrors``):

        with dp.collector("default/c") as collector:
            dp.send(packet)
            copies = collector.frames()
        """
        return collecting(self.network.ports[pod])

    def lose_records(self) -> None:
        """Forget all flows, as when the agent has made the tables anew.

        For a minute TCP that is under way may then open flows.
        """
        for name in ("flows", "pending"):
            table = self.maps[f"cubelet_{name}"]
            table.delete_batch([key for key, _ in table.items()])
        with Clock() as clock:
            until = clock.now() + clock.ticks(60) & 0xFFFFFFFF
        self.maps["cubelet_recovery"].update(bytes(4), until.to_bytes(8, "little"))

    def receive(self, packet: Packet) -> str:
        """Run one frame through the program for the uplink's driver: ``pass`` or ``drop``.

        Needs ``early_xdp``; without it the same cubes see what :meth:`send` has enter there.
        """
        early = self.programs.early
        if early is None:
            raise AssertionError("no cube sees packets early, or early_xdp was not asked for")
        with one_cpu():
            return {1: "drop", 2: "pass"}[early.test_run(bytes(packet)).retval]

    def _ifindex(self, enters: str, pod: str) -> int:
        local = self.network.local
        if enters == "pod":
            return self.network.ports[pod].ifindex
        return {
            "host": local.datapath_ifindex,
            "overlay": local.overlay_ifindex,
            "uplink": local.uplink_ifindex,
        }[enters]

    def close(self) -> None:
        """Close programs and maps."""
        self.close_contexts()
        self._epochs.close()
        self.programs.close()
        close_maps(self.maps)


def _nobody_reads() -> None:
    """No packet is under way while maps are written: it has been told what became of it."""


def _devices(network: TestNetwork) -> dict[str, int]:
    local = network.local
    last = list(network.ports.values())[-1]
    return {"uplink": local.uplink_ifindex, "host": local.gateway_ifindex, "pod": last.ifindex}


def _own_node(network: TestNetwork) -> Node:
    local = network.local
    return Node(name=local.name, addresses=local.addresses, pod_cidrs=(local.pod_cidr,))


def _composition(
    stacks: Mapping[str, Sequence[type[Cube] | str]],
    core: Sequence[type[Cube]],
    settings: Mapping[str, Mapping[str, Any]],
    mode: Mode,
    directions: Mapping[str, Mapping[str, Direction]] | None,
    family: Family,
) -> Composition:
    chain = Chain(
        core=tuple(c.kind for c in core),
        stacks={
            name: tuple(c if isinstance(c, str) else c.kind for c in cubes)
            for name, cubes in stacks.items()
        },
        directions=directions or {},
    )
    given = (each for cubes in (core, *stacks.values()) for each in cubes)
    found = {each.kind: each for each in given if not isinstance(each, str)}
    return compose(chain, found, settings, mode, family=family)
