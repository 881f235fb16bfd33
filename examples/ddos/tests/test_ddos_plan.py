"""Who is on the lists, what can be set, and what people see: without privileges."""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import msgspec
import pytest
import yaml

from cubelet.cubes.discovery import check_cube
from cubelet.testkit import view
from cubelet_ddos.cube import Ddos
from cubelet_ddos.records import Block, Cause, Packets, Prefix, Present, RateLimit, Source, prefix
from cubelet_ddos.settings import Settings
from cubelet_hooks.cube import Entry, Unit
from cubelet_hooks.flows import Index
from cubelet_hooks.metrics import Sample
from cubelet_hooks.objects import Change, Custom, Node, Pod
from cubelet_hooks.view import View

SECOND = 1_000_000_000
NOW = 5_000 * SECOND
LOCAL: Unit = ("local",)


def ddos(**settings: Any) -> Ddos:
    return Ddos("ddos0", msgspec.convert(settings, Settings))


def node(name: str, *addresses: str) -> Node:
    return Node(name, addresses=tuple(map(ip_address, addresses)))


def blocklist(name: str, prefixes: object, reason: str = "") -> Custom:
    return Custom("Blocklist", "", name, spec={"prefixes": prefixes, "reason": reason})


def planned(cube: Ddos, state: View, unit: Unit) -> list[tuple[str, str]]:
    """The lists' entries, as ``(map, prefix)``."""
    keys = [(e.map, e.key) for e in cube.plan(unit, state)]
    return [(name, f"{k.address}/{k.prefixlen}") for name, k in keys if isinstance(k, Prefix)]


def shown(cube: Ddos, noun: str, maps: dict[str, Any], state: View) -> list[dict[str, Any]]:
    """A table's rows."""
    rows = cube.rows(noun, maps.__getitem__, state)
    return [dict(row) for row in rows if isinstance(row, Mapping)]


def test_it_keeps_to_the_contract() -> None:
    check_cube(Ddos)


def test_the_places_of_the_reasons_are_the_causes() -> None:
    assert len(Ddos.reasons) == len(Cause)
    assert Ddos.reasons[Cause.RATE].name == "rate"
    assert Ddos.reasons[Cause.LISTED].name == "listed"


def test_a_blocklist_is_planned_by_itself() -> None:
    cube, bots = ddos(), blocklist("bots", ("203.0.113.0/24", "198.51.100.7", "2001:db8::/32"))
    state = view(bots, blocklist("others", ("192.0.2.0/24",)))
    change = Change.between(None, bots)
    (unit,) = cube.units(change, state)
    assert planned(cube, state, unit) == [
        ("listed", "203.0.113.0/24"),
        ("listed", "198.51.100.7/32"),
    ]
    assert planned(cube, view(), unit) == [], "it was deleted"


@pytest.mark.parametrize(
    ("prefixes", "usable", "told"),
    [
        (("203.0.113.9/24", "192.0.2.1"), ["192.0.2.1/32"], "'203.0.113.9/24' is no prefix"),
        (("everybody",), [], "'everybody' is no prefix"),
        ((7, None), [], "7 is no text"),
        ("0.0.0.0/0", [], "spec.prefixes is '0.0.0.0/0': write a list"),
        (None, [], "spec.prefixes is None: write a list"),
    ],
)
def test_what_cannot_be_read_is_left_out_and_told(prefixes, usable, told) -> None:
    cube, state = ddos(), view(blocklist("bots", prefixes))
    found = planned(cube, state, ("Blocklist", "bots"))
    assert [text for _, text in found] == usable
    (row,) = shown(cube, "blocklists", {}, state)
    assert row["prefixes"] == len(usable)
    assert told in row["ignored"][0]


def test_nodes_are_allowed_as_they_come_and_go() -> None:
    cube, other = ddos(), node("node2", "172.18.0.12", "fd00::12")
    (unit,) = cube.units(Change.between(None, other), view(other))
    assert planned(cube, view(other), unit) == [("allowed", "172.18.0.12/32")]
    assert planned(cube, view(), unit) == []


def test_pods_are_nobodys_business() -> None:
    assert list(ddos().units(Change.between(None, Pod("default", "a")), view())) == []


def test_settings_are_lists_and_a_limit() -> None:
    cube = ddos(block=["203.0.113.0/24"], allow=["192.0.2.1", "192.0.2.1/32"], rate=500, burst=50)
    assert planned(cube, view(), LOCAL) == [
        ("listed", "203.0.113.0/24"),
        ("allowed", "192.0.2.1/32"),
    ]
    limit = next(iter(cube.plan(LOCAL, view())))
    assert limit == Entry("limits", Index(0), RateLimit(60 * SECOND, 500, 50))
    assert cube.defines(view())["RATE_LIMITED"] == 1
    assert ddos().defines(view())["RATE_LIMITED"] == 0


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"block": ["10.0.0.0/33"]}, "block: '10.0.0.0/33' is no prefix"),
        ({"allow": ["10.0.0.1/8"]}, "allow: '10.0.0.1/8' is no prefix"),
        ({"rate": 1000, "burst": 99}, "burst 99 is less than a tenth of a second"),
        ({"rate": -1}, "rate"),
        ({"block_seconds": 0}, "block_seconds"),
        ({"max_sources": 0}, "max_sources"),
        ({"ratio": 1}, "ratio"),
    ],
)
def test_a_wrong_setting_is_named(settings, told) -> None:
    with pytest.raises(msgspec.ValidationError, match=told):
        msgspec.convert(settings, Settings)


def test_the_definition_describes_what_is_watched() -> None:
    text = (Path(__file__).parents[1] / "deploy" / "blocklists.yaml").read_text()
    documents = {each["kind"]: each for each in yaml.safe_load_all(text)}
    for each in documents.values():
        kubernetes_validate.validate(each, "1.37", strict=True)
    spec = documents["CustomResourceDefinition"]["spec"]
    (wanted,) = Ddos.watches
    assert documents["CustomResourceDefinition"]["metadata"]["name"] == wanted.definition
    assert spec["group"] == wanted.group
    assert spec["scope"] == "Cluster"
    assert not wanted.namespaced
    assert (spec["names"]["kind"], spec["names"]["plural"]) == (wanted.kind, wanted.plural)
    assert f"{wanted.group}/{spec['versions'][0]['name']}" == wanted.api_version
    (rule,) = documents["ClusterRole"]["rules"]
    assert rule["apiGroups"] == [wanted.group]
    assert rule["resources"] == [wanted.plural]
    assert set(rule["verbs"]) == {"get", "list", "watch"}


@pytest.fixture
def maps(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Maps in which two lists and three blocks are, one of them over."""
    monkeypatch.setattr("cubelet_ddos.control.now", lambda: NOW)
    blocked = {
        Source(ip_address("192.0.2.1")): Block(NOW + SECOND // 2, 3, Cause.RATE),
        Source(ip_address("192.0.2.2")): Block(NOW + 60 * SECOND, 70, Cause.OPERATOR),
        Source(ip_address("192.0.2.3")): Block(NOW, 9, Cause.RATE),
    }
    listed = {prefix(ip_network(each)): Present(1) for each in ("203.0.113.0/24", "10.0.0.0/8")}
    spared = {Index(Cause.RATE): Packets(12)}
    return {"blocked": blocked, "listed": listed, "spared": spared}


def test_people_see_who_is_dropped_and_why(maps: dict[str, Any]) -> None:
    state = view(
        blocklist("bots", ("203.0.113.0/24",), "scans"),
        blocklist("tor", ("203.0.113.0/24",), "exits"),
    )
    rows = shown(ddos(block=["10.0.0.0/8"]), "blocked", maps, state)
    columns = ("source", "cause", "seconds", "packets", "lists", "reason")
    assert [tuple(row) for row in rows] == [columns] * 4
    assert [tuple(row.values()) for row in rows] == [
        ("192.0.2.2", "operator", 60, 70, [], ""),
        ("192.0.2.1", "rate", 1, 3, [], ""),
        ("10.0.0.0/8", "listed", None, None, ["setting block"], ""),
        ("203.0.113.0/24", "listed", None, None, ["bots", "tor"], "scans; exits"),
    ]


def test_monitoring_sees_how_many(maps: dict[str, Any]) -> None:
    assert list(ddos().collect(maps.__getitem__, view())) == [
        Sample("blocked_sources", 1, ("operator",)),
        Sample("blocked_sources", 1, ("rate",)),
        Sample("listed_prefixes", 2),
        Sample("spared_packets", 0, ("listed",)),
        Sample("spared_packets", 0, ("operator",)),
        Sample("spared_packets", 12, ("rate",)),
    ]
