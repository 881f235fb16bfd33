"""A pod's wiring: a veth pair between the node's namespace and the pod's.

All functions work on the calling thread's namespace, block, and may be repeated: what is already
as asked stays, what is already gone is no error. All raise NetError.
"""

from __future__ import annotations

import errno
import hashlib
import re
from base64 import b32encode
from collections.abc import Mapping
from ipaddress import ip_address, ip_interface
from socket import AF_INET, AF_INET6
from typing import TYPE_CHECKING, Any

import msgspec

from cubelet.net import NetError, netns, rtnl, sysctl
from cubelet_hooks.records import Address

if TYPE_CHECKING:
    from pyroute2 import IPRoute

_HOST_IFNAME = re.compile(r"cbl[a-z2-7]{12}")
_IFF_UP = 1
_MAIN_TABLE = 254
_LOOPBACK = 1  # the index of "lo" in every network namespace (LOOPBACK_IFINDEX)

# The node's stack takes no part in pod traffic: packets that eBPF leaves to it are not answered.
_HOST_SYSCTLS = {
    "ipv4/conf/{}/rp_filter": "0",
    # 8: answer ARP for no local address. Without it the node answers for every address it has.
    "ipv4/conf/{}/arp_ignore": "8",
    "ipv6/conf/{}/disable_ipv6": "1",
}


class PodLink(msgspec.Struct, frozen=True):
    """A veth pair as it should be. `ifname` and `mac` are the pod side's.

    `mtu` is that of both devices, `route_mtu` what the pod sends at most to other nodes; bytes
    above the Ethernet header.
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


def host_mac(container_id: str, ifname: str) -> str:
    """The host side's: locally administered, unicast, the same for the same attachment."""
    return _local(_digest("host", container_id, ifname))


def mac_of(address: Address) -> str:
    """The pod side's, the same for the same address: neighbours still hold its predecessor's."""
    return _local(_digest("pod", str(address)))


def _local(digest: bytes) -> str:
    octets = bytearray(digest[:6])
    octets[0] = octets[0] & 0xFC | 0x02
    return octets.hex(":")


def wire(link: PodLink) -> int:
    """Make the pair and configure both sides, the host side down; its ifindex.

    A pair left under the same name is replaced. When a step fails, nothing stays behind.
    """
    with netns.opened(link.netns) as pod:
        if netns.is_current(pod):
            raise NetError(f"network namespace {link.netns} is the node's own")
        with rtnl.session() as ipr:
            _delete(ipr, link.host_ifname)
            _create(ipr, link, pod)
            try:
                netns.run_in(pod, lambda: _configure_pod(link))
                _isolate_host_side(link.host_ifname)
                return _index(ipr, link.host_ifname)
            except BaseException:
                _delete(ipr, link.host_ifname)
                raise


def bring_up(host_ifname: str) -> None:
    """Set the host side up: only now can the pod send and receive."""
    with rtnl.session() as ipr:
        _set_up(ipr, host_ifname, _index(ipr, host_ifname))


def unwire(host_ifname: str) -> bool:
    """Remove the pair, both ends; False if it was gone."""
    with rtnl.session() as ipr:
        return _delete(ipr, host_ifname)


def check(link: PodLink, ifindex: int) -> None:
    """Raises NetError saying what is no longer as `wire` and `bring_up` left it."""
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
            if found.kind == "veth" and _HOST_IFNAME.fullmatch(name)
        }


def _digest(*parts: str) -> bytes:
    return hashlib.sha256("/".join(parts).encode()).digest()


def _create(ipr: IPRoute, link: PodLink, pod: int) -> None:
    taken = f"{link.netns} has a device {link.ifname} already"
    with rtnl.attempt(f"create {link.ifname}", remedy={errno.EEXIST: taken}):
        ipr.link(
            "add",
            kind="veth",
            ifname=link.host_ifname,
            address=link.host_mac,
            mtu=link.mtu,
            peer={
                "ifname": link.ifname,
                "address": link.mac,
                "mtu": link.mtu,
                "net_ns_fd": pod,
            },
        )


def _delete(ipr: IPRoute, name: str) -> bool:
    found = ipr.link_lookup(ifname=name)
    with rtnl.attempt(f"remove {name}", ignore=(errno.ENODEV,)):
        for index in found:
            ipr.link("del", index=index)
    return bool(found)


def _get(ipr: IPRoute, name: str) -> Any:
    with rtnl.attempt(f"find device {name}"):
        return ipr.link("get", ifname=name)[0]


def _index(ipr: IPRoute, name: str) -> int:
    return int(_get(ipr, name)["index"])


def _set_up(ipr: IPRoute, name: str, index: int) -> None:
    with rtnl.attempt(f"set {name} up"):
        ipr.link("set", index=index, state="up")


def _configure_pod(link: PodLink) -> None:
    with rtnl.session() as ipr:
        index = _index(ipr, link.ifname)
        _set_up(ipr, "lo", _LOOPBACK)
        _add_address(ipr, link, index)
        _set_up(ipr, link.ifname, index)
        _add_default_route(ipr, link, index)


def _add_address(ipr: IPRoute, link: PodLink, index: int) -> None:
    with rtnl.attempt(f"add {link.address} to {link.ifname}"):
        ipr.addr("add", index=index, address=link.address, prefixlen=link.prefix_length)


def _add_default_route(ipr: IPRoute, link: PodLink, index: int) -> None:
    """The route's MTU limits what leaves the node: pods of this node see the device's."""
    with rtnl.attempt(f"add the default route through {link.gateway}"):
        ipr.route(
            "add",
            family=_family(link),
            dst="default",
            gateway=link.gateway,
            oif=index,
            metrics={"mtu": link.route_mtu},
        )


def _isolate_host_side(name: str) -> None:
    for key, value in _HOST_SYSCTLS.items():
        if sysctl.exists(key.format(name)):
            sysctl.write(key.format(name), value)


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
    for route in ipr.get_default_routes(family=_family(link), table=_MAIN_TABLE):
        if (route.get("oif"), route.get("gateway")) == (index, link.gateway):
            _expect("MTU of the default route", route.get(("metrics", "mtu")), link.route_mtu)
            return
    raise NetError(f"{link.ifname} has lost its default route through {link.gateway}")


def _expect(what: str, found: object, wanted: object) -> None:
    if found != wanted:
        raise NetError(f"{what} is {found}, not {wanted}")


def _family(link: PodLink) -> int:
    return AF_INET if ip_address(link.address).version == 4 else AF_INET6
