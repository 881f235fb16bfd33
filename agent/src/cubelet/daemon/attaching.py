"""Has a pass attach or detach a pod's port, for CNI calls."""

from __future__ import annotations

from collections.abc import Iterable

from cubelet.cni.errors import NOT_PROGRAMMED, CniError
from cubelet.control.reconciler import Reconciler
from cubelet.daemon.inbox import Inbox
from cubelet.state.cluster import State
from cubelet_hooks.objects import Change, LocalNode, Port


class Attaching:
    """Implements ``cubelet.cni.protocols.Datapath`` by passes.

    A pod that is made anew, as a StatefulSet's are, has two ports under its key until the runtime
    deletes the old one. Passes know one: the newest, which has the highest ifindex.
    """

    def __init__(self, state: State, reconciler: Reconciler, inbox: Inbox) -> None:
        self._state = state
        self._reconciler = reconciler
        self._inbox = inbox
        self._ports: dict[str, dict[str, Port]] = {}

    def local(self) -> LocalNode | None:
        """The node, once it serves pods."""
        return self._state.local if self._reconciler.serving else None

    def resume(self, ports: Iterable[Port]) -> None:
        """Have the first pass attach the ports of an earlier run."""
        for port in ports:
            self._inbox.emit(self._add(port))

    async def attach(self, port: Port) -> None:
        """Return when the port is served. Raises CniError with the reason if it is not."""
        await self._inbox.submit(self._add(port))
        while self._reconciler.pods_wait:
            await self._inbox.passed()
        blocker = self._reconciler.blocker(port)
        if blocker:
            message = f"pod {port.key} is not served by the datapath"
            raise CniError(NOT_PROGRAMMED, message, blocker)

    async def detach(self, port: Port) -> None:
        """Return when the port is no longer served; an older one of its pod then is."""
        of_pod = self._ports.get(port.key, {})
        of_pod.pop(port.host_ifname, None)
        if not of_pod:
            self._ports.pop(port.key, None)
        await self._inbox.submit(Change.between(port, _newest(of_pod)))

    def _add(self, port: Port) -> Change:
        of_pod = self._ports.setdefault(port.key, {})
        of_pod[port.host_ifname] = port
        return Change.between(None, _newest(of_pod))


def _newest(ports: dict[str, Port]) -> Port | None:
    return max(ports.values(), key=lambda port: port.ifindex, default=None)
