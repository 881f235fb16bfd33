"""Health check ports of Services over real HTTP."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from ipaddress import IPv4Network, ip_address
from typing import Any

import pytest

from cubelet.daemon.service_health import ServiceHealth, wanted
from cubelet.state.cluster import State
from cubelet.testkit.samples import local_node
from cubelet_hooks.objects import Change, Endpoint, EndpointSlice, LocalNode, Object, Service

from ..helpers.aio import in_loop

HERE, OTHER = ip_address("127.0.0.2"), ip_address("127.0.0.3")
ALL = (IPv4Network("0.0.0.0/0"),)
PODS = tuple(ip_address(f"10.1.1.{n}") for n in range(2, 6))


def node(*addresses: Any) -> LocalNode:
    return local_node(IPv4Network("10.1.1.0/24"), name="n1", addresses=addresses or (HERE,))


def service(port: int, **fields: Any) -> Service:
    given = {"external_traffic_policy": "Local", "cluster_ips": (ip_address("10.96.0.9"),)}
    return Service(
        "shop", "web", type="LoadBalancer", health_check_node_port=port, **(given | fields)
    )


def slice_of(*endpoints: Endpoint, name: str = "web-1", **fields: Any) -> EndpointSlice:
    return EndpointSlice("shop", name, service="web", endpoints=endpoints, **fields)


def state_of(*objects: Object) -> State:
    state = State()
    for each in objects:
        state.apply(Change.between(None, each))
    return state


def free_port() -> int:
    with socket.socket() as found:
        found.bind((str(HERE), 0))
        return int(found.getsockname()[1])


async def ask(port: int, path: str = "/healthz", at: object = HERE) -> tuple[int, Any, Any]:
    def run() -> tuple[int, Any, Any]:
        try:
            with urllib.request.urlopen(f"http://{at}:{port}{path}", timeout=5) as found:
                return found.status, json.load(found), found.headers
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error), error.headers

    return await asyncio.to_thread(run)


@pytest.mark.parametrize(
    ("endpoints", "count"),
    [
        ((Endpoint(PODS[:1], node_name="n1", target="shop/a"),), 1),
        ((Endpoint(PODS[:1], node_name="n1"), Endpoint(PODS[1:2], node_name="n1")), 2),
        ((Endpoint(PODS[:1], node_name="n2"), Endpoint(PODS[1:2])), 0),
        ((Endpoint(PODS[:1], node_name="n1", ready=False, terminating=True),), 0),
        ((), 0),
    ],
    ids=["one", "two", "elsewhere", "terminating", "none"],
)
@in_loop
async def test_a_node_says_how_many_endpoints_it_has(endpoints, count) -> None:
    port = free_port()
    state = state_of(node(), service(port), slice_of(*endpoints))
    health = ServiceHealth(state, ALL, lambda: "")
    await health.follow()
    status, body, headers = await ask(port)
    assert status == (200 if count else 503)
    assert body == {
        "service": {"namespace": "shop", "name": "web"},
        "localEndpoints": count,
        "serviceProxyHealthy": True,
    }
    assert headers["X-Load-Balancing-Endpoint-Weight"] == str(count)
    assert headers["Content-Type"].startswith("application/json")
    await ended(health)


async def ended(health: ServiceHealth) -> None:
    task = asyncio.ensure_future(health.run())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


@in_loop
async def test_an_endpoint_in_several_slices_counts_once() -> None:
    port, pod = free_port(), Endpoint(PODS[:1], node_name="n1", target="shop/a")
    foreign = Endpoint(PODS[1:2], node_name="n1", target="shop/b")
    state = state_of(
        node(),
        service(port),
        slice_of(pod),
        slice_of(pod, name="web-2"),
        slice_of(foreign, name="web-3", for_proxies=False),
    )
    health = ServiceHealth(state, ALL, lambda: "")
    await health.follow()
    assert (await ask(port, "/"))[1]["localEndpoints"] == 1
    await ended(health)


@in_loop
async def test_an_agent_that_serves_nobody_says_so() -> None:
    port = free_port()
    state = state_of(node(), service(port), slice_of(Endpoint(PODS[:1], node_name="n1")))
    health = ServiceHealth(state, ALL, lambda: "nothing is composed yet")
    await health.follow()
    status, body, _ = await ask(port)
    assert (status, body["serviceProxyHealthy"], body["localEndpoints"]) == (503, False, 1)
    await ended(health)


@in_loop
async def test_servers_come_and_go_with_services_and_say_what_holds_their_port() -> None:
    port = free_port()
    state = state_of(node(), service(port))
    health = ServiceHealth(state, ALL, lambda: "")
    with socket.socket() as held:
        held.bind((str(HERE), port))
        held.listen()
        await health.follow()
        [problem] = health.problems
        assert problem.startswith(f"Service shop/web: its health check port {port} at {HERE} ")
    await health.follow()
    assert not health.problems
    assert (await ask(port))[0] == 503
    state.apply(Change.between(service(port), service(port, external_traffic_policy="Cluster")))
    await health.follow()
    with pytest.raises(urllib.error.URLError):
        await ask(port)


def test_ports_are_served_at_the_nodes_addresses_within_the_networks() -> None:
    state = state_of(node(HERE, OTHER), service(30999))
    assert wanted(state, ALL) == {(HERE, 30999): "shop/web", (OTHER, 30999): "shop/web"}
    assert wanted(state, (IPv4Network("127.0.0.3/32"),)) == {(OTHER, 30999): "shop/web"}
    assert wanted(state_of(service(30999)), ALL) == {}
    six = service(30999, cluster_ips=(ip_address("fd00::9"),))
    assert wanted(state_of(node(), six), ALL) == {}
