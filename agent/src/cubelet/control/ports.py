"""Attaches the pod class's program to pods' ports, and detaches it from devices without a pod."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from cubelet.control.problems import Problems
from cubelet.datapath.programs import Datapath
from cubelet_hooks.objects import LocalNode, Port

_SETTLED_AT_ONCE = 4
"""Hurried ports that a pass attaches for good: it holds the lock of all devices meanwhile."""


class PodPorts:
    """The attached pods' ports. A port that cannot be attached is the problem ``port KEY``."""

    def __init__(self, datapath: Datapath, problems: Problems) -> None:
        self._datapath = datapath
        self._problems = problems
        self._makeshift: set[str] = set()
        self.attached: dict[str, Port] = {}
        self.failing: set[str] = set()
        """Keys of ports that could not be attached; a program of an earlier run may run there."""

    @property
    def unsettled(self) -> bool:
        """Whether some were attached in a hurry; later calls without hurry attach them for good."""
        return bool(self._makeshift)

    def attach_all_anew(self) -> None:
        """Let the next call attach all again: other software may have detached our programs."""
        self.attached.clear()

    def drop(self, devices: Collection[str]) -> None:
        """Forget the ports of these devices, so that the next call attaches them again."""
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
                # A port that is attached already is not moved to the quick way of attaching, nor
                # are all moved to the proper way at once.
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
