"""Reading a test datapath's maps, events and flow records, by cube."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cubelet.bpf.maps import BpfMap
from cubelet.bpf.ringbuf import RingBuffer
from cubelet.composer.composition import Composition
from cubelet.composer.core import Core
from cubelet.composer.ends import RING, Ended
from cubelet.composer.layout import MapSpec
from cubelet.composer.provided import EVENT_RING, PACKET_RING, split_punted
from cubelet.composer.slots import read_fields
from cubelet.cubes.context import CubeContext
from cubelet.cubes.ends import ended_flow
from cubelet.state.cluster import State
from cubelet_hooks.context import Packet
from cubelet_hooks.cube import PORT_CLASSES, Cube
from cubelet_hooks.ends import EndedFlow
from cubelet_hooks.flows import Flow, Tuple
from cubelet_hooks.objects import Object
from cubelet_hooks.records import Record


class Contents:
    """Reads and writes a composition's maps. A method's ``cube`` is a kind or an instance's name.

    ``sent`` are the frames that cubes have sent by their contexts, each with its ifindex.
    """

    state: State
    core: Core
    composition: Composition
    specs: Sequence[MapSpec]
    maps: Mapping[str, BpfMap]

    def __init__(self) -> None:
        self.sent: list[tuple[bytes, int]] = []
        self._contexts: dict[str, CubeContext] = {}

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
        """Write one record, for instance to a map that otherwise only the datapath writes."""
        self.maps[f"{self._instance(cube)}_{name}"].update(
            key.pack(self.core.family), value.pack(self.core.family)
        )

    def _instance(self, cube: str) -> str:
        known = {"cubelet", *(each.instance for each in self.composition.cubes)}
        return cube if cube in known else f"{cube}0"

    def _cube(self, cube: str) -> Cube:
        instance = self._instance(cube)
        return next(each for each in self.composition.cubes if each.instance == instance)

    def events(self, cube: str) -> list[Any]:
        """The events that the cube's C has sent since the last call, oldest first."""
        asked = self._cube(cube)
        if asked.event is None:
            raise KeyError(f"{cube} sends no events: Cube.event is None")
        unpack, family = asked.event.unpack, asked.family
        return [unpack(raw, family) for raw in self._drained(asked, EVENT_RING)]

    def punted(self, cube: str) -> list[Packet]:
        """The packets that the cube's C has handed over since the last call."""
        asked = self._cube(cube)
        if not asked.punts:
            raise KeyError(f"{cube} hands no packets over: Cube.punts is False")
        found = map(split_punted, self._drained(asked, PACKET_RING))
        return [
            Packet(frame, PORT_CLASSES[head.entered], head.ifindex, asked.instance)
            for head, frame in found
        ]

    def _drained(self, cube: Cube, ring: str) -> list[bytes]:
        with RingBuffer(self.maps[f"{cube.instance}_{ring}"]) as opened:
            return list(opened.records())

    def ended(self, cube: str) -> list[EndedFlow]:
        """The flows whose end the programs have told of since the last call, as the cube sees it.

        A connection ends when another one closes after it, for which it makes room: with the
        setting ``core: {flows: ...}`` small, the next one.
        """
        asked = self._cube(cube)
        if not asked.number(asked.ended):
            raise KeyError(f"{cube} is told of no flow's end: Cube.ended is 0")
        with RingBuffer(self.maps[f"cubelet_{RING}"]) as opened:
            found = [Ended.unpack(raw, asked.family) for raw in opened.records()]
        return [ended_flow(asked, self.composition.slots, each, None) for each in found]

    def fields(self, cube: str, packets: Tuple) -> Any:
        """The cube's fields in the flow record whose key is the tuple ``packets``.

        They are all zero if the cube's C has written none. Raises KeyError if there is no such
        record.
        """
        asked = self._cube(cube)
        if asked.flow_fields is None:
            raise KeyError(f"{cube} keeps nothing of flows: Cube.flow_fields is None")
        area = self.flows()[packets].area
        return read_fields(asked, self.composition.slots.held[asked.instance], area)

    def context(self, cube: str) -> CubeContext:
        """A context for the cube's callbacks, as in the agent; the frames it sends go to ``sent``.

        It lets a test call a callback with an event or packet of a real program:
        ``cube.on_packet(dp.punted("desk")[0], dp.context("desk"))``.
        """
        asked = self._cube(cube)
        if asked.instance not in self._contexts:
            self._contexts[asked.instance] = CubeContext(asked, self.state, self.maps, self._send)
        return self._contexts[asked.instance]

    def tick(self, cube: str) -> None:
        """Call the cube's ``on_tick``, as the agent does when it is due."""
        self._cube(cube).on_tick(self.context(cube))

    def _tell_gone(self, gone: Sequence[Object]) -> None:
        for each in gone:
            for cube in self.composition.cubes:
                if each.kind in cube.gone:
                    cube.on_gone(each, self.context(cube.instance))

    def _send(self, frame: bytes, ifindex: int) -> None:
        self.sent.append((frame, ifindex))

    def close_contexts(self) -> None:
        """Close the contexts that :meth:`context` has made."""
        for each in self._contexts.values():
            each.close()
        self._contexts.clear()

    def flows(self) -> dict[Tuple, Flow]:
        """All flow records, of unanswered flows (pending) and of answered ones."""
        return self.table("cubelet", "pending") | self.table("cubelet", "flows")
