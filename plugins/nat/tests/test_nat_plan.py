"""Exempt networks and settings."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import Any

import msgspec
import pytest

from cubelet.state.cluster import State
from cubelet.testkit import local_node
from cubelet_hooks.cube import Entry
from cubelet_hooks.objects import Change, Node, Object, Pod
from cubelet_nat.cube import ExemptKey, Nat, Present, cubelet_cubes
from cubelet_nat.settings import Settings

LOCAL = local_node(IPv4Network("10.1.1.0/24"), addresses=(ip_address("192.0.2.1"),))
NODE = Node("n2", pod_cidrs=(IPv4Network("10.1.2.0/24"), IPv6Network("fd00:2::/64")))


def exempt(network: str) -> Entry:
    parsed = IPv4Network(network)
    return Entry("exempt", ExemptKey(parsed.prefixlen, parsed.network_address), Present(1))


def plan(unit: tuple[str, ...], *objects: Object, **settings: Any) -> list[Entry]:
    state = State()
    for item in objects:
        state.apply(Change.between(None, item))
    return list(Nat("nat0", Settings(**settings)).plan(unit, state))


@pytest.mark.parametrize(
    ("change", "units"),
    [
        (Change.between(None, NODE), [("node", "n2")]),
        (Change.between(NODE, None), [("node", "n2")]),
        (Change.between(None, LOCAL), [("settings",)]),
        (Change.between(None, Pod("default", "web")), []),
    ],
)
def test_a_change_concerns_one_unit(change: Change, units: list[tuple[str, ...]]) -> None:
    assert list(Nat("nat0", Settings()).units(change, State())) == units


def test_pods_of_other_nodes_see_pods() -> None:
    assert plan(("node", "n2"), NODE) == [exempt("10.1.2.0/24")]
    assert plan(("node", "n2")) == []


def test_networks_of_the_settings_are_exempt() -> None:
    networks = ("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32")
    assert plan(("settings",), exempt=networks) == [exempt("10.0.0.0/8"), exempt("192.0.2.7/32")]
    assert plan(("settings",)) == []


def test_a_longest_prefix_match_starts_with_the_prefix() -> None:
    assert exempt("10.1.2.0/24").key.pack() == b"\x18\x00\x00\x00\x0a\x01\x02\x00"


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"exempt": ["10.0.0.0/8", "10.0.0.1/8"]}, "exempt: 10.0.0.1/8 has host bits set"),
        ({"max_exempt": 0}, "max_exempt must be at least 1, not 0"),
        ({"hairpin": "169.254.1.2"}, "unknown field `hairpin`"),
    ],
)
def test_wrong_settings_are_named(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert(wrong, Settings)
    assert message in str(caught.value)


def test_the_package_offers_one_cube_with_its_source() -> None:
    assert cubelet_cubes() == [Nat]
    assert Nat.source().name == "nat.bpf.c"
    assert Nat.source().is_file()
    assert Nat("nat0", Settings(max_exempt=7)).size_of(Nat.maps[0]) == 7
