"""What the bridge plans from the pods attached to the node."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from cubelet.state.cluster import State
from cubelet_bridge.cube import FLOOD_PORTS, Bridge, BridgeSettings, cubelet_cubes
from cubelet_bridge.records import FdbEntry, FdbKey, FloodPort, LearnedEntry, Neighbor, NeighborKey
from cubelet_hooks.cube import Entry
from cubelet_hooks.flows import Index
from cubelet_hooks.objects import Change, Node, Port
from cubelet_hooks.records import Address


def port(name: str, ifindex: int, *addresses: str, mac: str = "02:00:00:00:00:07") -> Port:
    return Port(
        namespace="default",
        name=name,
        container_id=name,
        ifname="eth0",
        netns=f"/run/netns/{name}",
        host_ifname=f"cbl{name}",
        ifindex=ifindex,
        mac=mac,
        host_mac="06:00:00:00:00:07",
        addresses=tuple(ip_address(address) for address in addresses),
        mtu=1450,
    )


def view(*ports: Port) -> State:
    state = State()
    for one in ports:
        state.apply(Change.between(None, one))
    return state


def bridge() -> Bridge:
    return Bridge("bridge0", BridgeSettings())


def flood(address: Address, ifindex: int, index: int) -> Entry:
    return Entry("flood_ports", Index(index), FloodPort(ifindex, address, 0))


def test_the_package_offers_the_bridge() -> None:
    assert list(cubelet_cubes()) == [Bridge]
    assert Bridge.source().is_file()


def test_a_port_is_a_station_and_a_neighbor() -> None:
    state = view(port("web", 12, "10.0.1.7", mac="02:00:00:00:00:AB"))
    assert set(bridge().plan(("port", "default/web"), state)) == {
        Entry("fdb", FdbKey("02:00:00:00:00:ab", 0), FdbEntry(12)),
        Entry(
            "neighbors",
            NeighborKey(ip_address("10.0.1.7")),
            Neighbor("02:00:00:00:00:ab", 1450, 12),
        ),
    }


def test_an_instance_takes_the_address_of_its_family() -> None:
    state = view(port("web", 12, "10.0.1.7", "fd00::7"))
    planned = list(Bridge("bridge6", BridgeSettings(), 6).plan(("port", "default/web"), state))
    assert [e.key for e in planned if e.map == "neighbors"] == [NeighborKey(ip_address("fd00::7"))]


def test_a_port_without_an_address_of_the_family_is_a_station_alone() -> None:
    state = view(port("web", 12, "fd00::7"))
    assert [e.map for e in bridge().plan(("port", "default/web"), state)] == ["fdb"]
    assert list(bridge().plan(("flood",), state)) == []


def test_nothing_is_planned_for_a_port_that_is_gone() -> None:
    assert list(bridge().plan(("port", "default/web"), view())) == []


def test_the_flood_list_is_compact_and_ordered_by_ifindex() -> None:
    state = view(port("b", 30, "10.0.1.3"), port("a", 7, "10.0.1.9"), port("c", 12, "10.0.1.2"))
    assert list(bridge().plan(("flood",), state)) == [
        flood(ip_address("10.0.1.9"), 7, 0),
        flood(ip_address("10.0.1.2"), 12, 1),
        flood(ip_address("10.0.1.3"), 30, 2),
    ]


def test_floods_reach_the_ports_that_were_attached_first() -> None:
    ports = [port(f"p{i}", 1000 - i, f"10.0.{i // 200}.{i % 200 + 1}") for i in range(300)]
    planned = list(bridge().plan(("flood",), view(*ports)))
    assert [entry.key for entry in planned] == [Index(index) for index in range(FLOOD_PORTS)]
    ifindexes = [e.value.ifindex for e in planned if isinstance(e.value, FloodPort)]
    assert ifindexes == list(range(701, 701 + FLOOD_PORTS))


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (None, port("web", 12, "10.0.1.7")),
        (port("web", 12, "10.0.1.7"), port("web", 13, "10.0.1.7")),
        (port("web", 12, "10.0.1.7"), None),
    ],
    ids=["added", "replaced", "removed"],
)
def test_a_change_of_a_port_concerns_it_and_the_flood_list(
    old: Port | None, new: Port | None
) -> None:
    units = set(bridge().units(Change.between(old, new), view()))
    assert units == {("port", "default/web"), ("flood",)}


def test_other_changes_concern_nothing() -> None:
    assert list(bridge().units(Change.between(None, Node("a")), view())) == []


def test_a_changed_neighbor_ends_the_verdicts_on_its_address() -> None:
    neighbors = next(m for m in Bridge.maps if m.name == "neighbors")
    address = ip_address("10.0.1.7")
    assert neighbors.concerns is not None
    assert neighbors.concerns(NeighborKey(address), None) == address


def test_every_planned_entry_fits_its_map() -> None:
    state = view(port("web", 12, "10.0.1.7"))
    declared = {m.name: m for m in Bridge.maps}
    for unit in (("port", "default/web"), ("flood",)):
        for entry in bridge().plan(unit, state):
            found = declared[entry.map]
            assert found.planned
            assert (type(entry.key), type(entry.value)) == (found.key, found.value)
            assert entry.key.unpack(entry.key.pack()) == entry.key
            assert entry.value.unpack(entry.value.pack()) == entry.value


def test_settings_size_the_maps_and_reach_the_c() -> None:
    cube = Bridge("bridge0", BridgeSettings(pods=5, aging_seconds=9, flood_burst=7))
    sizes = {m.name: cube.size_of(m) for m in cube.maps}
    assert sizes == {
        "neighbors": 5,
        "fdb": 5,
        "flood_ports": FLOOD_PORTS,
        "learned": 4096,
        "flood_rates": 5,
    }
    assert cube.defines(view()) == {
        "VLANS": 0,
        "AGING_SECONDS": 9,
        "FLOOD_RATE": 100,
        "FLOOD_BURST": 7,
    }


@pytest.mark.parametrize(
    "wrong", [{"aging_seconds": 0}, {"flood_burst": 0}, {"pods": "many"}, {"ageing": 1}]
)
def test_wrong_settings_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(wrong, BridgeSettings)


def test_people_see_configured_and_learned_entries_of_the_fdb() -> None:
    held: dict[str, dict[Any, Any]] = {
        "fdb": {FdbKey("02:00:00:00:00:ab", 0): FdbEntry(12)},
        "learned": {FdbKey("0a:00:00:00:00:01", 5): LearnedEntry(13, 99)},
    }
    assert list(bridge().rows("fdb", held.__getitem__, State())) == [
        {"mac": "02:00:00:00:00:ab", "segment": 0, "ifindex": 12, "state": "static"},
        {"mac": "0a:00:00:00:00:01", "segment": 5, "ifindex": 13, "state": "learned"},
    ]
