"""The rows of `cubelet get services`: from what is planned, for a reader."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from ipaddress import IPv4Network, ip_address
from typing import Any

import msgspec
import pytest

from cubelet.state.cluster import State
from cubelet.testkit import entries, local_node
from cubelet_hooks.objects import (
    Change,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    HostPort,
    Object,
    Port,
    Service,
    ServicePort,
)
from cubelet_hooks.records import Record
from cubelet_lbrp import hostports
from cubelet_lbrp.cube import Lbrp, Settings

VIP, EXTERNAL, NODE = map(ip_address, ("10.96.0.10", "198.51.100.7", "192.0.2.1"))
A, B = ip_address("10.1.1.5"), ip_address("10.1.2.6")
LOCAL = local_node(IPv4Network("10.1.1.0/24"), name="n1", addresses=(NODE,))
WEB = Service(
    "shop",
    "web",
    type="NodePort",
    cluster_ips=(VIP,),
    external_ips=(EXTERNAL,),
    external_traffic_policy="Local",
    ports=(ServicePort("http", "TCP", 80, 8080, 30080),),
)
SLICE = EndpointSlice(
    "shop",
    "web-1",
    service="web",
    endpoints=(Endpoint((A,), node_name="n1"), Endpoint((B,), node_name="n2")),
    ports=(EndpointPort("http", "TCP", 8080),),
)


def shown(*objects: Object, known: tuple[Object, ...] = ()) -> list[Any]:
    """The rows when maps hold what `objects` want, and `known` is what the agent knows by then."""
    cube = Lbrp("lbrp0", Settings())
    maps: dict[str, dict[Record, Record]] = defaultdict(dict)
    state = state_of(*objects)
    units = [("service", key) for key in state.services]
    for unit in (*units, *hostports.units_of(state.ports.values())):
        for entry in entries(cube.plan(unit, state)):
            maps[entry.map][entry.key] = entry.value

    def read(name: str) -> Mapping[Record, Record]:
        return maps[name]

    return list(cube.rows("services", read, state_of(*known) if known else state))


def state_of(*objects: Object) -> State:
    state = State()
    for each in objects:
        state.apply(Change.between(None, each))
    return state


def test_every_way_to_a_service_has_its_name_and_its_backends() -> None:
    rows = shown(LOCAL, WEB, SLICE)
    assert list(rows[0]) == [
        *("namespace", "name", "address", "port", "protocol", "scope", "affinity", "backends")
    ]
    assert {(row["namespace"], row["name"], row["protocol"]) for row in rows} == {
        ("shop", "web", 6)
    }
    both, own = ["10.1.1.5:8080", "10.1.2.6:8080"], ["10.1.1.5:8080"]
    assert {(str(r["address"]), r["port"], r["scope"].name): r["backends"] for r in rows} == {
        ("10.96.0.10", 80, "INSIDE"): both,
        ("198.51.100.7", 80, "INSIDE"): both,
        ("198.51.100.7", 80, "OUTSIDE"): own,
        ("192.0.2.1", 30080, "INSIDE"): both,
        ("192.0.2.1", 30080, "OUTSIDE"): own,
        ("127.0.0.1", 30080, "NODE"): both,
    }


@pytest.mark.parametrize("name", ["aaa", "zzz"])
def test_a_contested_port_is_shown_as_whose_it_is(name: str) -> None:
    """A Service that has no ClusterIP of its own asks for nothing."""
    ports = (ServicePort("http", "TCP", 80, 1),)
    thief = Service(name, "x", cluster_ips=(B,), external_ips=(VIP, EXTERNAL), ports=ports)
    headless = Service("aa", "x", external_ips=(EXTERNAL,), ports=ports, created=1)
    older = msgspec.structs.replace(WEB, created=7)
    for services in ((thief, older, headless), (headless, older, thief)):
        rows = shown(LOCAL, WEB, SLICE, known=(LOCAL, *services))
        assert {(row["namespace"], row["name"]) for row in rows} == {("shop", "web")}


def test_a_service_without_endpoints_has_no_backends() -> None:
    assert {len(row["backends"]) for row in shown(LOCAL, WEB)} == {0}


def test_what_a_deleted_service_left_is_shown_without_a_name() -> None:
    rows = shown(LOCAL, WEB, SLICE, known=(LOCAL,))
    assert {(row["namespace"], row["name"]) for row in rows} == {(None, None)}


def test_a_host_port_is_shown_as_its_pods() -> None:
    port = Port(
        namespace="shop",
        name="edge",
        container_id="c",
        ifname="eth0",
        netns="",
        host_ifname="edge",
        ifindex=7,
        mac="02:00:00:00:01:01",
        host_mac="02:00:00:00:02:01",
        addresses=(A,),
        mtu=1500,
        host_ports=(HostPort(443, 8443),),
    )
    assert [
        (row["namespace"], row["name"], str(row["address"]), row["port"], row["backends"])
        for row in shown(LOCAL, port)
    ] == [
        ("shop", "pod/edge", address, 443, ["10.1.1.5:8443"])
        for address in ("192.0.2.1", "192.0.2.1", "127.0.0.1")
    ]
