"""The result of ADD in the format of the caller's version (CNI specification, "ADD Success")."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address
from typing import Any

from cubelet.cni.attachments import Attachment


def add_result(attachment: Attachment, version: str, dns: Mapping[str, Any]) -> dict[str, Any]:
    """ADD's result. `version` is one of `request.VERSIONS`; `dns` is the configuration's own."""
    link = attachment.link
    address = ip_address(link.address)
    result: dict[str, Any] = {
        "cniVersion": version,
        "interfaces": [
            {"name": link.host_ifname, "mac": link.host_mac},
            {"name": link.ifname, "mac": link.mac, "sandbox": link.netns},
        ],
        "ips": [
            {
                "address": f"{address}/{link.prefix_length}",
                "gateway": link.gateway,
                "interface": 1,  # the pod side
            }
        ],
        "routes": [{"dst": "0.0.0.0/0" if address.version == 4 else "::/0", "gw": link.gateway}],
        "dns": dict(dns),
    }
    major, minor, _ = (int(part) for part in version.split("."))
    if major == 0:
        result["ips"][0]["version"] = str(address.version)
    if (major, minor) >= (1, 1):
        for interface in result["interfaces"]:
            interface["mtu"] = link.mtu
        result["routes"][0]["mtu"] = link.route_mtu
    return result
