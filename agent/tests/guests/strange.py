"""Cubes of somebody else, as careless as can be, and a planner that asks them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from cubelet.control.planner import Planner
from cubelet.cubes.discovery import discover
from cubelet.guests.proxy import Guest
from cubelet.guests.registry import Guests
from cubelet.state.cluster import State
from cubelet_hooks.objects import Change, Namespace

CUBE = '''
import os, re, signal, socket, subprocess, sys, threading, time
from ipaddress import ip_address

from cubelet_hooks.cube import Complaint, Cube, Entry, Part, Settings
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.maps import EVERYTHING, Map, MapType
from cubelet_hooks.metrics import Metric, Sample
from cubelet_hooks.records import Addr, U32, Record


class Key(Record):
    number: U32


class Address(Record):
    address: Addr


class Amount(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    amount: int = 1


hoard = []


class Odd(Cube):
    """Wants an entry for each namespace's label ``key``; its label ``do`` is Python."""

    kind = "odd"
    inward = frozenset({{"pod"}})
    settings_type = Amount
    maps = (
        Map("tags", MapType.HASH, Key, Key, 100, concerns=lambda key, value: concerned(key)),
        Map("closed", MapType.HASH, Key, Key, 100),
    )

    def __init__(self, instance, settings, family=4):
        super().__init__(instance, settings, family)
        if settings.amount > 9:
            raise ValueError("an amount over 9")
        self.amount = settings.amount

    def units(self, change, view):
        if change.new is not None and (text := change.new.labels.get("units")):
            exec(text, globals() | locals())
        return [("tag", change.key)]

    def plan(self, unit, view):
        if (found := view.namespaces.get(unit[1])) is not None:
            yield Entry("tags", Key(int(found.labels["key"])), Key(self.amount))
            if text := found.labels.get("do"):
                exec(text, globals() | locals())
            for number in range(int(found.labels.get("count", "0"))):
                yield Entry("tags", Key(1000 + number), Key(1), rank=(number,))
            if found.labels.get("ever"):
                number = 0
                while True:
                    number += 1
                    yield eval(found.labels["ever"])
            if "wrong" in found.labels:
                yield Complaint("Namespace", unit[1], "Wrong", found.labels["wrong"])
{more}

def concerned(key):
    return {{1: None, 2: EVERYTHING, 3: ip_address("10.1.0.3")}}[key.number]


@hookimpl
def cubelet_cubes():
    return [Odd]
'''
REFUSING = """
    def refused(self, unit, view):
        yield Entry("closed", Key(sum(map(ord, unit[1]))), Key(1))

    def namespace_of(self, unit, view):
        return unit[1]
"""


class Bench:
    """A state, a guest's cube, and a planner that asks it. ``more`` are methods of the cube's."""

    def __init__(self, folder: Path, name: str, more: str = "", **settings: Any) -> None:
        package = folder / name
        (package / "bpf").mkdir(parents=True)
        (package / "bpf/odd.bpf.c").touch()
        (package / "__init__.py").write_text(CUBE.format(more=more))
        self.state = State()
        self.guests = Guests(self.state)
        point = EntryPoint("odd", name, "cubelet.cubes")
        self.discovery = found = discover([point], self.guests.stand_in)
        assert not found.quarantined()
        self.kind = found.cubes["odd"]
        assert issubclass(self.kind, Guest)
        made = self.kind("odd0", self.kind.settings_type(**settings))
        assert isinstance(made, Guest)
        self.cube = made
        self.planner = Planner([made])

    @property
    def host(self) -> Any:
        """Its process's host."""
        return self.cube.host

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.host.pid is not None

    def put(self, name: str, key: int = 1, **labels: str) -> dict[str, dict[int, int | None]]:
        """A namespace with these labels, new or changed; what that changes in what is wanted."""
        return self.take_in(Namespace(name=name, labels={"key": str(key), **labels}))

    def take_in(self, *objects: Namespace) -> dict[str, dict[int, int | None]]:
        """The same for several."""
        changes = [c for each in objects if (c := self.state.apply(Change.between(None, each)))]
        return self.replan(self.planner.units(changes, self.state))

    def replan(self, units: Any) -> dict[str, dict[int, int | None]]:
        """What planning these units changes."""
        delta = self.planner.replan(units, self.state)
        return {
            name: {int.from_bytes(k, "little"): v[0] if v else None for k, v in found.items()}
            for name, found in delta.items()
        }

    @property
    def told(self) -> str:
        """All that is told of objects and units."""
        found = [*map(str, self.planner.complaints()), *self.planner.rejected()]
        return "\n".join(sorted(found))

    def close(self) -> None:
        """End its process."""
        self.guests.close()


def alive(pid: int) -> bool:
    """Whether a process is there, and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def importable(folder: Path) -> Iterator[Path]:
    """The folder, in which Python finds packages meanwhile."""
    sys.path.insert(0, str(folder))
    yield folder
    sys.path.remove(str(folder))
