"""A cube's maps, its fields in flow records, and its planning: objects in, wanted entries out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from cubelet_hooks.cube.places import PORT_CLASSES
from cubelet_hooks.maps import Map
from cubelet_hooks.objects import BUILT_IN, Change
from cubelet_hooks.records import Record
from cubelet_hooks.resources import Resource
from cubelet_hooks.view import View

Unit = tuple[str, ...]
"""What is planned at once, such as ``("service", "default/web")``; chosen by the cube."""


Rank = tuple[int, ...]
"""What decides between entries of one key: the lower one has it, compared as Python does it."""


@dataclass(frozen=True)
class Entry:
    """One wanted entry of the map called ``map`` in the cube's declaration.

    Where several units want one key, the entry of the lowest ``rank`` has it, and of equal ranks
    the unit that sorts first. Rank what people may contend for by something that they cannot choose
    freely, as names are: ``Entry("services", key, value, rank=(2, service.created))``.
    """

    map: str
    key: Record
    value: Record
    rank: Rank = ()


@dataclass(frozen=True)
class Complaint:
    """What is wrong with an object, for those whose object it is: yielded by a plan.

    It is a problem of ``cubelet status`` for as long as the unit's plan has it, and one Warning
    among the object's Events, as ``kubectl describe`` shows them. ``kind`` and ``key`` are the
    object's, such as ``Service`` and ``default/web``; ``reason`` is one word in CamelCase,
    ``message`` says what is refused, why, and what to do about it. Five of an object are told.
    """

    kind: str
    key: str
    reason: str
    message: str

    def __str__(self) -> str:
        return f"{self.kind} {self.key}: {self.message}"


@dataclass(frozen=True)
class Condition:
    """What has become of an object of the cube's own on this node: yielded by a plan.

    It stands under ``status.nodes`` of the object, by the node's name, for as long as the unit's
    plan has it, and in ``cubelet get conditions``. ``kind`` and ``key`` are the object's, whose
    kind is one of :attr:`Planned.watches` with ``status``. ``type`` and ``reason`` are words in
    CamelCase, as in all of Kubernetes' conditions; ``status`` says whether it holds. ``generation``
    is that of the object that was planned from: ``Custom.generation``.
    """

    kind: str
    key: str
    type: str
    status: bool
    reason: str
    message: str = ""
    generation: int = 0


@dataclass(frozen=True)
class Part:
    """Entries of a unit that are admitted to the maps, or refused, without the rest of it.

    ``name`` tells the unit's parts apart, ``title`` is what people are told of, on the object
    ``about`` (kind and key) if it is another one than the unit's. With ``fixed`` equal names stand
    for equal entries: those of a name that is known already are not asked for again, so give a
    generator.
    """

    name: str
    entries: Iterable[Entry | Complaint | Condition]
    fixed: bool = False
    title: str = ""
    about: tuple[str, str] | None = None


_NAMESPACE = re.compile("[a-z0-9]([-a-z0-9]*[a-z0-9])?")
"""RFC 1123 labels, which addresses and networks are not."""
_TOLD = {kind.lower(): kind for kind in BUILT_IN} | {"port": "Pod", "localnode": "Node"}
"""Kinds of objects of the cluster, by what a unit for one begins with."""


class Planned:
    """Maps and records, and the pure functions that say what the maps are to hold."""

    settings: Any

    maps: ClassVar[tuple[Map, ...]] = ()
    records: ClassVar[tuple[type[Record], ...]] = ()
    """Further structs the C source uses, beyond the maps' keys and values."""
    flow_fields: ClassVar[type[Record] | None] = None
    """The cube's fields in each of a flow's two records: ``struct KIND_flow_fields``.
    ``KIND_packet`` has those of the packet's direction by ``KIND_fields(flow)``. What
    ``KIND_inward`` and ``KIND_outward`` write to ``KIND_new_fields(pkt)`` stands in both records
    when they are made, or when a flow older than the cube is judged for the first time since; while
    a known flow is judged again that is a copy, which is not kept. Fields nobody has written are
    zero. All cubes share 64 bytes, of which each instance takes two more
    than its record has, rounded up to eight."""
    watches: ClassVar[tuple[Resource, ...]] = ()
    """Kinds of Kubernetes objects beyond the built-in ones that it plans from: see
    :mod:`cubelet_hooks.resources`."""
    annotations: ClassVar[tuple[str, ...]] = ()
    """Annotations of Namespaces and Nodes that it reads, by key or (ending in ``/``) by prefix; the
    agent keeps no others of those objects. Pods of this node have all of theirs. To plan from a
    pod's annotation, or else its namespace's, take one unit per pod:

        annotations = ("quota.example.com/",)

        def units(self, change, view):
            if change.kind == "Namespace":
                return [("pod", port.key) for port in view.ports.values()
                        if port.namespace == change.key]
            return [("pod", change.key)] if change.kind in ("Pod", "Port") else ()

        def plan(self, unit, view):
            port, pod = view.ports.get(unit[1]), view.pods.get(unit[1])
            if port is None or pod is None:
                return
            namespace = view.namespaces.get(pod.namespace)
            given = {**(namespace.annotations if namespace else {}), **pod.annotations}
            if (text := given.get("quota.example.com/bytes", "")).isdecimal():
                yield Entry("budgets", Key(ifindex=port.ifindex), Budget(int(text)))
    """
    specialised_by: ClassVar[frozenset[str] | None] = None
    """The kinds of objects that :meth:`defines` and :meth:`needed_on` look at; None: any. They are
    asked again only when one of these changes."""

    def size_of(self, declared: Map) -> int:
        """How many entries the map has under the instance's settings."""
        return self.number(declared.size)

    def number(self, value: int | str) -> int:
        """``value`` itself if it is a number, else the value of the setting with this name."""
        return value if isinstance(value, int) else int(getattr(self.settings, value))

    def defines(self, view: View) -> Mapping[str, int]:
        """Compile-time constants of the C source; their names lack the ``KIND_`` prefix.

        A changed value leads to a new composition, so derive them from what changes seldom.
        """
        return {}

    def needed_on(self, view: View) -> Collection[str]:
        """Port classes on which the cube has something to do now; the others get none of its code.

        ``UPLINK_EGRESS`` beside them has the host's answers by the uplink looked up. A cube of a
        stack that is needed nowhere is no part of the composition: neither its code nor its maps
        are there. It goes on planning, and its maps are filled before its code runs.
        A changed value leads to a new composition, so derive it from what changes seldom.
        """
        return PORT_CLASSES

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """The units whose plan ``change`` may have altered. ``view`` already contains it."""
        return ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry | Complaint | Condition]:
        """The wanted entries of one unit; none when what it describes is gone. Pure.

        If it raises, :meth:`refused` says what stands in the unit's place; without that the unit
        keeps what it had. Nobody else's plans notice. What an object asks for and does not get is a
        :class:`Complaint` beside them, what has become of an object of the cube's own a
        :class:`Condition`.

        The agent admits them to the maps all together, or refuses them all: if a map has no room
        for them, or if the unit's namespace would have more of it than half of what others leave
        free and more than 512 entries. A unit that was refused is planned again when there is room.
        Planning stops at the first entry beyond what can be admitted, so yield each entry once;
        complaints that come after it are not told.
        """
        return ()

    def parts(self, unit: Unit, view: View) -> Iterable[Part]:
        """What the unit wants beside its plan, each part admitted or refused by itself."""
        return ()

    def refused(self, unit: Unit, view: View) -> Iterable[Entry]:
        """The few entries that stand in place of a plan that was refused or raised: they close it.

        A cube that filters must give them if fewer entries mean that more is allowed: without an
        entry its packets would pass. They need room as well, but no share; a pod of a namespace
        whose stand-ins of an :attr:`essential` cube find none does not start. Nothing stands in
        place of a part.
        """
        return ()

    def namespace_of(self, unit: Unit, view: View) -> str:
        """The namespace that the unit's entries are charged to; '' for none, which has no share.

        By default that of the key ``namespace/name`` which the unit's name ends in.
        """
        namespace, slash, _ = unit[-1].partition("/")
        return namespace if slash and _NAMESPACE.fullmatch(namespace) else ""

    def object_of(self, unit: Unit, view: View) -> tuple[str, str] | None:
        """Kind and key of the object that is told when the unit is refused; None for none.

        By default that of a unit which begins with the name of a kind, in whatever letters, and
        ends in a key: ``("service", "default/web")``. A ``Port`` is its pod. Where there is no
        object ``cubelet status`` alone has it.
        """
        begin, key = unit[0].lower(), unit[-1]
        own = (each.kind for each in self.watches if each.kind.lower() == begin)
        kind = _TOLD.get(begin) or next(own, "")
        return (kind, key) if kind and len(unit) > 1 else None

    def rejected(self, key: Record, holder: Unit, other: Unit) -> str | Complaint:
        """What is said when two units want different entries of one key, and ``holder`` has it.

        A text is a problem of ``cubelet status``, a complaint is told on the object too. Who has
        the key is decided by the entries' ranks, see :class:`Entry`. The name of a part is the last
        of its unit's. Empty: nothing to say.
        """
        return ""
