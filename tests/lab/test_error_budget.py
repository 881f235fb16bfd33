"""Errors of the node's own have a budget per port: a noisy pod silences no other."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from cubelet.lab import traffic

from .load import Report, Stop, loads
from .manifests import pod, service
from .test_paths import OVERLAY_MTU, path_mtu
from .world import Space, World


@pytest.fixture(scope="module")
def shared(world: World) -> Iterator[Space]:
    """Two pods on node1, a server on node2, and a Service that nobody serves."""
    space = Space(world, "budget")
    space.apply(
        *(pod(name, nodeName="node1") for name in ("noisy", "quiet")),
        pod("far", ("UDP", 7), nodeName="node2"),
        service("empty", "none", ("UDP", 53, 53), ("TCP", 80, 80)),
    )
    yield space
    space.delete("Service", "empty")
    space.delete("Pod", "noisy", "quiet", "far")


def retry(stop: Stop, address: str) -> Report:
    """Keep asking, four thousand times a second, whatever is said."""
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        while not stop.is_set():
            for _ in range(20):
                with suppress(OSError):
                    client.sendto(b"?", (address, 53))
            sent += 20
            time.sleep(0.005)
    return Report(sent, (), 0)


def refused_at_once(address: str, count: int) -> int:
    """Of so many connections, how many were refused within a moment."""
    results = [traffic.who(address, 80, timeout=1) for _ in range(count)]
    return sum(r.outcome == "refused" and r.seconds < 0.2 for r in results)


def limited(space: Space) -> int:
    """Errors that node1 kept to itself."""
    rows = space.world.call("node1", "get", noun="drops", where={"reason": "rate_limited"})
    return sum(row["packets"] for row in rows)


def test_a_pod_that_retries_for_ever_silences_itself_alone(shared: Space) -> None:
    quiet, empty = shared.at("quiet"), shared.vip("empty")
    before = limited(shared)
    with loads() as running:
        for number in range(2):
            running.add(f"noisy {number}", shared.at("noisy"), retry, empty)
        time.sleep(1)
        assert limited(shared) > before
        assert shared.world.run(quiet, refused_at_once, empty, 20) == 20
        assert shared.world.run(quiet, path_mtu, shared.ip("far"), 7, 1472) == (OVERLAY_MTU, True)
        # its own path's MTU is told to the noisy one, too
        noisy = shared.world.run(shared.at("noisy"), path_mtu, shared.ip("far"), 7, 1472)
        assert noisy == (OVERLAY_MTU, True)
        assert shared.world.run(shared.world.at_node("node1"), refused_at_once, empty, 5) == 5
    running.check(at_least=1000)
