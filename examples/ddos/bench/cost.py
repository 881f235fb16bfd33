"""What a packet costs in XDP and at the head of the uplink's program: needs root.

    python examples/ddos/bench/cost.py

Trial runs in the kernel (``BPF_PROG_TEST_RUN``), ways and packets in turn, so that what else the
machine does meets all alike. Medians, in nanoseconds. What the driver and the kernel spend before
the program runs is in none of them: without XDP that includes making an sk_buff.
"""

from __future__ import annotations

import time
from collections import defaultdict
from ipaddress import ip_address
from statistics import median
from typing import Any

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet, Raw

from cubelet.testkit import Datapath
from cubelet.testkit.network import TestNetwork, build_network, private_network
from cubelet.testkit.samples import UPLINK_MAC
from cubelet_ddos.cube import Ddos
from cubelet_ddos.records import Block, Cause, Source

ROUNDS, REPEAT = 15, 20_000
BOTS, OPERATORS, CLIENT = "203.0.113.9", "192.0.2.7", "198.51.100.7"
LISTED = [f"203.{n // 250}.{n % 250}.0/24" for n in range(999)] + ["203.0.113.0/24"]
PACKETS = {"listed": BOTS, "blocked": OPERATORS, "let pass": CLIENT}
SETTINGS: dict[str, Any] = {"block": LISTED, "allow": [], "block_seconds": 3600}


def frame(source: str) -> Packet:
    """The shortest datagram, to the node."""
    ether = Ether(src="02:00:00:00:aa:aa", dst=UPLINK_MAC)
    return ether / IP(src=source, dst="172.18.0.2") / UDP(dport=9) / Raw(bytes(18))


def make(network: TestNetwork, xdp: bool, **settings: int) -> Datapath:
    """The cube on the uplink, and one address blocked for a time."""
    dp = Datapath(
        network,
        stacks={"uplink": [Ddos]},
        settings={"ddos": {**SETTINGS, **settings}},
        early_xdp=xdp,
    )
    until = time.monotonic_ns() + 3600 * 1_000_000_000
    dp.put("ddos", "blocked", Source(ip_address(OPERATORS)), Block(until, 0, Cause.OPERATOR))
    return dp


def run(dp: Datapath, xdp: bool, packet: Packet) -> int:
    """Nanoseconds of one run."""
    if not xdp:
        return dp.send(packet, enters="uplink", repeat=REPEAT).duration_ns
    assert dp.programs.early is not None
    return dp.programs.early.test_run(bytes(packet), REPEAT).duration_ns


def main() -> None:
    """Print a table."""
    with private_network():
        network = build_network()
        # So high a rate that the client's repeated packet is counted and let pass.
        limits = {"a rate": {"rate": 10_000_000, "burst": 10_000_000}, "no rate": {}}
        ways = {
            (xdp, name): make(network, xdp, **limit)
            for name, limit in limits.items()
            for xdp in (True, False)
        }
        plain = Datapath(network, stacks={})
        times = defaultdict(list)
        for _ in range(ROUNDS):
            times["let pass", False, "no cube"].append(run(plain, False, frame(CLIENT)))
            for (xdp, name), dp in ways.items():
                for what, source in PACKETS.items():
                    times[what, xdp, name].append(run(dp, xdp, frame(source)))
        for (what, xdp, name), found in sorted(times.items()):
            ns = median(found)
            rate = f"{1000 / ns:5.1f} M packets/s"
            print(f"{what:14} {'XDP' if xdp else 'head':5} {name:8} {ns:5.0f} ns {rate}")
        for dp in (plain, *ways.values()):
            dp.close()


if __name__ == "__main__":
    main()
