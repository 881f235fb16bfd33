"""The Cube class: everything the agent must know of a network function, and its planning."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import msgspec

from cubelet_hooks.command import UNKNOWN_METHOD, AgentError
from cubelet_hooks.context import Context, Packet
from cubelet_hooks.maps import Map
from cubelet_hooks.metrics import Metric, Sample
from cubelet_hooks.objects import Change
from cubelet_hooks.records import Family, Record
from cubelet_hooks.resources import Resource
from cubelet_hooks.view import View

ABI = 1
"""Version of the C contract. A cube built for another one is quarantined with the reason."""

PORT_CLASSES = ("pod", "host", "overlay", "uplink")
"""Where packets enter and leave a node, in the order of ``enum cubelet_class``."""

Direction = Literal["both", "inward", "outward"]
"""Of which packets a cube on a stack sees openers: entering by the port, leaving by it, or both."""

Unit = tuple[str, ...]
"""What is planned at once, such as ``("service", "default/web")``; chosen by the cube."""

Row = Mapping[str, object] | tuple[Record, Record]
"""A line of a table: values by column, or a map's key and value, whose fields are the columns."""

Read = Callable[[str], Mapping[Any, Any]]
"""The records of one of the cube's maps, by its name: looked up when they are asked for.

Numbers kept per CPU are summed up; of an array those are left out that are all zero."""


@dataclass(frozen=True)
class Reason:
    """Why a cube drops packets. C knows it as ``KIND_REASON_NAME``.

    A cube's list is append-only: a reason keeps its place in it, since it is a metric label.
    """

    name: str
    text: str


@dataclass(frozen=True)
class Entry:
    """One wanted entry of the map called ``map`` in the cube's declaration."""

    map: str
    key: Record
    value: Record


@dataclass(frozen=True)
class Placement:
    """A place on a port class's stack: ``before`` names cubes further from the port.

    Cubes are named by kind or by instance. With neither a cube stands next to the port.
    """

    port_class: str
    direction: Direction = "both"
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of a cube's settings model; every field needs a default."""


class Cube:
    """One network function. Subclasses set the class attributes and plan; they keep no state.

    A cube's C source is ``bpf/KIND.bpf.c`` beside the module that defines the class. It defines
    ``KIND_inward`` and ``KIND_outward`` for the directions declared here, each
    ``int KIND_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)``.
    """

    kind: ClassVar[str]
    abi: ClassVar[int] = ABI
    core: ClassVar[bool] = False
    """A forwarding cube of the middle; all others are transparent cubes of a stack."""
    inward: ClassVar[frozenset[str]] = frozenset()
    """Port classes on whose packets ``KIND_inward`` can run."""
    outward: ClassVar[frozenset[str]] = frozenset()
    per_packet: ClassVar[frozenset[str]] = frozenset()
    """Port classes of which ``KIND_packet`` sees every packet of a flow that enters or leaves by
    them: ``__u16 KIND_packet(struct __sk_buff *skb, const struct cubelet_headers *h, struct
    cubelet_flow *flow)`` gives 0 to let it pass, or the reason to drop it. It is called once for a
    packet, also between two such ports and whatever the placement's direction: ``flow->enters`` and
    ``flow->leaves`` say which ports they are. The packet is as it entered, not rewritten yet. What
    has no flow is not seen: frames that are not IP, floods, ICMP errors, answers of cubes."""
    early: ClassVar[bool] = False
    """On the uplink's stack it sees every IP packet from there before anything else does, the
    host's own traffic and tunnels' outer packets too: ``__u16 KIND_early(const struct
    cubelet_early *e)`` gives 0 to let it pass, or the reason to drop it. It runs in XDP where the
    uplink's driver has it, else at the head of the uplink's program: there packets that the kernel
    has put together (GRO) come as one, and none comes that is shorter than it claims. It may use
    maps and send an :attr:`event`. For a deadline that Python sets or reads, ``bpf_ktime_get_ns()``
    has the clock of ``time.monotonic_ns()``."""
    floods: ClassVar[bool] = False
    """A core cube that returns ``cubelet_flood``: its array ``KIND_flood_ports`` (of the record
    ``FloodPort`` with ``ifindex``, ``address`` and ``segment``) lists where to; 0 ends it."""
    admits: ClassVar[bool] = False
    """Defines ``int KIND_admits(skb, pkt, const struct cubelet_addr *pod)``: may a flooded IP
    packet reach the pod?"""
    placement: ClassVar[tuple[Placement, ...]] = ()
    """Where the cube joins every composition once it is installed, unless the configuration
    excludes it or places it itself. Empty: it waits until it is placed. Names of cubes that are
    not there are passed over."""
    specialised_by: ClassVar[frozenset[str] | None] = None
    """The kinds of objects that :meth:`defines` and :meth:`needed_on` look at; None: any. They are
    asked again only when one of these changes."""
    essential: ClassVar[bool] = False
    """Without it the node must not run. Any other cube that fails is quarantined with its reason,
    and the rest runs without it; an essential one holds up what is new, and what ran runs on."""
    requires: ClassVar[tuple[str, ...]] = ()
    """Kinds that must be in the composition for this one to work."""
    settings_type: ClassVar[type[Settings]] = Settings
    reasons: ClassVar[tuple[Reason, ...]] = ()
    maps: ClassVar[tuple[Map, ...]] = ()
    shows: ClassVar[Mapping[str, str]] = {}
    """What ``cubelet get NOUN`` lists: nouns in the plural, each with the name of the map whose
    records :meth:`rows` makes the table of, such as ``{"routes": "routes"}``."""
    records: ClassVar[tuple[type[Record], ...]] = ()
    """Further structs the C source uses, beyond the maps' keys and values."""
    metrics: ClassVar[tuple[Metric, ...]] = ()
    """What :meth:`collect` gives, at the agent's ``/metrics``: see :mod:`cubelet_hooks.metrics`."""
    commands: ClassVar[str] = ""
    """A Typer application, ``"package.module:app"``: its commands are ``cubelet KIND ...``. Found
    by the package's entry point, which must be called as the kind is, and imported when they are
    asked for: see :mod:`cubelet_hooks.command`."""
    watches: ClassVar[tuple[Resource, ...]] = ()
    """Kinds of Kubernetes objects beyond the built-in ones that it plans from: see
    :mod:`cubelet_hooks.resources`."""
    annotations: ClassVar[tuple[str, ...]] = ()
    """Annotations of Namespaces and Nodes that it reads, by key or (ending in ``/``) by prefix; of
    those objects others are not kept. This node's pods have all of theirs. What a pod's or else
    its namespace's annotation says is planned by a unit for each pod:

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
    flow_fields: ClassVar[type[Record] | None] = None
    """What the cube keeps of each flow, in each of its two records: ``struct KIND_flow_fields``.
    ``KIND_packet`` has those of the packet's direction by ``KIND_fields(flow)``. What
    ``KIND_inward`` and ``KIND_outward`` write to ``KIND_new_fields(pkt)`` stands in both records
    when they are made; while a known flow is judged again that is a copy, which is not kept. Fields
    nobody has written are zero. All cubes share 64 bytes, of which each instance takes two more
    than its record has, rounded up to eight."""
    event: ClassVar[type[Record] | None] = None
    """What the cube's C tells its Python: ``struct KIND_event``, sent by ``KIND_emit(&event)``, is
    the argument of :meth:`on_event`. Initialise it whole, ``struct KIND_event event = {};``: its
    padding is copied too."""
    events_per_second: ClassVar[int | str] = 1_000
    """How many events a CPU may send, or the name of the setting that says so; the others are
    counted as lost."""
    event_bytes: ClassVar[int | str] = 262_144
    """How many bytes of events may wait for the agent, or the name of the setting that says so."""
    punts: ClassVar[bool] = False
    """The cube hands packets to its Python: ``return KIND_punt(skb, pkt);`` in ``KIND_inward`` or
    ``KIND_outward`` ends the packet there and leads to :meth:`on_packet`. No flow is made of it.
    Frames of over 2,048 bytes are dropped for ``core/punt_too_long``, those over the rate, or for
    which there is no room, for ``core/rate_limited``."""
    packets_per_second: ClassVar[int | str] = 100
    """How many packets a CPU may hand over, or the name of the setting that says so."""
    packet_bytes: ClassVar[int | str] = 262_144
    """How many bytes of packets may wait for the agent (each takes 2,064 of them, whatever its
    length), or the name of the setting that says so."""

    def __init__(self, instance: str, settings: Settings, family: Family = 4) -> None:
        self.instance = instance
        self.settings = settings
        self.family = family

    @classmethod
    def places(cls) -> frozenset[str]:
        """The port classes on whose stacks the cube has something to do."""
        early = frozenset({"uplink"}) if cls.early else frozenset()
        return cls.inward | cls.outward | cls.per_packet | early

    @classmethod
    def source(cls) -> Path:
        """The cube's C source file."""
        import sys

        module = sys.modules[cls.__module__].__file__
        if module is None:
            raise ValueError(f"cube {cls.kind}: its module has no file, so no C source beside it")
        return Path(module).parent / "bpf" / f"{cls.kind}.bpf.c"

    def size_of(self, declared: Map) -> int:
        """How many entries the map has under the instance's settings."""
        return self.number(declared.size)

    def number(self, value: int | str) -> int:
        """A number, or that of the setting with this name."""
        return value if isinstance(value, int) else int(getattr(self.settings, value))

    def defines(self, view: View) -> Mapping[str, int]:
        """Compile-time constants, names without the ``KIND_`` prefix: what specialises the C.

        A changed value leads to a new composition, so derive them from what changes seldom.
        """
        return {}

    def needed_on(self, view: View) -> Collection[str]:
        """Port classes on which the cube has something to do now; the others go without its code.

        A cube of a stack that is needed nowhere is no part of the composition: neither its code
        nor its maps are there. It goes on planning, and its maps are filled before its code runs.
        A changed value leads to a new composition, so derive it from what changes seldom.
        """
        return PORT_CLASSES

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """The units whose plan ``change`` may have altered. ``view`` already contains it."""
        return ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """The wanted entries of one unit; none when what it describes is gone. Pure."""
        return ()

    def contested(self, key: Record, holder: Unit, other: Unit) -> str:
        """What ``cubelet status`` says when two units want different entries of one key.

        The unit that sorts first, ``holder``, has it as long as it wants it. Empty: nothing to say.
        """
        return ""

    def rows(self, noun: str, read: Read, view: View) -> Iterable[Row]:
        """The table of ``cubelet get NOUN``, one of ``shows``: the records of its map as they are.

        Override it where people need more than that, such as names for numbers. All rows of values
        have the same columns, in one order; a value may be a list. ``protocol`` is an IP protocol's
        number, and ``ifindex`` an interface's: the agent names both, and members of enums.
        """
        return read(self.shows[noun]).items()

    def on_event(self, event: Any, context: Context) -> None:
        """The C has sent an :attr:`event`; called for each, in the order of each CPU.

        Must not block. What it raises is logged once and counted, and the next event comes. State
        kept in ``self`` ends when the configuration changes: keep in a map what has to stay.
        """

    def on_packet(self, packet: Packet, context: Context) -> None:
        """The C has handed over a packet (:attr:`punts`); called for each, under the same rules.

        Answering a pod from Python, say, is
        ``context.send(answer_to(packet.frame), packet.ifindex)``.
        """

    def collect(self, read: Read, view: View) -> Iterable[Sample]:
        """Samples of the :attr:`metrics` as they are now: be quick, it is asked every few seconds.

        What it raises costs this instance its samples, this once.
        """
        return ()

    def answer(self, method: str, params: Mapping[str, Any], context: Context) -> object:
        """What ``cubelet_hooks.command.ask`` gives in the cube's commands: plain JSON values.

        Runs in the agent, between its passes. Raise AgentError for what the caller got wrong.
        """
        raise AgentError(UNKNOWN_METHOD, f"{self.kind} has no method {method!r}")
