"""Route netlink by pyroute2: a connection, devices as values, and errors that name the attempt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_interface
from socket import AF_UNSPEC
from typing import TYPE_CHECKING, Any

from cubelet.net import NetError, netlink

if TYPE_CHECKING:
    from ipaddress import IPv4Interface, IPv6Interface

    from pyroute2 import IPRoute

    Interface = IPv4Interface | IPv6Interface

_IFF_UP = 1
_ARPHRD_ETHER = 1
_RT_SCOPE_UNIVERSE = 0


@dataclass(frozen=True)
class Link:
    """A network device; `peer` is the ifindex of a veth's other end, if in this namespace."""

    index: int
    name: str
    kind: str | None
    mac: str
    mtu: int
    up: bool
    ethernet: bool
    alias: str
    peer: int | None
    vxlan: Mapping[str, int]


@contextmanager
def session() -> Iterator[IPRoute]:
    """A connection to the current network namespace. Importing pyroute2 takes 0.2 s, once.

    pyroute2 runs an event loop of its own, so a call inside a running loop is a RuntimeError: go
    through `asyncio.to_thread`.
    """
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        pass
    else:
        raise RuntimeError("netlink calls block: use asyncio.to_thread")
    from pyroute2 import IPRoute

    with IPRoute() as ipr:
        yield ipr


@contextmanager
def attempt(
    what: str, ignore: tuple[int, ...] = (), remedy: Mapping[int, str] | None = None
) -> Iterator[None]:
    """Turn a refused request into NetError "cannot WHAT: ...", with the remedy for its errno.

    Errors in `ignore` mean that the wanted state holds already.
    """
    from pyroute2.netlink.exceptions import NetlinkError

    try:
        yield
    except (NetlinkError, netlink.Refused) as error:
        if error.code in ignore:
            return
        hint = (remedy or {}).get(error.code)
        text = f"cannot {what}: {error.args[-1]}"
        raise NetError(f"{text}; {hint}" if hint else text) from error


def links(ipr: IPRoute) -> dict[str, Link]:
    """All devices of the namespace by name."""
    found = {}
    for message in ipr.get_links():
        kind = message.get(("linkinfo", "kind"))
        link = Link(
            index=message["index"],
            name=message.get("ifname"),
            kind=kind,
            mac=message.get("address") or "",
            mtu=message.get("mtu"),
            up=bool(message["flags"] & _IFF_UP),
            ethernet=message["ifi_type"] == _ARPHRD_ETHER,
            alias=message.get("ifalias") or "",
            peer=message.get("link") if message.get("link_netnsid") is None else None,
            vxlan=_vxlan(message) if kind == "vxlan" else {},
        )
        found[link.name] = link
    return found


def _vxlan(message: Any) -> dict[str, int]:
    """The numbers of a VXLAN device under pyroute2's keyword names (`vxlan_port`)."""
    return {
        name.removeprefix("IFLA_").lower(): value
        for name, value in message.get(("linkinfo", "data"))["attrs"]
        if isinstance(value, int)
    }


def addresses(ipr: IPRoute, index: int, family: int = AF_UNSPEC) -> tuple[Interface, ...]:
    """The addresses of a device with their prefix lengths, in the kernel's order."""
    return tuple(map(_interface, ipr.get_addr(index=index, family=family)))


def addresses_by_device(ipr: IPRoute) -> dict[int, tuple[Interface, ...]]:
    """The addresses of global scope of all devices by ifindex, each in the kernel's order."""
    found: dict[int, list[Interface]] = {}
    for message in ipr.get_addr():
        if message["scope"] == _RT_SCOPE_UNIVERSE:
            found.setdefault(message["index"], []).append(_interface(message))
    return {index: tuple(each) for index, each in found.items()}


def _interface(message: Any) -> Interface:
    # IFA_ADDRESS is the far end's on a point-to-point device; IPv6 may have no IFA_LOCAL.
    address = message.get("IFA_LOCAL") or message.get("IFA_ADDRESS")
    return ip_interface((address, message["prefixlen"]))
