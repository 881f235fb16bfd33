"""What the router plans from this node's devices and the cluster's nodes."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address, ip_network

import msgspec
import pytest

from cubelet.state.cluster import State
from cubelet.testkit import local_node
from cubelet_hooks.objects import Change, Namespace, Node, Object
from cubelet_router.cube import Router, RouterSettings, cubelet_cubes
from cubelet_router.records import Prefix, Route, RouteKind

LOCAL = local_node(
    ip_network("10.0.1.0/24"),
    name="a",
    addresses=(ip_address("192.0.2.1"), ip_address("198.51.100.1")),
    gateway_ifindex=5,
    datapath_ifindex=6,
    overlay_ifindex=7,
    uplink_ifindex=8,
)


def node(name: str, address: str | None, *cidrs: str) -> Node:
    return Node(
        name=name,
        addresses=(ip_address(address),) if address else (),
        pod_cidrs=tuple(ip_network(cidr) for cidr in cidrs),
    )


def view(*objects: Object) -> State:
    state = State()
    for one in objects:
        state.apply(Change.between(None, one))
    return state


def planned(
    unit: tuple[str, ...], *objects: Object, settings: RouterSettings | None = None
) -> dict[str, tuple[RouteKind, str]]:
    """The unit's routes as {prefix: (kind, remote)}."""
    router = Router("router0", settings or RouterSettings())
    found = {}
    for entry in router.plan(unit, view(*objects)):
        assert entry.map == "routes"
        assert isinstance(entry.key, Prefix)
        assert isinstance(entry.value, Route)
        assert (len(entry.key.pack()), len(entry.value.pack())) == (8, 8)
        prefix = f"{entry.key.address}/{entry.key.length}"
        assert prefix not in found
        found[prefix] = (RouteKind(entry.value.kind), str(IPv4Address(entry.value.remote)))
    return found


NOWHERE = "0.0.0.0"
LOCAL_ROUTES = {
    "0.0.0.0/0": (RouteKind.UPLINK, NOWHERE),
    "10.96.0.0/12": (RouteKind.UNREACHABLE, NOWHERE),
    "10.0.1.0/24": (RouteKind.SEGMENT, NOWHERE),
    "10.0.1.0/32": (RouteKind.BROADCAST, NOWHERE),
    "10.0.1.255/32": (RouteKind.BROADCAST, NOWHERE),
    "10.0.1.1/32": (RouteKind.HOST, NOWHERE),
    "192.0.2.1/32": (RouteKind.HOST, NOWHERE),
    "198.51.100.1/32": (RouteKind.HOST, NOWHERE),
}


def test_the_package_offers_the_router() -> None:
    assert list(cubelet_cubes()) == [Router]
    assert Router.source().is_file()


def test_local_routes() -> None:
    assert planned(("local",), LOCAL) == LOCAL_ROUTES


def test_nothing_is_routed_before_the_node_is_set_up() -> None:
    assert planned(("local",)) == {}
    assert planned(("node", "b"), node("b", "192.0.2.2", "10.0.2.0/24")) == {}


@pytest.mark.parametrize(
    ("cidr", "broadcasts"),
    [
        ("10.0.1.0/30", {"10.0.1.0/32", "10.0.1.3/32"}),
        ("10.0.1.0/31", set()),
        ("10.0.1.1/32", set()),
    ],
)
def test_only_networks_with_a_broadcast_address_have_one(cidr: str, broadcasts: set[str]) -> None:
    local = msgspec.structs.replace(LOCAL, pod_cidr=ip_network(cidr))
    routes = planned(("local",), local)
    assert {p for p, (kind, _) in routes.items() if kind == RouteKind.BROADCAST} == broadcasts
    assert routes["10.0.1.1/32"] == (RouteKind.HOST, NOWHERE)


def test_unreachable_prefixes_are_a_setting_and_yield_to_the_nodes_own() -> None:
    settings = RouterSettings(unreachable=("172.20.0.0/16", "10.0.1.0/24", "fd00::/108"))
    routes = planned(("local",), LOCAL, settings=settings)
    assert "10.96.0.0/12" not in routes
    assert routes["172.20.0.0/16"] == (RouteKind.UNREACHABLE, NOWHERE)
    assert routes["10.0.1.0/24"] == (RouteKind.SEGMENT, NOWHERE)
    assert not any(prefix.startswith("fd") for prefix in routes)


@pytest.mark.parametrize(
    ("other", "routes"),
    [
        pytest.param(
            node("b", "192.0.2.2", "10.0.2.0/24"),
            {"10.0.2.0/24": (RouteKind.OVERLAY, "192.0.2.2")},
            id="by tunnel",
        ),
        pytest.param(
            node("b", "192.0.2.2", "10.0.2.0/24", "10.0.3.0/24", "fd00:2::/64"),
            {
                "10.0.2.0/24": (RouteKind.OVERLAY, "192.0.2.2"),
                "10.0.3.0/24": (RouteKind.OVERLAY, "192.0.2.2"),
            },
            id="several podCIDRs, one of another family",
        ),
        pytest.param(
            node("b", None, "10.0.2.0/24"),
            {"10.0.2.0/24": (RouteKind.UNREACHABLE, NOWHERE)},
            id="no address: not to the uplink",
        ),
        pytest.param(node("b", "192.0.2.2"), {}, id="no podCIDR yet"),
        pytest.param(
            node("b", "192.0.2.2", "10.0.1.0/24", "0.0.0.0/0", "10.96.0.0/12"),
            {},
            id="claims routes of this node's own",
        ),
        pytest.param(node("a", "192.0.2.1", "10.0.1.0/24"), {}, id="this node itself"),
    ],
)
def test_routes_to_another_node(other: Node, routes: dict[str, tuple[RouteKind, str]]) -> None:
    assert planned(("node", other.name), LOCAL, other) == routes


def test_a_node_that_is_gone_has_no_routes() -> None:
    assert planned(("node", "b"), LOCAL) == {}


def test_units_are_the_changed_node_alone() -> None:
    router = Router("router0", RouterSettings())
    b, c = node("b", "192.0.2.2", "10.0.2.0/24"), node("c", "192.0.2.3", "10.0.3.0/24")
    state = view(LOCAL, b, c)
    assert set(router.units(Change.between(None, b), state)) == {("node", "b")}
    assert set(router.units(Change.between(b, None), state)) == {("node", "b")}
    assert not list(router.units(Change.between(None, Namespace("x")), state))


def test_every_node_is_planned_again_when_this_node_becomes_another() -> None:
    router = Router("router0", RouterSettings())
    state = view(LOCAL, node("b", "192.0.2.2", "10.0.2.0/24"))
    every = {("local",), ("node", "b")}
    assert set(router.units(Change.between(None, LOCAL), state)) == every
    moved = msgspec.structs.replace(LOCAL, pod_cidr=ip_network("10.0.9.0/24"))
    assert set(router.units(Change.between(LOCAL, moved), state)) == every
    grown = msgspec.structs.replace(LOCAL, addresses=(ip_address("192.0.2.1"),))
    assert set(router.units(Change.between(LOCAL, grown), state)) == {("local",)}


def test_a_route_concerns_its_network() -> None:
    concerns = Router.maps[0].concerns
    assert concerns is not None
    address = ip_address("10.0.1.1")
    assert concerns(Prefix(32, address), None) == ip_network("10.0.1.1/32")
    assert concerns(Prefix(24, ip_address("10.0.1.0")), None) == ip_network("10.0.1.0/24")
    assert concerns(Prefix(64, ip_address("fd00::")), None) == ip_network("fd00::/64")


def test_an_unreachable_prefix_must_be_one() -> None:
    with pytest.raises(msgspec.ValidationError, match=r"10\.96\.0\.1/12"):
        msgspec.convert({"unreachable": ["10.96.0.1/12"]}, RouterSettings)
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"routes": 0}, RouterSettings)
