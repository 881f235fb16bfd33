"""What `ip` shows of a namespace: it shares no code with the library that made it."""

from __future__ import annotations

import json
import subprocess
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

from cubelet.net.node import NodeSettings

PODS, SERVICES, HAIRPIN = map(ip_network, ("10.244.0.0/16", "10.96.0.0/12", "169.254.1.2/32"))
UPLINK_ADDRESS = "192.168.7.2"
SETTINGS = NodeSettings(
    node_name="one",
    pod_cidr=ip_network("10.244.1.0/24"),
    snat_ports=(20000, 20999),
    addresses=(ip_address(UPLINK_ADDRESS),),
)
OWN_DEVICES = {"cubelet0", "cubelet0-dp", "cubelet-vxlan"}


def ip(*args: str) -> None:
    subprocess.run(["ip", *args], check=True)


def ip_json(*args: str) -> list[dict[str, Any]]:
    shown = subprocess.run(["ip", "-j", "-d", *args], check=True, stdout=subprocess.PIPE)
    found: list[dict[str, Any]] = json.loads(shown.stdout or b"[]")
    return found


def link(name: str) -> dict[str, Any]:
    return ip_json("link", "show", "dev", name)[0]


def devices() -> set[str]:
    return {shown["ifname"] for shown in ip_json("link")}


def addresses(name: str, family: str = "-4") -> list[str]:
    infos = (
        i for shown in ip_json(family, "addr", "show", "dev", name) for i in shown["addr_info"]
    )
    return [f"{info['local']}/{info['prefixlen']}" for info in infos]


def routes(*args: str) -> dict[str, dict[str, Any]]:
    return {shown["dst"]: shown for shown in ip_json("-4", "route", "show", *args)}


def own_routes() -> set[str]:
    return set(routes("proto", "203"))


def setting(key: str, value: str | None = None) -> str:
    path = Path("/proc/sys/net/ipv4", key)
    if value is not None:
        path.write_text(value)
    return path.read_text().strip()


def everything() -> dict[str, Any]:
    """All that `ensure`, `sync_routes` and `teardown` may touch, without what changes by itself."""
    names = sorted(devices())
    return {
        "links": ip_json("link"),
        "addresses": {name: addresses(name) for name in names},
        "routes": ip_json("-4", "route", "show", "table", "all"),
        "neighbours": ip_json("-4", "neigh", "show", "nud", "permanent"),
        "ports": setting("ip_local_reserved_ports"),
    }


def forwarding() -> dict[str, str]:
    """What `ensure` may change of the settings that outlive its devices."""
    keys = ("ip_forward", "conf/all/accept_redirects", "conf/eth0/forwarding")
    return {key: setting(key) for key in keys}


def add_nic(name: str, *with_addresses: str, mtu: int = 1500) -> None:
    """A veth stands in for a NIC; its other end is left alone."""
    ip("link", "add", name, "mtu", str(mtu), "type", "veth", "peer", f"{name}-far", "mtu", str(mtu))
    for address in with_addresses:
        ip("addr", "add", address, "dev", name)
    for end in (name, f"{name}-far"):
        ip("link", "set", end, "up")
