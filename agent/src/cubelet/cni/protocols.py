"""What the CNI service needs of the rest of the agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cubelet.net.pods import PodLink
from cubelet.net.rtnl import Link
from cubelet_hooks.objects import LocalNode, Port


class CniSettings(Protocol):
    """Of the settings."""

    @property
    def state_dir(self) -> Path:
        """Attachments are recorded in the folder `attachments` of it."""

    @property
    def attach_timeout(self) -> float:
        """How long ADD waits for the datapath, in seconds."""


class Wiring(Protocol):
    """Of the kernel; `cubelet.net.pods` is what implements it."""

    def wire(self, link: PodLink) -> int: ...
    def bring_up(self, host_ifname: str) -> None: ...
    def unwire(self, host_ifname: str) -> bool: ...
    def check(self, link: PodLink, ifindex: int) -> None: ...
    def list_wired(self) -> Mapping[str, Link]: ...


class Datapath(Protocol):
    """Of what forwards pods' packets. Both calls may come again for the same port.

    Two ports may have one key for a while: a pod's new container can come before its old one goes.
    """

    def local(self) -> LocalNode | None:
        """The node, once it is set up."""

    async def attach(self, port: Port) -> None:
        """Return when the port is served; cancelled when that takes too long."""

    async def detach(self, port: Port) -> None:
        """Return when the port is not served any more."""
