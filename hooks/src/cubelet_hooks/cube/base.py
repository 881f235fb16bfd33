"""The Cube class: a network function as the agent knows it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import msgspec

from cubelet_hooks.cube.places import Placed
from cubelet_hooks.cube.plans import Planned
from cubelet_hooks.cube.showing import Showing
from cubelet_hooks.cube.telling import Telling
from cubelet_hooks.records import Family

ABI = 1
"""Version of the C contract. A cube built for another one is quarantined with the reason."""


@dataclass(frozen=True)
class Reason:
    """Why a cube drops packets. C knows it as ``KIND_REASON_NAME``.

    A cube's list is append-only: a reason's number in drop counters follows from its place there.
    """

    name: str
    text: str


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Base of a cube's settings model; every field needs a default.

    Settings are read from YAML, so a field is a ``bool``, ``int``, ``float`` or ``str``, one of
    these or ``None`` (``int | None``), a ``Literal`` or ``Enum`` of them, a ``tuple``,
    ``frozenset`` or ``dict`` of such, or another frozen ``msgspec.Struct`` (with
    ``forbid_unknown_fields``, for mistyped names to be noticed). There are bounds:
    ``Annotated[int, msgspec.Meta(ge=1, le=63)]``. What has a form of its own, such as networks and
    durations, is a ``str`` here and is read where it is used. ``__post_init__`` checks what types
    cannot say; the text of its ``ValueError`` is what people see who set it, so have it name the
    setting and the remedy:

        class Settings(cube.Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
            refused: tuple[str, ...] = ()

            def __post_init__(self) -> None:
                for text in self.refused:
                    ip_network(text)  # ValueError: '10.1.0.0/33' does not appear to be ...
    """


class Cube(Placed, Planned, Telling, Showing):
    """One network function. Subclasses set the class attributes and plan; they keep no state.

    A cube's C source is ``bpf/KIND.bpf.c`` beside the module that defines the class. It defines
    ``KIND_inward`` and ``KIND_outward`` for the directions declared here, each
    ``int KIND_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)``.

    This is enough to begin:

        class Quiet(Cube):
            kind = "quiet"
            inward = frozenset({"pod"})
            reasons = (Reason("loud", "the pod is too loud"),)
            maps = (Map("limits", key=PortKey, value=Limit, size=1_024),)

            def units(self, change, view):
                return [("pod", change.key)] if change.kind == "Port" else ()

            def plan(self, unit, view):
                if port := view.ports.get(unit[1]):
                    yield Entry("limits", PortKey(port.ifindex), Limit(10))
    """

    kind: ClassVar[str]
    """What the cube is called, in C, on the command line and in metrics: ``[a-z][a-z0-9]*``."""
    abi: ClassVar[int] = ABI
    settings_type: ClassVar[type[Settings]] = Settings
    """The model of its settings; ``self.settings`` is one of them."""
    reasons: ClassVar[tuple[Reason, ...]] = ()
    """Why it drops packets."""

    def __init__(self, instance: str, settings: Settings, family: Family = 4) -> None:
        self.instance = instance
        self.settings = settings
        self.family = family

    @classmethod
    def source(cls) -> Path:
        """The cube's C source file."""
        import sys

        module = sys.modules[cls.__module__].__file__
        if module is None:
            raise ValueError(f"cube {cls.kind}: its module has no file, so no C source beside it")
        return Path(module).parent / "bpf" / f"{cls.kind}.bpf.c"
