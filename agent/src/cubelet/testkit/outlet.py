"""A core cube for tests of transparent cubes: forwards everything to one port."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from cubelet_hooks.cube import PORT_CLASSES, Cube, Settings
from cubelet_hooks.view import View


class OutletSettings(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where packets leave; ``ifindex`` 0 takes the test network's device of the class."""

    leaves: Literal["pod", "host", "overlay", "uplink"] = "pod"
    ifindex: int = 0
    mtu: int = 1500
    remote: int = 0
    routed: bool = True


class Outlet(Cube):
    """Everything leaves by one port, routed (TTL is decremented) unless told otherwise."""

    kind = "outlet"
    core = True
    inward = frozenset(PORT_CLASSES)
    settings_type = OutletSettings
    settings: OutletSettings
    devices: ClassVar[Mapping[str, int]] = {}

    def defines(self, view: View) -> Mapping[str, int]:
        """The settings, as the C reads them."""
        chosen = self.settings
        return {
            "CLASS": PORT_CLASSES.index(chosen.leaves),
            "IFINDEX": chosen.ifindex or self.devices.get(chosen.leaves, 1),
            "MTU": chosen.mtu,
            "REMOTE": chosen.remote,
            "ROUTED": int(chosen.routed),
        }
