"""A cube whose settings change without a compilation: they are the one entry of a planned map."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from cubelet_hooks.cube import Cube, Entry, Reason, Settings, Unit
from cubelet_hooks.flows import Index
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, LocalNode
from cubelet_hooks.records import U32, Record
from cubelet_hooks.view import View


class DialSettings(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The longest packet in bytes."""

    limit: int = 1_500


class Values(Record):
    """The settings as the C reads them."""

    limit: U32


class Dial(Cube):
    """Drops packets above ``limit``; put what changes often there, and the rest in ``defines``."""

    kind = "dial"
    per_packet = frozenset({"pod"})
    settings_type = DialSettings
    settings: DialSettings
    reasons = (Reason("too_long", "a packet above the limit"),)
    maps = (Map("settings", MapType.ARRAY, Index, Values, 1),)

    @classmethod
    def source(cls) -> Path:
        """Beside the tests."""
        return Path(__file__).parent / "bpf" / "dial.bpf.c"

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        """One for the settings: it is planned when the node is known, and by each new plan."""
        return (("settings",),) if change.kind == LocalNode.kind else ()

    def plan(self, unit: Unit, view: View) -> Iterable[Entry]:
        """The one entry, the same whatever there is in the cluster."""
        yield Entry("settings", Index(0), Values(self.settings.limit))
