"""What a cube's callbacks can reach: its own maps, the cluster, its ports, a log.

The agent hands a :class:`Context` to ``Cube.on_event``, ``Cube.on_packet`` and ``Cube.answer``.
Callbacks run one at a time, and never during one of the agent's passes: they may read and write
maps freely, and must not block.

A cube that blocks port scanners: its C reports refused packets, its Python counts and decides.

    class Refused(Record):                       # in C: struct guard_event
        source: Addr

    class Blocked(Record):
        until: U32

    class Guard(Cube):
        kind = "guard"
        event = Refused
        maps = (
            Map("blocked", MapType.LRU_HASH, Refused, Blocked, 4096, planned=False,
                concerns=lambda key, value: key.source),
        )

        def on_event(self, event: Refused, context: Context) -> None:
            context.table("blocked")[event] = Blocked(until=...)
            context.log.info("blocked", source=str(event.source))

The write makes the cached verdicts of that source stale, because ``concerns`` names its address.
"""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol

from cubelet_hooks.maps import Concerned
from cubelet_hooks.view import View


class Logger(Protocol):
    """The agent's structured log, bound to the instance: an event, and values by name."""

    def debug(self, event: str, **values: Any) -> Any:
        """Details for the cube's author."""

    def info(self, event: str, **values: Any) -> Any:
        """Normal operation that an operator may want to know of."""

    def warning(self, event: str, **values: Any) -> Any:
        """Trouble that an operator should know of; the cube goes on."""

    def error(self, event: str, **values: Any) -> Any:
        """A failure: something that the cube could not do."""


@dataclass(frozen=True)
class Packet:
    """A frame that a cube's C handed to its Python (``KIND_punt``).

    ``frame`` is whole, from the Ethernet header on, as it entered: a pod's checksums may be
    unfinished, since its kernel leaves them to the device. It entered by the device ``ifindex`` of
    ``port_class`` (``pod``, ``host``, ``overlay``, ``uplink``); ``instance`` handed it over.
    """

    frame: bytes
    port_class: str
    ifindex: int
    instance: str


class Context(Protocol):
    """What one instance can reach while its composition is in force.

    Do not keep it: each composition has its own, and the maps of this one close with it.
    """

    @property
    def view(self) -> View:
        """The state of the cluster as plans see it."""

    @property
    def log(self) -> Logger:
        """The agent's log; lines carry the instance."""

    def table(self, name: str) -> MutableMapping[Any, Any]:
        """The cube's own map ``name`` in ``Cube.maps``: from key record to value record.

        Every read sees what the datapath has written until then; iterating dumps the map once.
        Numbers kept per CPU are summed up. An array has the indexes that are not all zero; deleting
        one writes zeros. Flows of what a write ``concerns`` are judged again.

        Raises KeyError for a map that the cube does not declare and TypeError for a ring buffer.
        Writing raises TypeError for a planned map (only the plan fills it: declare another map)
        or for records of other types, and OSError for a full map.
        """

    def judge_again(self, *concerned: Concerned) -> None:
        """Have flows judged again with their next packets, though no entry of a map has changed.

        Verdicts may rest on something else: on an hour of the day, say, that :meth:`Cube.on_tick`
        sees begin. ``concerned`` are addresses, networks, ``PodsOf`` a namespace, ``EVERYTHING``.
        """

    def send(self, frame: bytes, ifindex: int) -> None:
        """Send a whole Ethernet frame out of a port: a pod's, the host's or the uplink.

        ``ifindex`` comes from :attr:`Packet.ifindex` or from a ``Port`` in the view. The frame goes
        out as it is: no cube sees it, no checksum is filled in, no flow is made.

        Raises ValueError for a frame without an Ethernet header and for the overlay, whose frames
        need a tunnel's far end; OSError when the device is gone or the frame is too long for it.
        """
