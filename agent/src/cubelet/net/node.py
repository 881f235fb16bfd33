"""A node's own devices, addresses and sysctls, for the host, overlay and uplink classes.

Everything here runs in the node's network namespace, can run again at any time, and then changes
only what differs. `teardown` undoes it by the marks that the devices and routes carry.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network, ip_interface
from socket import AF_INET, AF_UNSPEC
from typing import TYPE_CHECKING

from cubelet.net import NetError, devices, fib, former, routes, rtnl, switches, sysctl
from cubelet.net.devices import Wanted
from cubelet.net.rtnl import Link
from cubelet.net.surroundings import Surroundings, survey
from cubelet.net.uplink import Found, Wish, find_uplinks
from cubelet_hooks.objects import Address, LocalNode, Network, Nic

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_DATAPATH_SUFFIX = "-dp"
_NAME_MAX = 15  # IFNAMSIZ less its terminator
_NUD_PERMANENT = 0x80


@dataclass(frozen=True)
class NodeSettings:
    """The wanted state of the node. The constructor raises NetError for a mistake in it.

    `addresses` are the Node object's, InternalIP first. `snat_ports` is first and last port,
    both included. `uplink` None means to detect it.
    """

    node_name: str
    pod_cidr: Network
    snat_ports: tuple[int, int]
    addresses: tuple[Address, ...] = ()
    gateway: str = "cubelet0"
    overlay: str = "cubelet-vxlan"
    uplink: str | None = None
    vxlan_port: int = 4789  # RFC 7348, section 5

    def __post_init__(self) -> None:
        if not isinstance(self.pod_cidr, IPv4Network) or self.pod_cidr.prefixlen > 30:
            raise NetError(f"the podCIDR {self.pod_cidr} is no IPv4 network with room for pods")
        first, last = self.snat_ports
        if not 0 < first <= last <= 0xFFFF:
            raise NetError(f"{first}-{last} is no range of ports")
        if not 0 < self.vxlan_port <= 0xFFFF:
            raise NetError(f"{self.vxlan_port} is no UDP port for VXLAN")
        if len({*self.device_names, self.uplink}) != len(self.device_names) + 1:
            raise NetError("gateway, overlay and uplink need names of their own")
        for name in self.device_names:
            if not 0 < len(name) <= _NAME_MAX or "/" in name or any(map(str.isspace, name)):
                raise NetError(f"{name!r} is no device name (at most {_NAME_MAX} characters)")

    @property
    def datapath(self) -> str:
        """The name of the gateway's other end."""
        return self.gateway + _DATAPATH_SUFFIX

    @property
    def device_names(self) -> tuple[str, str, str]:
        """The names of our own devices."""
        return self.gateway, self.datapath, self.overlay


@dataclass(frozen=True)
class _Own:
    """Our devices, as they were found or made."""

    gateway: Link
    datapath: Link
    overlay: Link


def gateway_of(pod_cidr: Network) -> Address:
    """The host's address among the pods: the first after the network's own."""
    return pod_cidr[1]


def mac_of(node_name: str, role: str) -> str:
    """A locally administered unicast MAC that is the same after every restart."""
    octets = bytearray(hashlib.sha256(f"{node_name}/{role}".encode()).digest()[:6])
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


@dataclass(frozen=True)
class Remembered:
    """The node as an agent has left it: its devices, and what is noted on them.

    For when others remove a device: programs know ifindexes, and only notes tell what was before.
    """

    local: LocalNode
    reserved: frozenset[int]
    former: former.Values
    settings: Mapping[str, str]

    @property
    def indices(self) -> tuple[int, int, int]:
        """The ifindexes of gateway, datapath end and overlay."""
        local = self.local
        return local.gateway_ifindex, local.datapath_ifindex, local.overlay_ifindex


def remember(settings: NodeSettings, local: LocalNode) -> Remembered:
    """What there is to remember after :func:`ensure`. Raises NetError."""
    with rtnl.session() as ipr:
        found = rtnl.links(ipr)
    ours = devices.owned(found)
    indices = {each.ifindex for each in local.uplinks}
    uplinks = (each.name for each in found.values() if each.index in indices)
    keys = (*switches.needed(*settings.device_names, *uplinks), sysctl.RESERVED)
    return Remembered(local, devices.noted_ports(ours), former.noted(ours), sysctl.values(keys))


def ensure(settings: NodeSettings, before: Remembered | None = None) -> LocalNode:
    """Bring the namespace to what the settings say and describe it.

    With what is remembered from `before`, a device that others have removed gets its former ifindex
    if that is free: what is attached and compiled for it stays right.
    A changed podCIDR removes the routes with the old source address: call `sync_routes` after it.
    A replaced device has a new ifindex: attach programs again. Blocks. Raises NetError, after which
    another call continues where this one stopped.
    """
    with rtnl.session() as ipr:
        found = rtnl.links(ipr)
        ours = devices.owned(found)
        others = {name: link for name, link in found.items() if name not in ours}
        with rtnl.attempt("list the routes"):
            known = fib.routes()
        wish = Wish(settings.uplink, settings.addresses, settings.device_names)
        uplinks = find_uplinks(ipr, others, known, wish)
        uplink = uplinks.main.name
        if uplink in settings.device_names:
            raise NetError(f"{uplink} is the uplink: choose another name for our device")
        own = _make_devices(ipr, settings, uplinks, ours, before)
        switches.write(*settings.device_names, *(each.name for each in uplinks.all))
        _bring_up(ipr, own, settings)
        made = {own.gateway.index, own.datapath.index, own.overlay.index}
        return _local_node(settings, uplinks, own, survey(known, made))


def teardown() -> tuple[str, ...]:
    """Remove our devices, routes, port reservations and sysctls, whatever the settings were.

    Returns the removed and restored things. Forwarding is turned off if an agent turned it on, even
    if other software relies on it by now. The devices carry the notes of all this and go last, so
    that a call after a failed one can continue. Blocks; raises NetError.
    """
    done = []
    with rtnl.session() as ipr:
        done += [f"route {network}" for network in routes.remove_routes(ipr)]
        ours = devices.owned(rtnl.links(ipr))
        if ports := devices.noted_ports(ours):
            sysctl.reserve_ports(sysctl.reserved_ports() - ports)
            done.append(f"reserved ports {sysctl.format_ports(ports)}")
        done += [f"sysctl {setting}" for setting in former.put_back(former.noted(ours))]
        for link in ours.values():
            devices.delete(ipr, link)
            done.append(f"device {link.name}")
    return tuple(done)


def _make_devices(
    ipr: IPRoute,
    settings: NodeSettings,
    uplinks: Found,
    ours: Mapping[str, Link],
    before: Remembered | None,
) -> _Own:
    """Make our devices, and remove those of `ours` that have names of earlier settings.

    An earlier pair is removed once the new one has its notes of ports and sysctls; an earlier
    overlay before the new one is made, because it occupies the UDP port.
    """
    indices = before.indices if before else (0, 0, 0)
    size = uplinks.main.mtu

    def wanted(name: str, role: str, mtu: int, index: int) -> Wanted:
        return Wanted(name, mac_of(settings.node_name, role), mtu, index)

    gateway, datapath = devices.ensure_pair(
        ipr,
        wanted(settings.gateway, "gateway", size, indices[0]),
        wanted(settings.datapath, "datapath", size, indices[1]),
    )
    first, last = settings.snat_ports
    ports = frozenset(range(first, last + 1))
    noted, values = devices.noted_ports(ours), former.noted(ours)
    if before and settings.gateway not in ours:  # the notes went with the pair
        noted, values = noted | before.reserved, {**before.former, **values}
    devices.reserve_ports(ipr, gateway, noted, ports)
    former.note(ipr, datapath, values, [each.name for each in uplinks.all])
    for link in ours.values():
        if link.name not in settings.device_names:
            devices.delete(ipr, link)
    overlay = devices.ensure_overlay(
        ipr,
        wanted(settings.overlay, "overlay", uplinks.overlay_mtu, indices[2]),
        settings.vxlan_port,
    )
    return _Own(gateway, datapath, overlay)


def _bring_up(ipr: IPRoute, own: _Own, settings: NodeSettings) -> None:
    for link in (own.gateway, own.datapath, own.overlay):
        devices.bring_up(ipr, link)
    address = ip_interface(gateway_of(settings.pod_cidr))
    devices.ensure_addresses(ipr, own.gateway, {address}, AF_INET)
    for link in (own.datapath, own.overlay):
        devices.ensure_addresses(ipr, link, set(), AF_UNSPEC)
    # Set the neighbour last, since changing the gateway's MAC flushes its neighbours.
    with rtnl.attempt(f"set the neighbour {routes.NEXT_HOP} on {own.gateway.name}"):
        ipr.neigh(
            "replace",
            dst=str(routes.NEXT_HOP),
            lladdr=mac_of(settings.node_name, "router"),
            ifindex=own.gateway.index,
            state=_NUD_PERMANENT,
        )


def _local_node(
    settings: NodeSettings, uplinks: Found, own: _Own, around: Surroundings
) -> LocalNode:
    uplink = uplinks.main
    held = [each for nic in uplinks.all for each in nic.addresses]
    addresses = tuple(dict.fromkeys((*settings.addresses, *held)))
    return LocalNode(
        name=settings.node_name,
        addresses=addresses,
        pod_cidr=settings.pod_cidr,
        gateway=gateway_of(settings.pod_cidr),
        gateway_mac=mac_of(settings.node_name, "gateway"),
        gateway_ifindex=own.gateway.index,
        datapath_ifindex=own.datapath.index,
        overlay_ifindex=own.overlay.index,
        uplink_ifindex=uplink.index,
        uplink_mac=uplink.mac,
        uplink_mtu=uplink.mtu,
        overlay_mtu=uplinks.overlay_mtu,
        router_mac=mac_of(settings.node_name, "router"),
        vxlan_port=settings.vxlan_port,
        held=around.held,
        onlink=around.onlink,
        next_hops=around.next_hops,
        broadcasts=tuple(dict.fromkeys(b for nic in uplinks.all for b in nic.broadcasts)),
        further_uplinks=tuple(
            Nic(nic.index, nic.mac, _known_by(nic.addresses, settings.addresses))
            for nic in uplinks.further
        ),
        uplink_address=_main_address(uplinks, settings.addresses),
        tunnel_source=addresses[0] if addresses[0] in {*around.held, *held} else None,
    )


def _known_by(held: Sequence[Address], told: Sequence[Address]) -> Address:
    """The first of a NIC's addresses that the node is known by to others, else its first."""
    return next((each for each in held if each in told), held[0])


def _main_address(uplinks: Found, told: Sequence[Address]) -> Address | None:
    """Its own if the node is known by another NIC's, else what the node is known by: None."""
    elsewhere = {*told[:1]} & {each for nic in uplinks.further for each in nic.addresses}
    return _known_by(uplinks.main.addresses, told) if elsewhere else None
