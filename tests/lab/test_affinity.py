"""Session affinity on real packets: live, with its timeout, from every place."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from cubelet.lab.kinds import Manifest

from .manifests import pod, service
from .world import Space, World

ECHO = (("TCP", 7), ("UDP", 7))


def sticky(seconds: int = 10800, **spec: Any) -> Manifest:
    config = {"clientIP": {"timeoutSeconds": seconds}}
    spec = {"sessionAffinity": "ClientIP", "sessionAffinityConfig": config, **spec}
    return shared(**spec)


def shared(**spec: Any) -> Manifest:
    return service("web", "web", ("TCP", 80, 7), ("UDP", 80, 7), type="NodePort", **spec)


@pytest.fixture
def web(space: Space) -> Iterator[Space]:
    """A client, and a Service of three pods on two nodes that its clients keep."""
    labels = {"app": "web"}
    space.apply(
        pod("client", nodeName="node1"),
        pod("one", *ECHO, labels=labels, nodeName="node1"),
        pod("two", *ECHO, labels=labels, nodeName="node2"),
        pod("three", *ECHO, labels=labels, nodeName="node2"),
        sticky(),
    )
    yield space
    space.delete("Service", "web")


@pytest.mark.parametrize("protocol", ["TCP", "UDP"])
def test_every_connection_goes_to_the_same_pod(world: World, web: Space, protocol: str) -> None:
    vip, port = web.vip("web"), web.node_port("web", protocol)
    near, far = (world.node(name).address for name in ("node1", "node2"))
    (chosen,) = web.backends(web.at("client"), vip, 80, protocol)
    assert web.backends(web.at("client"), near, port, protocol) == {chosen}
    for place, address, number in (
        (web.at("client"), far, port),
        (world.at_node("node1"), vip, 80),
        (world.at_node("node1"), far, port),
        (world.outside, near, port),
        (world.outside, far, port),
    ):
        assert len(web.backends(place, address, number, protocol)) == 1


def test_it_is_switched_on_and_off_live(web: Space) -> None:
    client, vip = web.at("client"), web.vip("web")
    (chosen,) = web.backends(client, vip, 80)
    web.apply(shared())
    assert len(web.backends(client, vip, 80)) > 1
    web.apply(sticky())
    assert web.backends(client, vip, 80) == {chosen}


def test_a_client_chooses_anew_after_the_timeout(web: Space) -> None:
    web.apply(sticky(seconds=1))
    client, vip = web.at("client"), web.vip("web")
    seen = set()
    for _ in range(20):
        seen.add(web.who(client, vip, 80))
        if len(seen) > 1:
            return
        time.sleep(1.2)
    raise AssertionError(f"always {seen}")


def test_a_client_of_a_pod_that_goes_has_another_one(web: Space) -> None:
    client, vip = web.at("client"), web.vip("web")
    (chosen,) = web.backends(client, vip, 80)
    web.delete("Pod", chosen)
    (other,) = web.backends(client, vip, 80)
    assert other in {"one", "two", "three"} - {chosen}
