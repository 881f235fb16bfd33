"""A pod's wiring: a veth pair between the node's namespace and the pod's.

All functions work on the calling thread's namespace, block, and may be repeated: a missing device
is no error when removing it. All raise NetError.
"""

from __future__ import annotations

import errno
import hashlib
import re
import socket
import struct
from base64 import b32encode
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any

import msgspec

from cubelet.net import NetError, netns, rtnl, sysctl, veth
from cubelet.net.netlink import CREATE, EXCL, Connection, Refused, attribute, number, text
from cubelet_hooks.records import Address

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_HOST_IFNAME = re.compile(r"cbl[a-z2-7]{12}")
_IFF_UP = 1
_MAIN_TABLE = 254

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/veth.h
_NEWLINK, _DELLINK, _NEWADDR, _NEWROUTE = 16, 17, 20, 24
_IFLA_IFNAME, _IFLA_IFALIAS, _IFLA_NET_NS_FD = 3, 20, 28
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_RTA_OIF, _RTA_GATEWAY, _RTA_METRICS, _RTAX_MTU = 4, 5, 8, 2
_RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 4, 0, 1

# The node's stack takes no part in pod traffic: it must not answer packets that eBPF passes to it.
_HOST_SYSCTLS = {
    "ipv4/conf/{}/rp_filter": "0",
    # 8: answer ARP for no local address. Without it the node answers for every address it has.
    "ipv4/conf/{}/arp_ignore": "8",
    "ipv6/conf/{}/disable_ipv6": "1",
}


class PodLink(msgspec.Struct, frozen=True):
    """A veth pair as it should be. `ifname` and `mac` are the pod side's.

    `mtu` is that of both devices, `route_mtu` that of the pod's default route, for other nodes; in
    bytes above the Ethernet header.
    """

    netns: str
    ifname: str
    mac: str
    host_ifname: str
    host_mac: str
    address: str
    prefix_length: int
    gateway: str
    mtu: int
    route_mtu: int


def host_ifname(container_id: str, ifname: str) -> str:
    """The name of the host side: 15 bytes, the same for the same attachment."""
    return "cbl" + b32encode(_digest("name", container_id, ifname))[:12].decode().lower()


def is_pods(ifname: str) -> bool:
    """Whether a device's name is one of :func:`host_ifname`'s."""
    return _HOST_IFNAME.fullmatch(ifname) is not None


def host_mac(container_id: str, ifname: str) -> str:
    """The host side's MAC: locally administered, unicast, the same for the same attachment."""
    return _local(_digest("host", container_id, ifname))


def mac_of(address: Address) -> str:
    """The pod side's MAC, the same for the same address: neighbours may still have it cached."""
    return _local(_digest("pod", str(address)))


def _local(digest: bytes) -> str:
    octets = bytearray(digest[:6])
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def wire(link: PodLink) -> int:
    """Make the pair and configure both sides, the host side down; returns the host side's ifindex.

    A pair with the same name is replaced. If a step fails, the pair is removed.
    """
    with netns.opened(link.netns) as pod:
        if netns.is_current(pod):
            raise NetError(f"network namespace {link.netns} is the node's own")
        with Connection() as kernel:
            _delete(kernel, link.host_ifname)
            _create(kernel, link, pod)
            try:
                netns.run_in(pod, lambda: _configure_pod(link))
                _isolate_host_side(link.host_ifname)
                return _index(link.host_ifname)
            except BaseException:
                _delete(kernel, link.host_ifname)
                raise


def bring_up(host_ifname: str, alias: str) -> None:
    """Give the host side its alias and set it up: only now can the pod send and receive."""
    with Connection() as kernel:
        _set_up(kernel, host_ifname, text(_IFLA_IFALIAS, alias))


def annotate(host_ifname: str, alias: str) -> None:
    """Give the host side another alias."""
    with Connection() as kernel, rtnl.attempt(f"set the alias of {host_ifname}"):
        body = veth.ifinfo() + text(_IFLA_IFNAME, host_ifname) + text(_IFLA_IFALIAS, alias)
        kernel.request(_NEWLINK, body)


def unwire(host_ifname: str) -> bool:
    """Remove the pair, both ends; False if it was gone."""
    with Connection() as kernel:
        return _delete(kernel, host_ifname)


def check(link: PodLink, ifindex: int) -> None:
    """Raise NetError for a property that is no longer as `wire` and `bring_up` set it."""
    with rtnl.session() as ipr:
        host = _get(ipr, link.host_ifname)
        _expect(f"ifindex of {link.host_ifname}", host["index"], ifindex)
        _check_device(host, link.host_ifname, link.host_mac, link.mtu)
    with netns.opened(link.netns) as pod:
        netns.run_in(pod, lambda: _check_pod(link))


def list_wired() -> Mapping[str, rtnl.Link]:
    """The host sides of all pods in this namespace by name."""
    with rtnl.session() as ipr:
        return {
            name: found
            for name, found in rtnl.links(ipr).items()
            if found.kind == "veth" and is_pods(name)
        }


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("/".join(parts).encode()).digest()


def _create(kernel: Connection, link: PodLink, pod: int) -> None:
    taken = f"{link.netns} has a device {link.ifname} already"
    peer = veth.end(link.ifname, link.mac, link.mtu) + number(_IFLA_NET_NS_FD, pod)
    with rtnl.attempt(f"create {link.ifname}", remedy={errno.EEXIST: taken}):
        veth.create(kernel, veth.end(link.host_ifname, link.host_mac, link.mtu), peer)


def _delete(kernel: Connection, name: str) -> bool:
    try:
        kernel.request(_DELLINK, veth.ifinfo() + text(_IFLA_IFNAME, name))
    except Refused as error:
        if error.code == errno.ENODEV:
            return False
        raise NetError(f"cannot remove {name}: {error.args[-1]}") from error
    return True


def _index(name: str) -> int:
    try:
        return socket.if_nametoindex(name)
    except OSError as error:
        raise NetError(f"cannot find device {name}: {error.strerror}") from error


def _set_up(kernel: Connection, name: str, more: bytes = b"") -> None:
    with rtnl.attempt(f"set {name} up"):
        kernel.request(_NEWLINK, veth.ifinfo(_IFF_UP) + text(_IFLA_IFNAME, name) + more)


def _configure_pod(link: PodLink) -> None:
    with Connection() as kernel:
        index = _index(link.ifname)
        _set_up(kernel, "lo")
        _add_address(kernel, link, index)
        _set_up(kernel, link.ifname)
        _add_default_route(kernel, link, index)


def _add_address(kernel: Connection, link: PodLink, index: int) -> None:
    address = ip_address(link.address)
    family = _family(address)
    body = struct.pack("=BBBBI", family, link.prefix_length, 0, _RT_SCOPE_UNIVERSE, index)
    body += attribute(_IFA_ADDRESS, address.packed)
    if family == AF_INET:
        body += attribute(_IFA_LOCAL, address.packed)
    with rtnl.attempt(f"add {link.address} to {link.ifname}"):
        kernel.request(_NEWADDR, body, CREATE | EXCL)


def _add_default_route(kernel: Connection, link: PodLink, index: int) -> None:
    """Add the default route; its MTU is for other nodes, the device's for pods of this node."""
    gateway = ip_address(link.gateway)
    kind = (_RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST)
    body = struct.pack("=BBBBBBBBI", _family(gateway), 0, 0, 0, _MAIN_TABLE, *kind, 0)
    body += attribute(_RTA_GATEWAY, gateway.packed) + number(_RTA_OIF, index)
    body += attribute(_RTA_METRICS, number(_RTAX_MTU, link.route_mtu))
    with rtnl.attempt(f"add the default route through {link.gateway}"):
        kernel.request(_NEWROUTE, body, CREATE | EXCL)


def _isolate_host_side(name: str) -> None:
    for key, value in _HOST_SYSCTLS.items():
        if sysctl.exists(key.format(name)):
            sysctl.write(key.format(name), value)


def _get(ipr: IPRoute, name: str) -> Any:
    with rtnl.attempt(f"find device {name}"):
        return ipr.link("get", ifname=name)[0]


def _check_pod(link: PodLink) -> None:
    with rtnl.session() as ipr:
        device = _get(ipr, link.ifname)
        _check_device(device, link.ifname, link.mac, link.mtu)
        wanted = ip_interface((link.address, link.prefix_length))
        if wanted not in rtnl.addresses(ipr, device["index"]):
            raise NetError(f"{link.ifname} has lost its address {wanted}")
        _check_default_route(ipr, link, device["index"])


def _check_device(device: Any, name: str, wanted_mac: str, wanted_mtu: int) -> None:
    _expect(f"MAC of {name}", device.get("address"), wanted_mac)
    _expect(f"MTU of {name}", device.get("mtu"), wanted_mtu)
    if not device["flags"] & _IFF_UP:
        raise NetError(f"{name} is down")


def _check_default_route(ipr: IPRoute, link: PodLink, index: int) -> None:
    family = _family(ip_address(link.gateway))
    for route in ipr.get_default_routes(family=family, table=_MAIN_TABLE):
        if (route.get("oif"), route.get("gateway")) == (index, link.gateway):
            _expect("MTU of the default route", route.get(("metrics", "mtu")), link.route_mtu)
            return
    raise NetError(f"{link.ifname} has lost its default route through {link.gateway}")


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise NetError(f"{what} is {found}, not {wanted}")


def _family(address: Address) -> int:
    return AF_INET if address.version == 4 else AF_INET6
