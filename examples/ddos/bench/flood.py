"""What a flood leaves of a client's TCP throughput, with the flooder blocked and not: as root.

    pip install ./examples/ddos
    python examples/ddos/bench/flood.py

A lab of one node. From the outside a client sends to a pod by a NodePort, over TCP, while a flooder
sends datagrams to the same pod, at a steady rate and for two seconds.
Calm, flooded, and flooded with the flooder blocked take turns. Client, flooder, node and pod share
this machine's processors; what the flooder's own work takes is seen where it sends elsewhere.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from statistics import median

from cubelet.lab import cluster, netns, traffic
from cubelet.lab.kinds import Key
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.lab.objects import Objects

ROUNDS, SIZE, SECONDS, RATE = 7, 48 << 20, 2.0, 80_000
FLOODER, PORT, NODE_PORT = "172.18.0.150", 7, 30777
ELSEWHERE = "198.18.0.2"
"""Behind a device of its own, where nobody takes anything in."""


def flood(address: str) -> float:
    """Datagrams a second that were sent."""
    began, sent = time.perf_counter(), 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        if address != ELSEWHERE:
            client.bind((FLOODER, 0))
        while (elapsed := time.perf_counter() - began) < SECONDS:
            due = int(elapsed * RATE) - sent
            for _ in range(due):
                client.sendto(bytes(18), (address, NODE_PORT))
            sent += due
            time.sleep(0.001)
    return sent / (time.perf_counter() - began)


def transfer(layout: Layout, address: str) -> float:
    """Megabits a second of a client."""
    outside = layout.outside_netns
    result = netns.run(outside, traffic.transfer, address, NODE_PORT, SIZE, timeout=60)
    assert result.answered, result
    return SIZE * 8 / result.seconds / 1e6


def ddos(layout: Layout, *words: str) -> None:
    """Run ``cubelet ddos``."""
    environment = {**os.environ, "CUBELET_SOCKET": str(layout.socket("node1"))}
    command = [sys.executable, "-m", "cubelet", "ddos", *words]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def flooded(layout: Layout, address: str, target: str) -> tuple[float, float]:
    """The client's megabits a second during a flood, and the flood's packets a second."""
    with ThreadPoolExecutor() as pool:
        running = pool.submit(netns.run, layout.outside_netns, flood, target)
        time.sleep(0.2)
        return transfer(layout, address), running.result()


def serve(objects: Objects) -> None:
    """A pod, and the NodePort that leads to it."""
    ports = [{"protocol": each, "containerPort": PORT} for each in ("TCP", "UDP")]
    objects.apply(
        [
            {
                "kind": "Pod",
                "metadata": {"name": "web", "labels": {"app": "web"}},
                "spec": {"containers": [{"name": "c", "image": "lab", "ports": ports}]},
            },
            {
                "kind": "Service",
                "metadata": {"name": "web"},
                "spec": {
                    "type": "NodePort",
                    "selector": {"app": "web"},
                    "ports": [
                        {"name": each, "protocol": each, "port": PORT, "nodePort": NODE_PORT}
                        for each in ("TCP", "UDP")
                    ],
                },
            },
        ]
    )


def measure(layout: Layout, address: str) -> None:
    """Print medians."""
    calm, away, open_, shut = [], [], [], []
    for _ in range(ROUNDS):
        calm.append((transfer(layout, address), 0.0))
        away.append(flooded(layout, address, ELSEWHERE))
        open_.append(flooded(layout, address, address))
        ddos(layout, "block", FLOODER)
        shut.append(flooded(layout, address, address))
        ddos(layout, "unblock", FLOODER)
    for name, found in (
        ("calm", calm),
        ("elsewhere", away),
        ("flooded", open_),
        ("flooder blocked", shut),
    ):
        client, packets = (median(column) for column in zip(*found, strict=True))
        low, high = min(found)[0], max(found)[0]
        print(
            f"{name:16} client {client:6.0f} Mbit/s ({low:.0f} to {high:.0f}), "
            f"flood {packets / 1000:4.0f},000 packets/s"
        )


def main() -> None:
    """Build the lab, measure and remove it."""
    layout = Layout(f"f{os.getpid()}")
    spec = LabSpec(layout.name, plan_nodes(1, ()), {})
    try:
        cluster.up(layout, spec, lambda _: None)
        lines = [
            f"address add {FLOODER}/24 dev eth0",
            f"link add away type veth peer name away netns {layout.wire_netns}",
            "link set away up",
            "address add 198.18.0.1/30 dev away",
            f"neighbor add {ELSEWHERE} lladdr 02:00:00:00:00:99 dev away",
        ]
        netns.ip_batch(lines, layout.outside_netns)
        netns.ip(["link", "set", "away", "up"], layout.wire_netns)
        objects = Objects(layout, spec)
        serve(objects)
        measure(layout, spec.nodes[0].address)
        objects.delete([Key("Pod", "default", "web")])
    finally:
        cluster.down(layout)


if __name__ == "__main__":
    main()
