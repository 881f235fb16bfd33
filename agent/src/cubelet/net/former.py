"""Remembers kernel settings from before the agent changed them, to put them back.

They are noted in the alias of the gateway's datapath end before they are changed, so that the note
lives exactly as long as the namespace it is about. A noted value is never replaced: a later run
would find the agent's own value, not the former one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from cubelet.net import devices, sysctl
from cubelet.net.rtnl import Link

if TYPE_CHECKING:
    from pyroute2 import IPRoute

Values = Mapping[str, str]
"""Values by key below ``net``, in the order in which they are to be written back."""

_NOTE = " former="
_FORWARD = "ipv4/ip_forward"
# The kernel changes it along with `ip_forward`: a router takes no redirects.
_REDIRECTS = "ipv4/conf/all/accept_redirects"

LOOPBACK = ("ipv4/conf/lo/accept_local", "ipv4/conf/lo/route_localnet")
"""What lets the loopback device take answers to 127.0.0.1 that the datapath hands it. Nobody else
can send by that device; others' packets to and from 127.0.0.0/8 are dropped as before."""


def note(ipr: IPRoute, datapath: Link, before: Values, uplinks: Iterable[str]) -> None:
    """Add to the values noted `before` what is about to be changed. Raises NetError."""
    values = {**_forwarding(uplinks), **_loopback(), **before}
    if not values:
        return
    alias = devices.DATAPATH + _NOTE + " ".join(f"{key}={old}" for key, old in values.items())
    devices.set_alias(ipr, datapath, alias)


def noted(found: Mapping[str, Link]) -> Values:
    """The values noted by earlier runs, from the aliases of our devices among `found`."""
    values: dict[str, str] = {}
    for link in devices.owned(found).values():
        for pair in link.alias.partition(_NOTE)[2].split():
            key, _, value = pair.partition("=")
            values[key] = value
    return values


def put_back(values: Values) -> tuple[str, ...]:
    """Write the values; returns the changed ones as ``key = value``. Raises NetError.

    Settings of devices that no longer exist are passed over.
    """
    changed = [key for key, old in values.items() if sysctl.exists(key) and sysctl.read(key) != old]
    for key in values:
        if sysctl.exists(key):
            sysctl.write(key, values[key])
    return tuple(f"net/{key} = {values[key]}" for key in changed)


def _loopback() -> Values:
    return {key: "0" for key in LOOPBACK if sysctl.read(key) == "0"}


def _forwarding(uplinks: Iterable[str]) -> Values:
    if sysctl.read(_FORWARD) == "0":
        return {key: sysctl.read(key) for key in (_FORWARD, _REDIRECTS)}
    own = (f"ipv4/conf/{uplink}/forwarding" for uplink in uplinks)
    return {key: "0" for key in own if sysctl.read(key) == "0"}
