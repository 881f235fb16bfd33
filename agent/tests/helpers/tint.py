"""A composition that is compiled in a moment, and another one at will."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import ClassVar

from cubelet.composer.composition import Chain, Composition, compose
from cubelet.testkit.outlet import Outlet
from cubelet_hooks.cube import PORT_CLASSES, UPLINK_EGRESS, Cube, Entry, Unit
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, Service
from cubelet_hooks.records import U32, Record
from cubelet_hooks.view import View

FINE = "return cubelet_next(pkt);"
BROKEN = "return no_such_function(pkt);"
TOUCHY = "return CUBELET_NEXT + *(volatile int *)0;"
"""It compiles, and the verifier refuses it."""


class Key(Record):
    """A Service's port."""

    port: U32


class Value(Record):
    """How many Services have it."""

    count: U32


class Tint(Cube):
    """Wants each Service's first port in its map; ``COLOUR`` is how many Services are exposed."""

    kind = "tint"
    inward = frozenset(PORT_CLASSES)
    maps: ClassVar[tuple[Map, ...]] = (Map("ports", MapType.HASH, Key, Value, 8),)
    file: ClassVar[Path]

    @classmethod
    def source(cls) -> Path:
        """Wherever the test has put it."""
        return cls.file

    def defines(self, view: View) -> Mapping[str, int]:
        """Another composition for each number of Services with an external address."""
        return {"COLOUR": sum(bool(service.external_ips) for service in view.services.values())}

    def needed_on(self, view: View) -> Collection[str]:
        """Everywhere, unless there is a Service called ``unneeded``; for ``egress`` there, too."""
        if "default/unneeded" in view.services:
            return ()
        return (*PORT_CLASSES, UPLINK_EGRESS) if "default/egress" in view.services else PORT_CLASSES

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """A Service each."""
        return [("service", change.key)] if change.kind == Service.kind else ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """Its port; a Service called ``poison`` is too much."""
        service = view.services.get(unit[1])
        if unit[1].endswith("/poison"):
            raise RuntimeError(f"{unit[1]} is no food")
        return [Entry("ports", Key(service.ports[0].port), Value(1))] if service else ()


def write(file: Path, body: str) -> type[Tint]:
    """The cube with this body, which stands on line 5."""
    file.write_text(
        '#include "cubelet.h"\n\n'
        "static __always_inline int tint_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)\n"
        "{\n"
        f"\t{body} /* TINT_COLOUR */\n"
        "}\n"
    )
    Tint.file = file
    return Tint


def composition(
    view: View | None = None, outlet: Mapping[str, object] | None = None
) -> Composition:
    """The cube on every port; everything leaves by one. With a view it is specialised."""
    chain = Chain(core=("outlet",), stacks=dict.fromkeys(PORT_CLASSES, ("tint",)))
    made = compose(chain, {"outlet": Outlet, "tint": Tint}, {"outlet": outlet or {"ifindex": 1}})
    return made if view is None else made.specialised(made.facts_of(view))
