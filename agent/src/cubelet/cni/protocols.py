"""What the CNI service needs of the rest of the agent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from cubelet.net.pods import PodLink
from cubelet.net.rtnl import Link


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
