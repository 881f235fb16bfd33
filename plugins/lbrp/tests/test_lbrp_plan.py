"""Map entries planned from Services, EndpointSlices and nodes."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import msgspec
import pytest

from cubelet.control.planner import Planner
from cubelet.state.cluster import State
from cubelet.testkit import entries as entries_of
from cubelet.testkit import local_node
from cubelet_hooks.cube import UPLINK_EGRESS, Entry
from cubelet_hooks.objects import (
    Address,
    Change,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    HostPort,
    Namespace,
    Node,
    Object,
    Port,
    Service,
    ServicePort,
)
from cubelet_lbrp.cube import Lbrp, Settings, cubelet_cubes
from cubelet_lbrp.records import (
    Backend,
    BackendKey,
    Frontend,
    FrontendKey,
    MemberKey,
    NodeKey,
    Present,
    Scope,
    SourceKey,
)

VIP = ip_address("10.96.0.10")
EXTERNAL = ip_address("198.51.100.7")
BALANCED = ip_address("203.0.113.9")
NODE = ip_address("192.0.2.1")
SECOND = ip_address("192.0.2.101")
A, B = ip_address("10.1.1.5"), ip_address("10.1.2.6")
TCP, UDP, SCTP = 6, 17, 132
WEB = ("service", "default/web")

LOCAL = local_node(
    IPv4Network("10.1.1.0/24"), name="n1", addresses=(NODE, SECOND, ip_address("2001:db8::1"))
)
SLICE = EndpointSlice(
    "default",
    "web-1",
    service="web",
    endpoints=(Endpoint((A,), node_name="n1"), Endpoint((B,), node_name="n2")),
    ports=(EndpointPort("http", "TCP", 8080), EndpointPort("dns", "UDP", 5353)),
)
HTTP = ServicePort("http", "TCP", 80, 8080)


def service(**fields: Any) -> Service:
    return Service("default", "web", **{"cluster_ips": (VIP,), "ports": (HTTP,), **fields})


def state_of(*objects: Object) -> State:
    state = State()
    for item in objects:
        state.apply(Change.between(None, item))
    return state


def plan(*objects: Object, unit: tuple[str, ...] = WEB) -> tuple[Entry, ...]:
    return tuple(entries_of(Lbrp("lbrp0", Settings()).plan(unit, state_of(*objects))))


def wanted(entries: Iterable[Entry], name: str) -> dict[Any, Any]:
    """The entries of one map; fails if two disagree."""
    found: dict[Any, Any] = {}
    for entry in entries:
        if entry.map == name:
            assert found.setdefault(entry.key, entry.value) == entry.value
    return found


def frontends(entries: Iterable[Entry], scope: Scope) -> dict[tuple[Address, int, int], list[str]]:
    """The backends that each address, port and protocol leads to in a scope, by number."""
    entries = tuple(entries)
    backends = wanted(entries, "backends")
    return {
        (key.address, key.port, key.protocol): [
            "{0.address}:{0.port}".format(backends[BackendKey(value.set_id, index)])
            for index in range(value.count)
        ]
        for key, value in wanted(entries, "services").items()
        if key.scope == scope and key.port
    }


def virtual(entries: Iterable[Entry]) -> set[tuple[Address, Scope]]:
    keys = wanted(entries, "services")
    return {(key.address, Scope(key.scope)) for key in keys if not key.port}


def test_a_cluster_ip_leads_to_its_backends() -> None:
    entries = plan(LOCAL, service(), SLICE)
    [(key, value)] = [
        (key, value) for key, value in wanted(entries, "services").items() if key.port
    ]
    assert key == FrontendKey(VIP, 80, TCP, Scope.INSIDE)
    assert value == Frontend(value.set_id, count=2, elsewhere=0)
    assert wanted(entries, "backends") == {
        BackendKey(value.set_id, 0): Backend(A, 8080),
        BackendKey(value.set_id, 1): Backend(B, 8080),
    }
    assert wanted(entries, "members") == {
        MemberKey(value.set_id, A, 8080): Present(1),
        MemberKey(value.set_id, B, 8080): Present(1),
    }
    assert virtual(entries) == {(VIP, Scope.INSIDE)}


def test_entries_come_once_and_fit_their_maps() -> None:
    ports = (ServicePort("http", "TCP", 80, 8080, 30080), ServicePort("dns", "UDP", 53, 5353))
    entries = plan(LOCAL, service(type="NodePort", ports=ports, external_ips=(EXTERNAL,)), SLICE)
    assert len(set(entries)) == len(entries)
    declared = {each.name: each for each in Lbrp.maps}
    for entry in entries:
        assert type(entry.key) is declared[entry.map].key
        assert type(entry.value) is declared[entry.map].value
        assert entry.key.unpack(entry.key.pack()) == entry.key


def test_a_set_is_written_before_what_refers_to_it() -> None:
    names = [each.name for each in Lbrp.maps]
    assert max(names.index("backends"), names.index("members")) < names.index("services")


def test_each_port_has_its_own_backends() -> None:
    ports = (
        HTTP,
        ServicePort("dns", "UDP", 80, 5353),
        ServicePort("sctp", "SCTP", 80, 9),
    )
    assert frontends(plan(service(ports=ports), SLICE), Scope.INSIDE) == {
        (VIP, 80, TCP): ["10.1.1.5:8080", "10.1.2.6:8080"],
        (VIP, 80, UDP): ["10.1.1.5:5353", "10.1.2.6:5353"],
        (VIP, 80, SCTP): [],
    }


def test_external_and_load_balancer_addresses_serve_both_scopes() -> None:
    entries = plan(service(external_ips=(EXTERNAL,), load_balancer_ips=(BALANCED,)), SLICE)
    both = ["10.1.1.5:8080", "10.1.2.6:8080"]
    outside = {(EXTERNAL, 80, TCP): both, (BALANCED, 80, TCP): both}
    assert frontends(entries, Scope.OUTSIDE) == outside
    assert frontends(entries, Scope.INSIDE) == outside | {(VIP, 80, TCP): both}
    assert virtual(entries) == {
        (VIP, Scope.INSIDE),
        (EXTERNAL, Scope.INSIDE),
        (EXTERNAL, Scope.OUTSIDE),
        (BALANCED, Scope.INSIDE),
        (BALANCED, Scope.OUTSIDE),
    }


def test_a_node_port_is_served_on_all_addresses_of_this_node_but_makes_none_virtual() -> None:
    port = ServicePort("http", "TCP", 80, 8080, node_port=30080)
    entries = plan(LOCAL, service(type="NodePort", ports=(port,)), SLICE)
    both = ["10.1.1.5:8080", "10.1.2.6:8080"]
    node_ports = {(NODE, 30080, TCP): both, (SECOND, 30080, TCP): both}
    assert frontends(entries, Scope.OUTSIDE) == node_ports
    assert frontends(entries, Scope.INSIDE) == node_ports | {(VIP, 80, TCP): both}
    assert virtual(entries) == {(VIP, Scope.INSIDE)}
    assert len(wanted(entries, "backends")) == 2


def test_without_a_node_of_ours_there_are_no_node_ports_and_nothing_is_local() -> None:
    port = ServicePort("http", "TCP", 80, 8080, node_port=30080)
    entries = plan(service(ports=(port,), internal_traffic_policy="Local"), SLICE)
    assert frontends(entries, Scope.OUTSIDE) == {}
    assert frontends(entries, Scope.INSIDE) == {(VIP, 80, TCP): []}


def test_a_local_external_policy_binds_outside_clients_only() -> None:
    port = ServicePort("http", "TCP", 80, 8080, node_port=30080)
    web = service(ports=(port,), external_ips=(EXTERNAL,), external_traffic_policy="Local")
    entries = plan(LOCAL, web, SLICE)
    assert set(map(tuple, frontends(entries, Scope.OUTSIDE).values())) == {("10.1.1.5:8080",)}
    both = ("10.1.1.5:8080", "10.1.2.6:8080")
    assert set(map(tuple, frontends(entries, Scope.INSIDE).values())) == {both}


def test_a_local_internal_policy_binds_the_cluster_ip_only() -> None:
    web = service(external_ips=(EXTERNAL,), internal_traffic_policy="Local")
    assert frontends(plan(LOCAL, web, SLICE), Scope.INSIDE) == {
        (VIP, 80, TCP): ["10.1.1.5:8080"],
        (EXTERNAL, 80, TCP): ["10.1.1.5:8080", "10.1.2.6:8080"],
    }


@pytest.mark.parametrize(("node", "elsewhere"), [("n1", 0), ("n2", 1), ("", 0)])
def test_without_backends_it_is_said_whether_the_policy_is_why(node: str, elsewhere: int) -> None:
    endpoints = (Endpoint((B,), node_name=node),) if node else ()
    slices = msgspec.structs.replace(SLICE, endpoints=endpoints)
    values = wanted(plan(LOCAL, service(internal_traffic_policy="Local"), slices), "services")
    value = values[FrontendKey(VIP, 80, TCP, Scope.INSIDE)]
    assert (value.count, value.elsewhere) == (1 if node == "n1" else 0, elsewhere)


@pytest.mark.parametrize(
    "ignored",
    [
        pytest.param({"cluster_ips": ()}, id="headless"),
        pytest.param({"cluster_ips": (), "external_ips": (EXTERNAL,)}, id="headless external"),
        pytest.param({"type": "ExternalName"}, id="external name"),
        pytest.param({"labels": {"service.kubernetes.io/service-proxy-name": "x"}}, id="proxy"),
        pytest.param({"labels": {"service.kubernetes.io/headless": ""}}, id="headless label"),
        pytest.param({"cluster_ips": (ip_address("fd00::1"),)}, id="other family"),
    ],
)
def test_nothing_is_planned_for(ignored: dict[str, Any]) -> None:
    assert plan(LOCAL, service(**ignored), SLICE) == ()


def test_slices_that_are_not_for_proxies_have_no_backends() -> None:
    ours = msgspec.structs.replace(SLICE, endpoints=SLICE.endpoints[:1])
    theirs = msgspec.structs.replace(
        SLICE, name="web-2", endpoints=SLICE.endpoints[1:], for_proxies=False
    )
    found = frontends(plan(LOCAL, service(), ours, theirs), Scope.INSIDE)
    assert found == {(VIP, 80, TCP): [f"{A}:8080"]}


def test_nothing_is_planned_for_what_is_gone() -> None:
    assert plan(LOCAL, SLICE) == ()
    assert plan(unit=("node", "n2")) == ()
    assert plan(unit=("local",)) == ()


def test_a_dual_stack_service_is_planned_per_family() -> None:
    six = ip_address("fd00::10")
    backend = EndpointSlice(
        "default",
        "web-6",
        service="web",
        address_type="IPv6",
        endpoints=(Endpoint((ip_address("fd00:1::5"),)),),
        ports=(EndpointPort("http", "TCP", 8080),),
    )
    state = state_of(LOCAL, service(cluster_ips=(VIP, six)), SLICE, backend)
    found = tuple(entries_of(Lbrp("lbrp0", Settings(), 6).plan(WEB, state)))
    assert frontends(found, Scope.INSIDE) == {(six, 80, TCP): ["fd00:1::5:8080"]}
    assert {len(key.pack(6)) for key in wanted(found, "services")} == {20}


def test_equal_sets_of_two_services_are_one() -> None:
    other = Service("default", "twin", cluster_ips=(ip_address("10.96.0.11"),), ports=(HTTP,))
    twin = msgspec.structs.replace(SLICE, name="twin-1", service="twin")
    first = plan(LOCAL, service(), SLICE)
    second = plan(LOCAL, other, twin, unit=("service", "default/twin"))
    assert wanted(first, "backends") == wanted(second, "backends")


def test_addresses_of_nodes_are_known() -> None:
    node = Node("n2", addresses=(ip_address("192.0.2.2"), ip_address("2001:db8::2")))
    expected = {NodeKey(ip_address("192.0.2.2")): Present(1)}
    assert wanted(plan(node, unit=("node", "n2")), "nodes") == expected
    assert set(wanted(plan(LOCAL, unit=("local",)), "nodes")) == {NodeKey(NODE), NodeKey(SECOND)}


@pytest.mark.parametrize(
    ("old", "new", "units"),
    [
        (None, service(), [WEB]),
        (service(), None, [WEB]),
        (None, SLICE, [WEB]),
        (
            SLICE,
            msgspec.structs.replace(SLICE, service="other"),
            [("service", "default/other"), WEB],
        ),
        (None, msgspec.structs.replace(SLICE, service=""), []),
        (None, Node("n2"), [("node", "n2")]),
        (None, Namespace("default"), []),
    ],
)
def test_a_change_concerns_few_units(
    old: Object | None, new: Object | None, units: list[tuple[str, ...]]
) -> None:
    assert list(Lbrp("lbrp0", Settings()).units(Change.between(old, new), State())) == units


@pytest.mark.parametrize(
    ("fields", "tied"),
    [
        ({}, False),
        ({"ports": (ServicePort("http", "TCP", 80, 8080, 30080),)}, True),
        ({"internal_traffic_policy": "Local"}, True),
        ({"external_traffic_policy": "Local"}, True),
    ],
)
def test_a_change_of_this_node_concerns_the_services_tied_to_it(
    fields: dict[str, Any], tied: bool
) -> None:
    state = state_of(LOCAL, service(**fields))
    units = list(Lbrp("lbrp0", Settings()).units(Change.between(None, LOCAL), state))
    assert units == [("local",), *([WEB] if tied else [])]


def test_a_changed_entry_concerns_the_services_address() -> None:
    maps = {each.name: each for each in Lbrp.maps}
    for entry in plan(LOCAL, service(external_ips=(EXTERNAL,)), SLICE):
        concerns = maps[entry.map].concerns
        if entry.map == "services":
            assert concerns is not None
            assert concerns(entry.key, entry.value) in {VIP, EXTERNAL}
        else:
            assert concerns is None


@pytest.mark.parametrize(
    ("fields", "exposed"),
    [
        ({}, False),
        ({"ports": (ServicePort("http", "TCP", 80, 8080, 30080),)}, True),
        ({"external_ips": (EXTERNAL,)}, True),
        ({"load_balancer_ips": (BALANCED,)}, True),
        ({"external_ips": (EXTERNAL,), "type": "ExternalName"}, False),
    ],
)
def test_the_uplink_is_looked_at_only_while_a_service_is_exposed(
    fields: dict[str, Any], exposed: bool
) -> None:
    needed = set(Lbrp("lbrp0", Settings()).needed_on(state_of(service(**fields))))
    assert needed == {"pod", "host"} | ({"uplink"} if exposed else set())


@pytest.mark.parametrize(
    ("policy", "backend", "node_port", "kept"),
    [
        ("Local", NODE, 30080, True),
        ("Local", SECOND, 30080, True),
        ("Local", A, 30080, False),
        ("Local", NODE, 0, False),
        ("Cluster", NODE, 30080, False),
    ],
)
def test_clients_keep_their_addresses_up_to_the_hosts_network_under_a_local_policy(
    policy: Any, backend: Address, node_port: int, kept: bool
) -> None:
    ports = (ServicePort("http", "TCP", 80, 8080, node_port=node_port),)
    web = service(ports=ports, external_traffic_policy=policy)
    item = msgspec.structs.replace(SLICE, endpoints=(Endpoint((backend,), node_name="n1"),))
    needed = set(Lbrp("lbrp0", Settings()).needed_on(state_of(LOCAL, web, item)))
    assert (UPLINK_EGRESS in needed) == kept
    flags = {
        key.scope: value.keeps
        for key, value in wanted(plan(LOCAL, web, item), "services").items()
        if key.port == 30080
    }
    local = int(policy == "Local")
    assert flags == ({Scope.INSIDE: 0, Scope.NODE: 0, Scope.OUTSIDE: local} if node_port else {})


def test_sizes_are_settings() -> None:
    settings = Settings(
        max_frontends=1,
        max_backends=2,
        max_node_addresses=3,
        max_source_ranges=4,
        max_affinities=5,
    )
    cube = Lbrp("lbrp0", settings)
    sizes = {each.name: cube.size_of(each) for each in cube.maps}
    wanted = {"backends": 2, "members": 2, "sources": 4, "nodes": 3, "services": 1}
    assert sizes == {**wanted, "affinities": 5}
    with pytest.raises(msgspec.ValidationError, match="max_backends must be at least 1, not 0"):
        msgspec.convert({"max_backends": 0}, Settings)
    with pytest.raises(msgspec.ValidationError, match="max_servces"):
        msgspec.convert({"max_servces": 1}, Settings)


def test_the_package_offers_one_cube_with_its_source() -> None:
    assert cubelet_cubes() == [Lbrp]
    assert Lbrp.source().name == "lbrp.bpf.c"
    assert Lbrp.source().is_file()


def pod(name: str, ifindex: int, *host_ports: HostPort, address: Address = A) -> Port:
    return Port(
        namespace="default",
        name=name,
        container_id=name,
        ifname="eth0",
        netns="",
        host_ifname=name,
        ifindex=ifindex,
        mac="02:00:00:00:01:01",
        host_mac="02:00:00:00:02:01",
        addresses=(address,),
        mtu=1500,
        host_ports=host_ports,
    )


def planned(*objects: Object) -> Planner:
    """A planner that has been told of these objects, one after the other."""
    planner, state = Planner([Lbrp("lbrp0", Settings())]), State()
    tell(planner, state, *(Change.between(None, each) for each in objects))
    return planner


def tell(planner: Planner, state: State, *changes: Change) -> None:
    for change in changes:
        taken = state.apply(change)
        planner.replan(planner.units([taken] if taken else [], state), state)
    assert not planner.failures


def held(planner: Planner) -> dict[tuple[str, int, int], str]:
    """Whose backend each address, port and protocol leads to, from inside and outside alike."""
    found: dict[str, dict[Any, Any]] = {
        name: {
            key.unpack(k): value.unpack(v) for k, v in planner.contents()[f"lbrp0_{name}"].items()
        }
        for name, key, value in (
            ("services", FrontendKey, Frontend),
            ("backends", BackendKey, Backend),
        )
    }
    scopes: list[dict[tuple[str, int, int], str]] = [
        {
            (str(key.address), key.port, key.protocol): "{0.address}:{0.port}".format(
                found["backends"][BackendKey(value.set_id, 0)]
            )
            for key, value in found["services"].items()
            if key.scope == scope and key.port
        }
        for scope in (Scope.OUTSIDE, Scope.INSIDE)
    ]
    assert scopes[0].items() <= scopes[1].items()
    return scopes[1]


def test_a_host_port_is_served_at_every_address_of_the_node_or_at_its_own() -> None:
    every, one = HostPort(80, 8080), HostPort(81, 8081, "UDP", SECOND)
    any_v4 = HostPort(82, 8082, "SCTP", ip_address("0.0.0.0"))
    any_v6 = HostPort(83, 8083, "TCP", ip_address("::"))
    stranger = HostPort(84, 8084, "TCP", EXTERNAL)
    assert held(planned(LOCAL, pod("a", 7, every, one, any_v4, any_v6, stranger))) == {
        ("192.0.2.1", 80, TCP): "10.1.1.5:8080",
        ("192.0.2.101", 80, TCP): "10.1.1.5:8080",
        ("192.0.2.101", 81, UDP): "10.1.1.5:8081",
        ("192.0.2.1", 82, SCTP): "10.1.1.5:8082",
        ("192.0.2.101", 82, SCTP): "10.1.1.5:8082",
    }


def test_one_number_with_other_addresses_and_protocols_is_no_conflict() -> None:
    planner = planned(
        LOCAL,
        pod("a", 7, HostPort(80, 1, "TCP", NODE)),
        pod("b", 8, HostPort(80, 2, "TCP", SECOND), address=B),
        pod("c", 9, HostPort(80, 3, "UDP", NODE), address=VIP),
    )
    assert planner.complaints() == frozenset()
    assert held(planner) == {
        ("192.0.2.1", 80, TCP): "10.1.1.5:1",
        ("192.0.2.101", 80, TCP): "10.1.2.6:2",
        ("192.0.2.1", 80, UDP): "10.96.0.10:3",
    }


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_the_pod_attached_first_keeps_its_port_and_the_other_is_told(order: Iterable[int]) -> None:
    """Whatever their names, and in whatever order an agent that restarts learns of them."""
    first, second = pod("z", 99, HostPort(80, 8080, "TCP", NODE)), pod("a", 100, HostPort(80, 1))
    planner, state = Planner([Lbrp("lbrp0", Settings())]), State()
    changes = [Change.between(None, (first, second)[each]) for each in order]
    tell(planner, state, Change.between(None, LOCAL), *changes)
    assert held(planner)["192.0.2.1", 80, TCP] == "10.1.1.5:8080"
    assert held(planner)["192.0.2.101", 80, TCP] == "10.1.1.5:1"
    [told] = planner.complaints()
    assert str(told) == (
        "Pod default/a: port 80/TCP of 192.0.2.1 is held by pod default/z; "
        "remedy: ask for another port or address, or remove that one"
    )
    tell(planner, state, Change.between(first, None))
    assert planner.complaints() == frozenset()
    assert held(planner)["192.0.2.1", 80, TCP] == "10.1.1.5:1"


def test_a_service_goes_before_a_pod_on_its_node_port() -> None:
    port = ServicePort("http", "TCP", 80, 8080, node_port=30080)
    planner = planned(
        LOCAL, pod("a", 7, HostPort(30080, 1), address=VIP), service(ports=(port,)), SLICE
    )
    assert held(planner)["192.0.2.1", 30080, TCP] == "10.1.1.5:8080"
    assert [str(each).partition(" of ")[0] for each in planner.complaints()] == [
        *("Pod default/a: port 30080/TCP",) * 3,  # at 127.0.0.1, too
    ]


def test_a_pods_next_container_takes_its_ports_over() -> None:
    before, after = pod("a", 7, HostPort(80, 1)), pod("a", 8, HostPort(81, 1))
    planner, state = Planner([Lbrp("lbrp0", Settings())]), State()
    tell(planner, state, *(Change.between(None, each) for each in (LOCAL, before)))
    tell(planner, state, Change.between(before, after))
    assert {number for _, number, _ in held(planner)} == {81}
    tell(planner, state, Change.between(after, None))
    assert held(planner) == {}


def test_host_ports_follow_the_nodes_addresses() -> None:
    planner, state = Planner([Lbrp("lbrp0", Settings())]), State()
    tell(planner, state, Change.between(None, pod("a", 7, HostPort(80, 1))))
    assert held(planner) == {}
    tell(planner, state, Change.between(None, LOCAL))
    assert set(held(planner)) == {("192.0.2.1", 80, TCP), ("192.0.2.101", 80, TCP)}
    moved = msgspec.structs.replace(LOCAL, addresses=(B,))
    tell(planner, state, Change.between(LOCAL, moved))
    assert set(held(planner)) == {("10.1.2.6", 80, TCP)}


def test_a_host_port_alone_exposes_the_node() -> None:
    cube = Lbrp("lbrp0", Settings())
    assert "uplink" not in cube.needed_on(state_of(LOCAL, pod("a", 7)))
    assert "uplink" in cube.needed_on(state_of(LOCAL, pod("a", 7, HostPort(80, 1))))


def test_source_ranges_bind_the_load_balancers_addresses_alone() -> None:
    port = ServicePort("http", "TCP", 80, 8080, node_port=30080)
    ranges = (IPv4Network("192.0.2.0/24"), IPv6Network("2001:db8::/64"), IPv4Network("0.0.0.0/1"))
    web = service(
        ports=(port,), external_ips=(EXTERNAL,), load_balancer_ips=(BALANCED,), source_ranges=ranges
    )
    entries = plan(LOCAL, web, SLICE)
    bound = {
        (key.address, key.scope): value.ranges
        for key, value in wanted(entries, "services").items()
        if value.ranges
    }
    assert set(bound) == {(BALANCED, Scope.INSIDE), (BALANCED, Scope.OUTSIDE)}
    [number] = set(bound.values())
    # 32 bits of padding and 64 of the number stand before the address
    assert wanted(entries, "sources") == {
        SourceKey(96 + 24, number, ip_address("192.0.2.0")): Present(1),
        SourceKey(96 + 1, number, ip_address("0.0.0.0")): Present(1),
    }


def test_source_ranges_of_another_family_let_nobody_in() -> None:
    web = service(load_balancer_ips=(BALANCED,), source_ranges=(IPv6Network("2001:db8::/64"),))
    entries = plan(LOCAL, web, SLICE)
    assert wanted(entries, "sources") == {}
    assert wanted(entries, "services")[FrontendKey(BALANCED, 80, TCP, Scope.OUTSIDE)].ranges


def test_services_with_hints_follow_the_nodes_zone() -> None:
    """Learned with the node, and again when it comes to another zone; others are let be."""
    endpoints = (
        Endpoint((A,), node_name="n1", hint_zones=("a",)),
        Endpoint((B,), node_name="n2", hint_zones=("b",)),
    )
    near = msgspec.structs.replace(SLICE, endpoints=endpoints)
    plain = Service("default", "plain", cluster_ips=(BALANCED,), ports=(HTTP,))
    planner, state = Planner([Lbrp("lbrp0", Settings())]), State()
    both = ["10.1.1.5:8080", "10.1.2.6:8080"]

    def served() -> list[str]:
        found = entries_of(Lbrp("lbrp0", Settings()).plan(WEB, state))
        return frontends(found, Scope.INSIDE)[VIP, 80, TCP]

    def chosen() -> int:
        services = planner.contents()["lbrp0_services"]
        key = FrontendKey(VIP, 80, TCP, Scope.INSIDE).pack()
        return Frontend.unpack(services[key]).count

    tell(planner, state, *(Change.between(None, each) for each in (service(), plain, near)))
    assert (served(), chosen()) == (both, 2)
    known = Node("n1", labels={"topology.kubernetes.io/zone": "a"})
    for each in (known, LOCAL):
        tell(planner, state, Change.between(None, each))
    assert (served(), chosen()) == (both[:1], 1)
    for zone, expected in (("b", both[1:]), ("c", both), ("a", both[:1])):
        moved = Node("n1", labels={"topology.kubernetes.io/zone": zone})
        change = Change.between(state.nodes["n1"], moved)
        tell(planner, state, change)
        assert (served(), chosen()) == (expected, len(expected))
        assert list(Lbrp("lbrp0", Settings()).units(change, state)) == [("node", "n1"), WEB]
    same = Change.between(moved, Node("n1", labels=moved.labels, addresses=(NODE,)))
    assert list(Lbrp("lbrp0", Settings()).units(same, state)) == [("node", "n1")]
