"""The agent's own devices: the gateway's veth pair and the overlay.

Each carries an alias that begins with ``cubelet`` and its role, so a later run finds what an
earlier one made under other names. The gateway's alias also lists the ports that the agent itself
has reserved, so that the list lives exactly as long as the namespace it is about. The datapath
end's alias has the settings that `cubelet.net.former` puts back.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import structlog

from cubelet.net import NetError, rtnl, sysctl, veth
from cubelet.net.netlink import Connection
from cubelet.net.rtnl import Link

if TYPE_CHECKING:
    from pyroute2 import IPRoute

GATEWAY = "cubelet gateway"
DATAPATH = "cubelet datapath"
OVERLAY = "cubelet overlay"
_ROLES = (GATEWAY, DATAPATH, OVERLAY)

_RESERVED_NOTE = " reserved="
_ALIAS_MAX = 255  # IFALIASZ less its terminator

# What makes a VXLAN device an overlay: the tunnel's key and far end come with each packet
# (collect metadata), nothing is learned, and IPv6 underlays may leave the UDP checksum out.
_VXLAN = {"vxlan_collect_metadata": 1, "vxlan_learning": 0, "vxlan_udp_zero_csum6_rx": 1}
_GONE = (errno.ENODEV,)

log = structlog.get_logger(__name__)


@dataclass(frozen=True)
class Wanted:
    """A device as it should be; `mtu` in bytes above the Ethernet header.

    One that has to be made gets the ifindex `index`, if that is free; of a pair both or neither.
    """

    name: str
    mac: str
    mtu: int
    index: int = 0


def owned(found: Mapping[str, Link]) -> dict[str, Link]:
    """The devices that an agent made, as their aliases tell."""
    return {name: link for name, link in found.items() if link.alias.startswith(_ROLES)}


def ensure_pair(ipr: IPRoute, gateway: Wanted, datapath: Wanted) -> tuple[Link, Link]:
    """Make the veth pair and return it, host end first. Whether an end is up does not change.

    Other devices with these names are replaced. Raises NetError.
    """
    found = rtnl.links(ipr)
    if not _is_pair(*(found.get(end.name) for end in (gateway, datapath))):
        for end in (gateway.name, datapath.name):
            _clear(ipr, rtnl.links(ipr).get(end))
        free = _free_indices(ipr, gateway, datapath)
        ends = (_end(gateway, free), _end(datapath, free))
        with rtnl.attempt(f"create the gateway's veth pair {gateway.name}"), Connection() as kernel:
            veth.create(kernel, *ends)
    return _converge(ipr, gateway, GATEWAY), _converge(ipr, datapath, DATAPATH)


def _is_pair(one: Link | None, other: Link | None) -> bool:
    return (
        one is not None
        and other is not None
        and one.kind == other.kind == "veth"
        and (one.peer, other.peer) == (other.index, one.index)
    )


def ensure_overlay(ipr: IPRoute, overlay: Wanted, port: int) -> Link:
    """The VXLAN device on UDP `port`; one with other properties is replaced. Raises NetError."""
    wanted = {**_VXLAN, "vxlan_port": port}
    link = rtnl.links(ipr).get(overlay.name)
    if link is None or not wanted.items() <= link.vxlan.items():
        _clear(ipr, link)
        index = {"index": overlay.index} if _free_indices(ipr, overlay) else {}
        remedy = {errno.EEXIST: _port_taken(port)}
        with rtnl.attempt(f"create the VXLAN device {overlay.name}", remedy=remedy):
            ipr.link(
                "add", kind="vxlan", ifname=overlay.name, address=overlay.mac, **index, **wanted
            )
    return _converge(ipr, overlay, OVERLAY)


def _free_indices(ipr: IPRoute, *wanted: Wanted) -> frozenset[int]:
    """Those of the wished indices that no device has."""
    taken = {link.index for link in rtnl.links(ipr).values()}
    return frozenset(each.index for each in wanted if each.index) - taken


def _end(wanted: Wanted, free: Collection[int]) -> bytes:
    index = wanted.index if wanted.index in free else 0
    return veth.end(wanted.name, wanted.mac, wanted.mtu, index)


def _clear(ipr: IPRoute, link: Link | None) -> None:
    """Remove a device that has a name we need."""
    if link is None:
        return
    if link.kind is None:
        raise NetError(f"{link.name} is a real device and is not replaced; choose another name")
    log.warning("replacing a network device", device=link.name, kind=link.kind)
    delete(ipr, link)


def _converge(ipr: IPRoute, wanted: Wanted, role: str) -> Link:
    link = rtnl.links(ipr)[wanted.name]
    change: dict[str, str | int] = {}
    if link.mac != wanted.mac:
        change["address"] = wanted.mac
    if link.mtu != wanted.mtu:
        change["mtu"] = wanted.mtu
    if not link.alias.startswith(role):
        change["ifalias"] = role
    if change:
        with rtnl.attempt(f"set {', '.join(change)} of {link.name}"):
            ipr.link("set", index=link.index, **change)
    return link


def delete(ipr: IPRoute, link: Link) -> None:
    """Remove a device (and a veth's other end), if it exists. Raises NetError."""
    with rtnl.attempt(f"remove {link.name}", ignore=_GONE):
        ipr.link("del", index=link.index)


def bring_up(ipr: IPRoute, link: Link) -> None:
    """Set a device up. Raises NetError: an overlay's port may be another VXLAN device's."""
    if link.up:
        return
    remedy = {}
    if link.vxlan:
        remedy[errno.EADDRINUSE] = _port_taken(link.vxlan["vxlan_port"])
    with rtnl.attempt(f"set {link.name} up", remedy=remedy):
        ipr.link("set", index=link.index, state="up")


def _port_taken(port: int) -> str:
    return f"UDP port {port} is another device's or socket's; choose another VXLAN port"


def ensure_addresses(ipr: IPRoute, link: Link, wanted: set[rtnl.Interface], family: int) -> None:
    """Give the device exactly these addresses of the family (AF_UNSPEC: of all). Raises NetError.

    New ones come first, so the device is never without one in between.
    """
    present = set(rtnl.addresses(ipr, link.index, family))
    for verb, changed in (("add", wanted - present), ("del", present - wanted)):
        for address in changed:
            # Removing a primary address takes its secondaries along.
            with rtnl.attempt(f"{verb} {address} on {link.name}", ignore=(errno.EADDRNOTAVAIL,)):
                ipr.addr(
                    verb,
                    index=link.index,
                    address=str(address.ip),
                    prefixlen=address.network.prefixlen,
                )


def reserve_ports(
    ipr: IPRoute, gateway: Link, before: frozenset[int], wanted: frozenset[int]
) -> None:
    """Reserve `wanted` in the kernel instead of `before`, leaving ports that others reserved.

    The list in the alias is extended before the setting changes and shortened after: at any time it
    has all ports that we reserved and none of others. Raises NetError.
    """
    others = sysctl.reserved_ports() - before
    ours = wanted - others
    _note_ports(ipr, gateway, before | ours)
    sysctl.reserve_ports(others | ours)
    _note_ports(ipr, gateway, ours)


def noted_ports(found: Mapping[str, Link]) -> frozenset[int]:
    """The ports that earlier runs reserved, from the gateways' aliases."""
    notes = (link.alias.partition(_RESERVED_NOTE)[2] for link in owned(found).values())
    return frozenset().union(*map(sysctl.parse_ports, notes))


def _note_ports(ipr: IPRoute, gateway: Link, ports: frozenset[int]) -> None:
    alias = GATEWAY + _RESERVED_NOTE + sysctl.format_ports(ports)
    if len(alias) > _ALIAS_MAX:
        raise NetError(
            "the SNAT port range overlaps too many separately reserved ports "
            "(net.ipv4.ip_local_reserved_ports); choose another range"
        )
    set_alias(ipr, gateway, alias)


def set_alias(ipr: IPRoute, link: Link, alias: str) -> None:
    """Set a device's alias if it differs. Raises NetError."""
    if rtnl.links(ipr)[link.name].alias != alias:
        with rtnl.attempt(f"set the alias of {link.name}"):
            ipr.link("set", index=link.index, ifalias=alias)
