"""The kernel settings that a node's datapath needs."""

from __future__ import annotations

from functools import cache

import structlog

from cubelet.net import former, sysctl

_ADDR_GEN_NONE = "1"

log = structlog.get_logger(__name__)


def needed(gateway: str, datapath: str, overlay: str, *uplinks: str) -> dict[str, str]:
    """The settings that we write, in this order."""
    # Turning this on sets every device's forwarding, so it comes before the single ones.
    wanted = {"ipv4/ip_forward": "1"}
    # bpf_fib_lookup answers only for packets from devices that forward.
    for device in (gateway, datapath, overlay, *uplinks):
        wanted[f"ipv4/conf/{device}/forwarding"] = "1"
    # Packets from the gateway have sources that are routed elsewhere: clients and the node itself.
    wanted[f"ipv4/conf/{gateway}/rp_filter"] = "0"
    wanted[f"ipv4/conf/{gateway}/accept_local"] = "1"
    return wanted | dict.fromkeys(former.LOOPBACK, "1")


@cache
def _warn_of_strictness(gateway: str) -> None:
    """Once, not at every look at the node."""
    log.warning(
        "net.ipv4.conf.all.rp_filter=1 overrides the gateway's: "
        "outside clients of hostNetwork pods may be dropped; set it to 0 or 2",
        gateway=gateway,
    )


def write(gateway: str, datapath: str, overlay: str, *uplinks: str) -> None:
    """Write those that differ. Raises NetError."""
    for key, value in needed(gateway, datapath, overlay, *uplinks).items():
        sysctl.write(key, value)
    # The kernel applies the stricter of this one and the device's.
    if sysctl.read("ipv4/conf/all/rp_filter") == "1":
        _warn_of_strictness(gateway)
    # Keep the host's stack from sending by the datapath's own devices.
    for device in (datapath, overlay):
        if sysctl.exists(key := f"ipv6/conf/{device}/addr_gen_mode"):
            sysctl.write(key, _ADDR_GEN_NONE)
