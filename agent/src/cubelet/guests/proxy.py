"""The agent's stand-in for a guest's class: what would run its Python asks its process instead."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from cubelet.bpf.maps import BpfMap
from cubelet.cubes.outside import Outside, Ring, Tally
from cubelet.datapath.records import Shown
from cubelet.guests import answers
from cubelet.guests.answers import Concerned, Piece, Planned
from cubelet.guests.host import GuestError, Host
from cubelet.guests.ledger import Asked, Ledger
from cubelet_hooks.cube import Complaint, Condition, Cube, Entry, Part, Row, Settings, Unit
from cubelet_hooks.ends import EndedFlow
from cubelet_hooks.maps import Concern, Map
from cubelet_hooks.metrics import Sample
from cubelet_hooks.objects import Change, Object
from cubelet_hooks.records import Family, Record

_AT_ONCE = 200
"""Changes whose units are asked for at once."""


class Guest(Outside):
    """What all stand-ins have. Each class of :func:`stand_in` is one, and of its guest's class."""

    host: Host
    ledger: Ledger

    def __init__(self, instance: str, settings: Settings, family: Family = 4) -> None:
        self.instance, self.settings, self.family = instance, settings, family
        self._namespace: tuple[Unit, str] = ((), "")
        self._ahead: dict[int, list[Unit]] = {}
        self.ledger.forgive()

    @property
    def fault(self) -> str:
        """Why the cube cannot be used, if it was stopped too often; else ''."""
        return self.ledger.fault

    def ask(self, asked: Asked, method: str, *given: Any) -> Any:
        """The answer of the guest's instance. Raises GuestError."""
        return self.host.ask(self, self.ledger, asked, method, *given)

    def make_ready(self) -> None:
        """Have the guest's instance made with these settings. Raises GuestError."""
        self.ask(Asked("making it"), "ready")

    def serve(self, maps: Mapping[str, BpfMap]) -> None:
        """See the base."""
        self.host.serve(self, maps)

    def deliver(self, ring: Ring, records: Sequence[bytes]) -> Tally:
        """See the base."""
        found: Tally = self.ask(Asked(f"on_{ring}"), "deliver", ring, records)
        return found

    def look_ahead(self, changes: Sequence[Change]) -> None:
        """Ask for the units of many changes at once, as they will be asked for one by one.

        Where that fails it is found out then.
        """
        self._ahead.clear()
        for start in range(0, len(changes) if len(changes) > 1 else 0, _AT_ONCE):
            some, asked = changes[start : start + _AT_ONCE], Asked("units of several", several=True)
            try:
                found: list[list[Unit] | None] = self.ask(asked, "units_of", some)
            except GuestError:
                return
            pairs = zip(some, found, strict=True)
            self._ahead |= {id(each): units for each, units in pairs if units is not None}

    def units_ahead(self, change: Change) -> list[Unit] | None:
        """What is known of a change's units already."""
        return self._ahead.pop(id(change), None)

    def about(self, unit: Unit, what: str) -> Asked:
        """A question about a unit, which is its namespace's."""
        known, namespace = self._namespace
        if unit != known:
            namespace = Cube.namespace_of(self, unit, None)  # type: ignore[arg-type]
        return Asked(f"{what} {' '.join(unit)}", namespace)

    def asked_namespace(self, unit: Unit) -> str:
        """Whom the guest says that the unit is charged to."""
        self._namespace = ((), "")
        found: str = self.ask(self.about(unit, "namespace_of"), "namespace_of", unit)
        self._namespace = (unit, found)
        return found

    def _parts(self, unit: Unit) -> Iterable[Part]:
        asked = self.about(unit, "parts of")
        pieces: list[Piece] = self.ask(asked, "parts", unit)
        for each in pieces:
            yield Part(each.name, self._of(unit, each), each.fixed, each.title, each.about)

    def _of(self, unit: Unit, piece: Piece) -> Iterable[Entry | Complaint | Condition]:
        planned = piece.planned
        if planned is None:
            asked = self.about(unit, "parts of")
            planned = self.ask(asked, "fixed", unit, piece.name)
        yield from answers.unpacked(planned)


def _units(self: Guest, change: Change, *_: object) -> Iterable[Unit]:
    namespace = getattr(change.new or change.old, "namespace", "")
    asked = Asked(f"units for {change.kind} {change.key}", namespace)
    if (found := self.units_ahead(change)) is None:
        found = self.ask(asked, "units", change)
    return found


def _plan(self: Guest, unit: Unit, *_: object) -> Iterable[Entry | Complaint | Condition]:
    planned: Planned = self.ask(self.about(unit, "plan of"), "plan", unit)
    return answers.unpacked(planned)


def _refused(self: Guest, unit: Unit, *_: object) -> Iterable[Entry | Complaint | Condition]:
    planned: Planned = self.ask(self.about(unit, "refused of"), "refused", unit)
    return answers.unpacked(planned)


def _parts(self: Guest, unit: Unit, *_: object) -> Iterable[Part]:
    return self._parts(unit)


def _namespace_of(self: Guest, unit: Unit, *_: object) -> str:
    return self.asked_namespace(unit)


def _object_of(self: Guest, unit: Unit, *_: object) -> tuple[str, str] | None:
    found: tuple[str, str] | None = self.ask(self.about(unit, "object_of"), "object_of", unit)
    return found


def _rejected(self: Guest, key: Record, holder: Unit, other: Unit) -> str | Complaint:
    name = next(each.name for each in self.maps if isinstance(key, each.key))
    packed = key.pack(self.family)
    told = self.ask(self.about(other, "rejected for"), "rejected", name, packed, holder, other)
    return told if isinstance(told, str) else Complaint(*told)


def _defines(self: Guest, *_: object) -> Mapping[str, int]:
    found: dict[str, int] = self.ask(Asked("defines"), "defines")
    return found


def _needed_on(self: Guest, *_: object) -> Collection[str]:
    found: list[str] = self.ask(Asked("needed_on"), "needed_on")
    return found


def _rows(self: Guest, noun: str, *_: object) -> Iterable[Row]:
    return map(Shown, self.ask(Asked(f"rows of {noun}"), "rows", noun))


def _collect(self: Guest, *_: object) -> Iterable[Sample]:
    found: list[tuple[str, tuple[str, ...], float]] = self.ask(Asked("collect"), "collect")
    return [Sample(metric, value, labels) for metric, labels, value in found]


def _answer(self: Guest, method: str, params: Mapping[str, Any], *_: object) -> object:
    return self.ask(Asked(f"answer to {method}"), "answer", method, dict(params))


def _on_tick(self: Guest, *_: object) -> None:
    self.ask(Asked("on_tick"), "on_tick")


def _on_gone(self: Guest, gone: Object, *_: object) -> None:
    namespace = getattr(gone, "namespace", "")
    self.ask(Asked(f"on_gone of {gone.kind} {gone.key}", namespace), "on_gone", gone)


def _on_ended(self: Guest, flow: EndedFlow, *_: object) -> None:
    self.ask(Asked("on_ended"), "on_ended", flow)


REMOTE: Mapping[str, Callable[..., object]] = {
    "units": _units,
    "plan": _plan,
    "refused": _refused,
    "parts": _parts,
    "namespace_of": _namespace_of,
    "object_of": _object_of,
    "rejected": _rejected,
    "defines": _defines,
    "needed_on": _needed_on,
    "rows": _rows,
    "collect": _collect,
    "answer": _answer,
    "on_tick": _on_tick,
    "on_gone": _on_gone,
    "on_ended": _on_ended,
}
"""What asks the guest in place of each method that its class has of its own."""


def stand_in(guest: type[Cube], host: Host) -> type[Guest]:
    """A class with the guest's declarations, none of whose methods runs the guest's Python."""
    ledger = Ledger()
    own = {
        name: remote
        for name, remote in REMOTE.items()
        if getattr(guest, name) is not getattr(Cube, name)
    }
    declared = {
        "__module__": guest.__module__,
        "__doc__": guest.__doc__,
        "host": host,
        "ledger": ledger,
        "size_of": Cube.size_of,
        "number": Cube.number,
    }
    made: type[Guest] = type(guest.__name__, (Guest, guest), declared | own)
    made.maps = tuple(_map(each, made) for each in guest.maps)
    return made


def _map(declared: Map, made: type[Guest]) -> Map:
    """The map as its guest declares it; whom an entry concerns its process says."""
    if declared.concerns is None:
        return declared
    return replace(declared, concerns=_concern(declared.name, made))


def _concern(name: str, made: type[Guest]) -> Concern:
    def concerns(key: Record, value: Record) -> Any:
        asked = Asked(f"concerns of map {name}")
        cube = made.host.any_of(made)
        packed = key.pack(cube.family), value.pack(cube.family)
        found: Concerned = made.host.ask(cube, made.ledger, asked, "concerns", name, *packed)
        return answers.meant(found)

    return concerns
