"""A network namespace with a node's devices, for trial runs: real ifindexes, no traffic."""

from __future__ import annotations

import ctypes
import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from cubelet.testkit.families import twin, twin_network
from cubelet.testkit.samples import GATEWAY_MAC, UPLINK_MAC, local_node, pod_mac
from cubelet_hooks.objects import LocalNode, Port
from cubelet_hooks.records import Family

_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True)
class TestNetwork:
    """The node and its pods' ports; pod ``default/a`` is 10.1.0.2, ``default/b`` 10.1.0.3, ..."""

    __test__ = False  # no test class, whatever its name suggests to pytest

    local: LocalNode
    ports: dict[str, Port]

    def of(self, family: Family) -> TestNetwork:
        """The same devices with addresses of the family: :func:`twin` says which those of 6 are."""
        if family == 4:
            return self
        local = self.local
        networks = {"pod_cidr": twin_network(IPv4Network(local.pod_cidr))}
        addresses = {"gateway": twin(IPv4Address(local.gateway))}
        own = tuple(twin(IPv4Address(each)) for each in local.addresses)
        six = msgspec.structs.replace(local, addresses=own, **networks, **addresses)
        ports = {
            key: msgspec.structs.replace(
                port, addresses=tuple(twin(IPv4Address(each)) for each in port.addresses)
            )
            for key, port in self.ports.items()
        }
        return TestNetwork(six, ports)


@contextmanager
def private_network() -> Iterator[None]:
    """Run the block in a new network namespace, then return the thread to its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        if libc.unshare(_CLONE_NEWNET):
            code = ctypes.get_errno()
            raise OSError(code, f"{os.strerror(code)}: packet tests need root")
        yield
    finally:
        libc.setns(before, _CLONE_NEWNET)
        os.close(before)


def build_network(pods: int = 4) -> TestNetwork:
    """Make the devices in the current namespace: uplink 172.18.0.2/24, podCIDR 10.1.0.0/24."""
    from pyroute2 import IPRoute

    _switch("ipv6/conf/default/disable_ipv6")  # or the kernel sends IPv6 packets by new devices
    with IPRoute() as ip:
        uplink = _pair(ip, "uplink0", UPLINK_MAC)
        overlay = _pair(ip, "overlay0", "02:00:00:00:00:05")
        gateway = _pair(ip, "gateway0", GATEWAY_MAC)
        datapath = ip.link_lookup(ifname="gateway0p")[0]
        ip.addr("add", index=uplink, address="172.18.0.2", prefixlen=24)
        ip.route("add", dst="default", gateway="172.18.0.254")
        for device in ("uplink0", "gateway0"):
            _switch(f"ipv6/conf/{device}/disable_ipv6", "0")
            _switch(f"ipv6/conf/{device}/accept_dad", "0")
            _switch(f"ipv6/conf/{device}/forwarding")
        uplink6 = str(twin(IPv4Address("172.18.0.2")))
        ip.addr("add", index=uplink, address=uplink6, prefixlen=64)
        ip.route("add", dst="default", gateway=str(twin(IPv4Address("172.18.0.254"))), family=10)
        indexes = [_pair(ip, f"pod{n}", f"02:00:00:00:02:{n:02x}") for n in range(pods)]
    for name in ("all", "uplink0"):
        _switch(f"ipv4/conf/{name}/forwarding")
    local = local_node(
        gateway_ifindex=gateway,
        datapath_ifindex=datapath,
        overlay_ifindex=overlay,
        uplink_ifindex=uplink,
    )
    return TestNetwork(local, {p.key: p for p in map(_port, range(pods), indexes)})


def _switch(name: str, value: str = "1") -> None:
    Path("/proc/sys/net", name).write_text(value)


def _pair(ip: Any, name: str, mac: str) -> int:
    ip.link("add", ifname=name, kind="veth", address=mac, peer={"ifname": f"{name}p"})
    index, peer = (ip.link_lookup(ifname=each)[0] for each in (name, f"{name}p"))
    ip.link("set", index=index, state="up")
    ip.link("set", index=peer, state="up")
    return int(index)


def _port(number: int, ifindex: int) -> Port:
    return Port(
        namespace="default",
        name="abcdefghijklmnopqrstuvwxyz"[number],
        container_id=f"test{number}",
        ifname="eth0",
        netns="",
        host_ifname=f"pod{number}",
        ifindex=ifindex,
        mac=pod_mac(number),
        host_mac=f"02:00:00:00:02:{number:02x}",
        addresses=(ipaddress.ip_address(f"10.1.0.{number + 2}"),),
        mtu=1500,
        uid=f"uid{number}",
    )
