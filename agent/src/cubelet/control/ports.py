"""The pods' ports: each runs the program of its class, and what belongs to no pod runs none."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cubelet.control.problems import Problems
from cubelet.datapath.programs import Datapath
from cubelet_hooks.objects import LocalNode, Port

_SETTLED_AT_ONCE = 4
"""Ports that a pass settles which were attached in a hurry: others want the devices' lock too."""


class PodPorts:
    """Which pods' ports are attached; one that cannot be is a problem of the place ``port KEY``."""

    def __init__(self, datapath: Datapath, problems: Problems) -> None:
        self._datapath = datapath
        self._problems = problems
        self._makeshift: set[str] = set()
        self.attached: dict[str, Port] = {}
        self.failing: set[str] = set()
        """Keys of ports that could not be attached: what an earlier run put there may run on."""

    @property
    def unsettled(self) -> bool:
        """Whether some were attached in a hurry, which later calls without one make up for."""
        return bool(self._makeshift)

    def attach_all_anew(self) -> None:
        """Attach all again the next time: others may have taken our programs off."""
        self.attached.clear()

    def drop(self, devices: Collection[str]) -> None:
        """These devices do not run what they should."""
        self.attached = {k: p for k, p in self.attached.items() if p.host_ifname not in devices}

    def follow(self, wanted: Mapping[str, Port], local: LocalNode, hurry: bool) -> None:
        """Attach and detach until exactly the wanted ones are attached."""
        for key, port in tuple(self.attached.items()):
            if wanted.get(key) != port:
                self._datapath.detach(port.host_ifname)
                del self.attached[key]
        self.failing = set()
        for key, port in wanted.items():
            if key not in self.attached:
                # What runs a program already is not moved to a lesser way of running it, nor all
                # at once to a better one.
                quickly = key in self._makeshift or (hurry and not self._datapath.knows(port))
                self._attach(port, local, quickly)
        self._makeshift &= self.attached.keys()
        for key in () if hurry else sorted(self._makeshift)[:_SETTLED_AT_ONCE]:
            self._attach(self.attached[key], local, hurry=False)
        for place in [each for each in self._problems if each.startswith("port ")]:
            if place.removeprefix("port ") not in wanted:
                self._problems.note(place, "")
        self._datapath.forget_strangers(wanted)

    def _attach(self, port: Port, local: LocalNode, hurry: bool) -> None:
        place = f"port {port.key}"
        self._makeshift.discard(port.key)
        if not any(address in local.pod_cidr for address in port.addresses):
            self._problems.note(place, f"its address is not in the podCIDR {local.pod_cidr}")
            return
        try:
            self._datapath.attach_pod(port, quickly=hurry)
        except OSError as error:
            self._problems.note(place, str(error))
            self.failing.add(port.key)
            return
        self._problems.note(place, "")
        self.attached[port.key] = port
        if hurry:
            self._makeshift.add(port.key)
