"""A composed datapath to send packets through, without devices: trial runs in the kernel."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from cubelet.applier import Applier, Epochs, Outcome
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.ringbuf import RingBuffer
from cubelet.bpf.testrun import skb_context
from cubelet.composer.compiler import compile_source
from cubelet.composer.composition import Chain, Composition, Mode, compose
from cubelet.composer.core import TRACE, Core, CoreSettings, Trace
from cubelet.composer.loader import load_programs
from cubelet.composer.provided import EVENT_RING, PACKET_RING, split_punted
from cubelet.composer.reasons import number_reasons
from cubelet.composer.slots import read_fields
from cubelet.composer.source import write_source
from cubelet.mapstore import close_maps, open_maps
from cubelet.planner import Planner
from cubelet.state import State
from cubelet_hooks.context import Packet as Punted
from cubelet_hooks.cube import PORT_CLASSES, Cube
from cubelet_hooks.flows import Flow, Hop, Tuple
from cubelet_hooks.objects import Change, Node, Object
from cubelet_hooks.records import Record
from cubelet_hooks.testing.network import TestNetwork
from cubelet_hooks.testing.outlet import Outlet

if TYPE_CHECKING:
    from scapy.packet import Packet

_SENT, _ANSWERED, _PUNTED = 1, 2, 3
"""How a packet left, in ``Trace.sent``."""
VERDICTS = {-1: "pass", 0: "ok", 2: "drop", 7: "redirect"}
CACHE = Path(tempfile.gettempdir()) / "cubelet-testkit"


@dataclass(frozen=True)
class Result:
    """What became of a packet.

    ``verdict`` is ``redirect``, ``drop``, ``pass`` (left to the node's stack untouched) or
    ``punt`` (handed to a cube's Python: see :meth:`Datapath.punted`);
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


class Datapath:
    """Cubes composed for trial runs: objects in, map contents planned, packets through.

    ``stacks`` gives the cubes of each port class from the port inward; ``core`` the forwarding
    ones (default: an :class:`Outlet`, whose settings say where everything leaves). A further
    instance of a kind is given by its name, ``{"pod": [Meter, "meter1"]}``, which then also has
    settings of its own; where a method wants a ``cube``, its kind stands for the first instance.
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
    ) -> None:
        self.network = network
        self._early_xdp = early_xdp
        self.state = State()
        Outlet.devices = {"overlay": network.local.overlay_ifindex, **_devices(network)}
        self.core = Core("cubelet", CoreSettings(**(settings or {}).get("core", {})))
        self.composition = _composition(stacks or {}, core, settings or {}, mode)
        self._planner = Planner([self.core, *self.composition.cubes])
        basics = [network.local, _own_node(network), *network.ports.values(), *objects]
        changes = [c for o in basics if (c := self.state.apply(Change.between(None, o)))]
        self._load()
        self._plan(changes)

    def _load(self) -> None:
        with Clock() as clock:
            self.hz = clock.hz
            # All cubes, also those that have nothing to do yet.
            facts = msgspec.structs.replace(self.composition.facts_of(self.state), needed={})
            self.composition = self.composition.specialised(facts)
            source = write_source(
                self.composition,
                self.core,
                self.network.local,
                clock.hz,
                trial=True,
                early_xdp=self._early_xdp,
            )
        kinds = {cube.source().name: cube.kind for cube in self.composition.cubes}
        compiled = compile_source(source, CACHE, kinds)
        self.specs = compiled.specs
        self.maps = open_maps(compiled.specs, None)
        self.programs = load_programs(compiled, self.maps)
        self._applier = Applier(
            self.specs, self.maps, Epochs(self.maps["cubelet_epochs"]), self.core.family
        )
        self.reasons = number_reasons(map(type, self.composition.cubes), self.composition.reasons)

    def apply(self, *objects: Object) -> Outcome:
        """Add or replace objects; returns what was written."""
        changes = [Change.between(self._known(o), o) for o in objects]
        return self._plan([c for c in map(self.state.apply, changes) if c])

    def delete(self, *objects: Object) -> Outcome:
        """Remove objects."""
        changes = [Change.between(o, None) for o in objects]
        return self._plan([c for c in map(self.state.apply, changes) if c])

    def _known(self, wanted: Object) -> Object | None:
        return next((o for o in self.state if (o.kind, o.key) == (wanted.kind, wanted.key)), None)

    def _plan(self, changes: Sequence[Change]) -> Outcome:
        units = self._planner.units(changes, self.state)
        outcome = self._applier.apply(self._planner.replan(units, self.state))
        if self._planner.failures or outcome.failures:
            raise AssertionError(f"plans {self._planner.failures}, maps {outcome.failures}")
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
        with _one_cpu():
            run = self.programs.entries[enters].test_run(
                bytes(packet), repeat, skb_context(ifindex=ifindex, gso_size=gso_size)
            )
        seen = Trace.unpack(trace.lookup(bytes(4)) or bytes(TRACE.size))
        verdict = run.retval - (1 << 32) if run.retval >> 31 else run.retval
        reason = self.reasons[seen.reason]
        return Result(
            "punt" if seen.sent == _PUNTED else VERDICTS[verdict],
            Ether(run.packet),
            f"{reason.cube}/{reason.name}",
            seen.hop if seen.sent in (_SENT, _ANSWERED) else None,
            seen.sent == _ANSWERED,
            run.duration_ns,
        )

    def receive(self, packet: Packet) -> str:
        """Run one frame through the program for the uplink's driver: ``pass`` or ``drop``.

        Needs ``early_xdp``; without it the same cubes see what :meth:`send` has enter there.
        """
        early = self.programs.early
        if early is None:
            raise AssertionError("no cube sees packets early, or early_xdp was not asked for")
        with _one_cpu():
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

    def table(self, cube: str, name: str) -> dict[Any, Any]:
        """A map's contents as records: ``table("lbrp", "services")``; ``cubelet`` is the core."""
        wanted = f"{self._instance(cube)}_{name}"
        spec = next(s for s in self.specs if s.c_name == wanted)
        if spec.declared is None:
            raise KeyError(f"{spec.c_name} holds no records")
        key_type, value_type = spec.declared.key, spec.declared.value
        family = self.core.family
        return {
            key_type.unpack(k, family): value_type.unpack(v, family)
            for k, v in self.maps[spec.c_name].items()
        }

    def put(self, cube: str, name: str, key: Record, value: Record) -> None:
        """Write one record, for tests of what only the datapath writes."""
        self.maps[f"{self._instance(cube)}_{name}"].update(key.pack(), value.pack())

    def _instance(self, cube: str) -> str:
        known = {"cubelet", *(each.instance for each in self.composition.cubes)}
        return cube if cube in known else f"{cube}0"

    def _cube(self, cube: str) -> Cube:
        instance = self._instance(cube)
        return next(each for each in self.composition.cubes if each.instance == instance)

    def events(self, cube: str) -> list[Any]:
        """The events that the cube's C has sent since they were asked for last, oldest first."""
        asked = self._cube(cube)
        if asked.event is None:
            raise KeyError(f"{cube} sends no events: Cube.event is None")
        unpack, family = asked.event.unpack, asked.family
        return [unpack(raw, family) for raw in self._drained(asked, EVENT_RING)]

    def punted(self, cube: str) -> list[Punted]:
        """The packets that the cube's C has handed over since they were asked for last."""
        asked = self._cube(cube)
        if not asked.punts:
            raise KeyError(f"{cube} hands no packets over: Cube.punts is False")
        found = map(split_punted, self._drained(asked, PACKET_RING))
        return [
            Punted(frame, PORT_CLASSES[head.entered], head.ifindex, asked.instance)
            for head, frame in found
        ]

    def _drained(self, cube: Cube, ring: str) -> list[bytes]:
        with RingBuffer(self.maps[f"{cube.instance}_{ring}"]) as opened:
            return list(opened.records())

    def fields(self, cube: str, packets: Tuple) -> Any:
        """The cube's fields in the record of the flow whose ``packets`` have this tuple.

        They are as its C sees them: all zero if it has written none. Raises KeyError if no flow
        has such packets.
        """
        asked = self._cube(cube)
        if asked.flow_fields is None:
            raise KeyError(f"{cube} keeps nothing of flows: Cube.flow_fields is None")
        area = self.flows()[packets].area
        return read_fields(asked, self.composition.slots.held[asked.instance], area)

    def flows(self) -> dict[Tuple, Flow]:
        """All flow records, pending and replied."""
        return self.table("cubelet", "pending") | self.table("cubelet", "flows")

    def close(self) -> None:
        """Let go of programs and maps."""
        self.programs.close()
        close_maps(self.maps)


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
) -> Composition:
    chain = Chain(
        core=tuple(c.kind for c in core),
        stacks={
            name: tuple(c if isinstance(c, str) else c.kind for c in cubes)
            for name, cubes in stacks.items()
        },
    )
    given = (each for cubes in (core, *stacks.values()) for each in cubes)
    found = {each.kind: each for each in given if not isinstance(each, str)}
    return compose(chain, found, settings, mode)


class _one_cpu:  # noqa: N801 - reads as a statement
    """Per-CPU state must be that of one CPU for the whole of a run."""

    def __enter__(self) -> None:
        self._before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {min(self._before)})

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self._before)
