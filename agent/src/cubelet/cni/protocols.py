"""Protocols of the parts of the agent that the CNI service uses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cubelet.net.pods import PodLink
from cubelet.net.rtnl import Link
from cubelet_hooks.objects import LocalNode, Port


class CniSettings(Protocol):
    """The settings that the CNI service reads."""

    @property
    def state_dir(self) -> Path:
        """The folder whose `attachments` folder holds the records of attachments."""

    @property
    def socket(self) -> Path:
        """The agent's socket, beside which the plugin notes deletions."""

    @property
    def attach_timeout(self) -> float:
        """How long ADD and DEL wait for the datapath, in seconds."""


class Wiring(Protocol):
    """Makes and removes pods' devices; `cubelet.net.pods` implements it."""

    def wire(self, link: PodLink) -> int: ...
    def bring_up(self, host_ifname: str, alias: str) -> None: ...
    def annotate(self, host_ifname: str, alias: str) -> None: ...
    def unwire(self, host_ifname: str) -> bool: ...
    def check(self, link: PodLink, ifindex: int) -> None: ...
    def list_wired(self) -> Mapping[str, Link]: ...


class Datapath(Protocol):
    """Starts and stops serving pods' ports. Both calls may be repeated for a port.

    Two ports may share a key for a while: a pod's new container can be added before the old one is
    deleted. The newest is served, whatever is called for the others.
    """

    def local(self) -> LocalNode | None:
        """The node, once it is set up."""

    async def attach(self, port: Port) -> None:
        """Return when the port is served; cancelled when that takes too long."""

    async def detach(self, port: Port) -> None:
        """Return when the port is not served any more. Raises CniError, code 11, if the agent ends.

        Even then, and when it is cancelled, the port will not be served.
        """
