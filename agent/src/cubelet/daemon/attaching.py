"""Has a pass attach or detach a pod's port, for CNI calls."""

from __future__ import annotations

from cubelet.cni.errors import NOT_PROGRAMMED, CniError
from cubelet.control.reconciler import Reconciler
from cubelet.daemon.inbox import Inbox
from cubelet.state.cluster import State
from cubelet_hooks.objects import Change, LocalNode, Port


class Attaching:
    """Implements ``cubelet.cni.protocols.Datapath`` by passes."""

    def __init__(self, state: State, reconciler: Reconciler, inbox: Inbox) -> None:
        self._state = state
        self._reconciler = reconciler
        self._inbox = inbox

    def local(self) -> LocalNode | None:
        """The node, once it serves pods."""
        return self._state.local if self._reconciler.serving else None

    async def attach(self, port: Port) -> None:
        """Return when the port is served. Raises CniError with the reason if it is not."""
        await self._inbox.submit(Change.between(self._state.ports.get(port.key), port))
        blocker = self._reconciler.blocker(port)
        if blocker:
            message = f"pod {port.key} is not served by the datapath"
            raise CniError(NOT_PROGRAMMED, message, blocker)

    async def detach(self, port: Port) -> None:
        """Return when the port is no longer served; at once if a new container has its key."""
        known = self._state.ports.get(port.key)
        if known is not None and known.container_id == port.container_id:
            await self._inbox.submit(Change.between(known, None))
