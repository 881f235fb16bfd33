"""A load balancer's health checks of a Service, at nodes with and without endpoints."""

from __future__ import annotations

import json
import urllib.error
import urllib.request

from .manifests import pod, service
from .world import Space, eventually

PORT = 30_999


def ask(address: str) -> tuple[int, int]:
    """The status, and how many endpoints the node says that it has."""
    try:
        with urllib.request.urlopen(f"http://{address}:{PORT}/healthz", timeout=5) as found:
            return found.status, json.load(found)["localEndpoints"]
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)["localEndpoints"]


def test_load_balancers_find_the_nodes_with_endpoints(space: Space) -> None:
    world = space.world
    balanced = {
        "type": "LoadBalancer",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": PORT,
    }
    space.apply(pod("web", nodeName="node1"), service("web", "web", ("TCP", 80, 8080), **balanced))
    addresses = [str(world.node(name).address) for name in ("node1", "node2")]

    def asked() -> list[tuple[int, int]]:
        return [world.run(world.outside, ask, each) for each in addresses]

    def answered() -> bool:
        try:
            return asked() == [(200, 1), (503, 0)]
        except urllib.error.URLError:
            return False

    eventually(answered, 5)
    space.delete("Pod", "web")
    eventually(lambda: asked() == [(503, 0), (503, 0)], 5)
