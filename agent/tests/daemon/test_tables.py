"""What `get` lists: maps as rows, and the core's own tables (maps need root)."""

from __future__ import annotations

import enum
import ipaddress
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Annotated, Any, ClassVar

import pytest

from cubelet.bpf.layout import join_cpus, possible_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.composer.composition import Composition
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.layout import map_specs
from cubelet.composer.reasons import allot, number_reasons
from cubelet.cubes.context import Counts
from cubelet.cubes.discovery import discover
from cubelet.daemon.tables import Tables
from cubelet.datapath.flows import FlowSweeper
from cubelet.datapath.maps import close_maps, open_maps
from cubelet.datapath.records import Records, record_row
from cubelet.ipc.client import AgentError
from cubelet.state.cluster import State
from cubelet.testkit import local_node
from cubelet_hooks.cube import Condition, Cube, Read, Row, Settings
from cubelet_hooks.flows import Counter, Hop, Index, PortClass
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, Port
from cubelet_hooks.records import U8, U16, U32, Addr, Be16, Be32, Record
from cubelet_hooks.view import View


class Colour(enum.IntEnum):
    RED = 1


class Prefix(Record):
    length: U32
    address: Addr


class SegmentPrefix(Record):
    length: U32
    segment: U32
    address: Addr


class Route(Record):
    remote: Be32
    colour: Annotated[int, "u8", Colour]


class Door(Record):
    port: Be16
    protocol: U8


class Room(Record):
    number: U16


class Place(Record):
    ifindex: U32
    room: U16


class Way(Record):
    hop: Hop


class Gate(Cube):
    kind = "gate"
    inward = frozenset({"pod", "uplink"})
    per_packet = frozenset({"pod", "uplink"})
    early = True
    maps: ClassVar[tuple[Map, ...]] = (
        Map("ways", MapType.LPM_TRIE, Prefix, Route, 16),
        Map("doors", MapType.HASH, Door, Room, 16),
    )
    shows: ClassVar = {"routes": "ways", "doors": "doors"}


class Middle(Cube):
    kind = "middle"
    core = True
    inward = frozenset({"pod", "host", "overlay", "uplink"})
    maps: ClassVar[tuple[Map, ...]] = (Map("rooms", MapType.ARRAY, Index, Room, 4),)
    shows: ClassVar = {"rooms": "rooms"}


class Porter(Gate):
    """Makes rows of two maps."""

    shows: ClassVar = {"doors": "doors"}

    def rows(self, noun: str, read: Read, view: View) -> Iterable[Row]:
        ways = read("ways")
        for door, room in read("doors").items():
            way = ways.get(Prefix(length=32, address=ipaddress.ip_address("10.0.0.1")))
            yield {
                "protocol": door.protocol,
                "room": room.number,
                "colour": Colour(way.colour) if way else None,
                "ports": len(view.ports),
            }


def address(text: str) -> Any:
    return ipaddress.ip_address(text)


def network(text: str) -> Any:
    return ipaddress.ip_network(text)


LOCAL = local_node(
    gateway_ifindex=11,
    datapath_ifindex=1,  # there always is one: the loopback device
    overlay_ifindex=1 << 30,  # there never is
    uplink_ifindex=14,
)
PORT = Port(
    namespace="default",
    name="a",
    container_id="c",
    ifname="eth0",
    netns="",
    host_ifname="pod0",
    ifindex=7,
    mac="02:00:00:00:01:00",
    host_mac="02:00:00:00:02:00",
    addresses=(address("10.1.0.2"),),
    mtu=1450,
)


class Node:
    """A composition with maps that nothing runs on."""

    def __init__(self) -> None:
        gates = Gate("gate0", Settings()), Gate("gate1", Settings())
        middle = Middle("middle0", Settings())
        stacks = {"pod": gates, "host": (), "overlay": (), "uplink": (gates[0],)}
        self.composition = Composition("fused", (*gates, middle), (middle,), stacks)
        core = Core("cubelet", CoreSettings(flows=64, pending_flows=1024))
        self.maps = open_maps(map_specs(core, self.composition.cubes), None)
        self.state = State()

    def tables(self, sweeper: FlowSweeper | None = None) -> Tables:
        reasons = number_reasons([Gate, Middle], allot(["gate", "middle"]))
        return Tables(self.composition, self.state, reasons, lambda: self.maps, lambda: sweeper)


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    yield made
    close_maps(made.maps)


def listed(declared: Map, made: BpfMap) -> list[Any]:
    """What is shown of one map."""
    kind = type("Shower", (Gate,), {"maps": (declared,), "shows": {"things": declared.name}})
    gate = kind("gate0", Settings())
    composition = Composition("fused", (gate,), (), {"pod": (gate,)})
    maps = {f"gate0_{declared.name}": made}
    return Tables(composition, State(), {}, lambda: maps, lambda: None).rows("things")


@pytest.fixture
def table() -> Iterator[Callable[[Map], BpfMap]]:
    made: dict[str, BpfMap] = {}

    def make(declared: Map) -> BpfMap:
        gate = type("Made", (Gate,), {"maps": (declared,)})("gate0", Settings())
        specs = [
            s for s in map_specs(Core("cubelet", CoreSettings()), [gate]) if s.owner == "gate0"
        ]
        made.update(open_maps(specs, None))
        return made[f"gate0_{declared.name}"]

    yield make
    close_maps(made)


def test_a_row_has_the_keys_fields_then_the_values(table: Callable[[Map], BpfMap]) -> None:
    declared = Map("doors", MapType.HASH, Door, Room, 16)
    made = table(declared)
    for port in (443, 80):
        made.update(Door(port=port, protocol=6).pack(), Room(number=port + 1).pack())
    assert listed(declared, made) == [
        {"port": 80, "protocol": "TCP", "number": 81},
        {"port": 443, "protocol": "TCP", "number": 444},
    ]


def test_a_cube_that_cannot_list_is_named(
    table: Callable[[Map], BpfMap], monkeypatch: pytest.MonkeyPatch
) -> None:
    def rows(*_: object) -> Iterator[Row]:
        yield {"first": 1}
        raise ValueError("no second")

    monkeypatch.setattr(Gate, "rows", rows)
    declared = Map("doors", MapType.HASH, Door, Room, 16)
    with pytest.raises(AgentError, match="the cube gate0 failed to list things") as failed:
        listed(declared, table(declared))
    assert failed.value.details == "ValueError('no second')"


def test_a_tries_key_is_a_prefix(table: Callable[[Map], BpfMap]) -> None:
    declared = Map("ways", MapType.LPM_TRIE, Prefix, Route, 16)
    made = table(declared)
    for text, remote in (("10.0.0.0/8", "172.18.0.3"), ("0.0.0.0/0", None)):
        wanted = ipaddress.ip_network(text)
        key = Prefix(length=wanted.prefixlen, address=wanted.network_address)
        value = Route(remote=int(address(remote)) if remote else 0, colour=1 if remote else 9)
        made.update(key.pack(), value.pack())
    assert listed(declared, made) == [
        {"prefix": network("0.0.0.0/0"), "remote": None, "colour": 9},
        {"prefix": network("10.0.0.0/8"), "remote": address("172.18.0.3"), "colour": "red"},
    ]


def test_a_prefix_counts_bits_behind_what_else_the_key_holds(
    table: Callable[[Map], BpfMap],
) -> None:
    declared = Map("ways", MapType.LPM_TRIE, SegmentPrefix, Room, 16)
    made = table(declared)
    key = SegmentPrefix(length=32 + 24, segment=3, address=address("10.1.2.0"))
    made.update(key.pack(), Room(number=1).pack())
    assert listed(declared, made) == [{"prefix": network("10.1.2.0/24"), "segment": 3, "number": 1}]


def test_arrays_show_what_is_used_and_cpus_are_summed(table: Callable[[Map], BpfMap]) -> None:
    rooms = Map("rooms", MapType.ARRAY, Index, Room, 4)
    made = table(rooms)
    made.update(Index(index=2).pack(), Room(number=7).pack())
    assert listed(rooms, made) == [{"index": 2, "number": 7}]
    counters = Map("counters", MapType.PERCPU_ARRAY, Index, Counter, 4)
    made = table(counters)
    values = tuple(Counter(packets=1, bytes=cpu).pack() for cpu in range(possible_cpus()))
    made.update(Index(index=1).pack(), join_cpus(values, made.layout))
    total = sum(range(possible_cpus()))
    assert listed(counters, made) == [{"index": 1, "packets": possible_cpus(), "bytes": total}]


def test_records_within_records_are_laid_flat() -> None:
    hop = Hop(
        ifindex=7,
        remote=0,
        dst_mac="02:00:00:00:00:01",
        src_mac="02:00:00:00:00:02",
        mtu=1500,
        port_class=PortClass.UPLINK,
    )
    assert record_row(Way(hop=hop)) == {
        "hop_ifindex": 7,
        "hop_remote": None,
        "hop_dst_mac": "02:00:00:00:00:01",
        "hop_src_mac": "02:00:00:00:00:02",
        "hop_mtu": 1500,
        "hop_port_class": "uplink",
    }


def test_cubes_are_shown_where_they_stand(node: Node) -> None:
    rows = {row["name"]: row for row in node.tables().rows("cubes")}
    assert [row["place"] for row in rows.values()] == ["stack", "stack", "core"]
    assert rows["gate0"]["inward"] == ["pod", "uplink"]
    assert rows["gate1"]["inward"] == ["pod"]
    assert rows["gate1"]["shows"] == ["routes", "doors"]
    assert [row["per_packet"] for row in rows.values()] == [["pod", "uplink"], ["pod"], []]
    assert [row["early"] for row in rows.values()] == [True, False, False]
    assert rows["middle0"]["inward"] == ["pod", "host", "overlay", "uplink"]
    assert {row["events"] for row in rows.values()} == {None}


def test_of_cubes_with_events_is_shown_what_was_delivered_and_lost(node: Node) -> None:
    calls = Counts(events=5, packets=2, ticks=9, gone=8, ended=6, failures=1)
    told = replace(calls, lost_events=3, lost_packets=4, lost_ended=2)
    tables = Tables(node.composition, node.state, {}, dict, lambda: None, lambda: {"gate1": told})
    rows = {row["name"]: row for row in tables.rows("cubes")}
    names = ("events", "packets", "ticks", "gone", "ended", "lost", "failures")
    shown = {name: rows["gate1"][name] for name in names}
    assert list(shown.values()) == [5, 2, 9, 8, 6, 9, 1]
    assert rows["gate0"]["lost"] is None


def test_ports_are_the_nodes_devices_and_the_pods(node: Node) -> None:
    for thing in (LOCAL, PORT):
        node.state.apply(Change.between(None, thing))
    sweeper: Any = SimpleNamespace(held={7: 3}.__getitem__)
    tables = Tables(node.composition, node.state, {}, dict, lambda: sweeper)
    rows = tables.rows("ports")
    assert [row["class"] for row in rows] == ["host", "overlay", "uplink", "pod"]
    assert [row["device"] for row in rows[:2]] == ["lo", ""]
    assert rows[3] == {
        "class": "pod",
        "name": "default/a",
        "device": "pod0",
        "ifindex": 7,
        "addresses": [address("10.1.0.2")],
        "mac": "02:00:00:00:01:00",
        "mtu": 1450,
        "flows": 3,
    }


def test_an_interfaces_number_is_followed_by_its_name(
    node: Node, table: Callable[[Map], BpfMap]
) -> None:
    declared = Map("places", MapType.HASH, Door, Place, 4)
    made = table(declared)
    made.update(Door(port=1, protocol=6).pack(), Place(ifindex=7, room=2).pack())
    kind = type("Shower", (Gate,), {"maps": (declared,), "shows": {"places": "places"}})
    composition = Composition("fused", (kind("gate0", Settings()),), (), {})
    tables = Tables(composition, node.state, {}, lambda: {"gate0_places": made}, lambda: None)
    row = {"port": 1, "protocol": "TCP", "ifindex": 7, "interface": None, "room": 2}
    assert tables.rows("places") == [row]
    node.state.apply(Change.between(None, LOCAL))
    node.state.apply(Change.between(None, PORT))
    found = tables.rows("places", where={"interface": "default/a"})
    assert found == [{**row, "interface": "default/a"}]
    assert list(found[0]) == list(row)
    made.update(Door(port=1, protocol=6).pack(), Place(ifindex=14, room=2).pack())
    assert tables.rows("places")[0]["interface"] == "uplink"


def test_a_cube_may_make_rows_of_several_maps(table: Callable[[Map], BpfMap]) -> None:
    ways, doors = (table(declared) for declared in Gate.maps)
    porter = Porter("gate0", Settings())
    composition = Composition("fused", (porter,), (), {})
    maps = {"gate0_ways": ways, "gate0_doors": doors}
    tables = Tables(composition, State(), {}, lambda: maps, lambda: None)
    doors.update(Door(port=1, protocol=6).pack(), Room(number=2).pack())
    row = {"protocol": "TCP", "room": 2, "colour": None, "ports": 0}
    cover = Prefix(length=8, address=address("10.0.0.0"))
    ways.update(cover.pack(), Route(remote=0, colour=1).pack())
    assert tables.rows("doors") == [row]  # what covers a key is not its record
    exact = Prefix(length=32, address=address("10.0.0.1"))
    ways.update(exact.pack(), Route(remote=0, colour=1).pack())
    assert tables.rows("doors", where={"protocol": "TCP"}) == [{**row, "colour": "red"}]


def test_records_are_looked_up_where_they_are_not_listed(table: Callable[[Map], BpfMap]) -> None:
    declared = Map("doors", MapType.HASH, Door, Room, 16)
    made = table(declared)
    first, second = Door(port=1, protocol=6), Door(port=2, protocol=6)
    made.update(first.pack(), Room(number=1).pack())
    records = Records(declared, made, 4)
    assert records[first] == Room(number=1)
    assert second not in records
    made.update(second.pack(), Room(number=2).pack())
    assert records[second] == Room(number=2)
    assert dict(records) == {first: Room(number=1), second: Room(number=2)}
    made.delete(first.pack())
    assert len(records) == 2  # as it was when it was listed
    assert records[first] == Room(number=1)
    rooms = Map("rooms", MapType.ARRAY, Index, Room, 4)
    assert Index(index=1) not in Records(rooms, table(rooms), 4)


def test_a_noun_of_several_instances_says_whose_a_row_is(node: Node) -> None:
    for name in ("gate0_doors", "gate1_doors"):
        key = Door(port=80, protocol=17)
        node.maps[name].update(key.pack(), Room(number=int(name[4])).pack())
    assert node.tables().rows("doors") == [
        {"cube": "gate0", "port": 80, "protocol": "UDP", "number": 0},
        {"cube": "gate1", "port": 80, "protocol": "UDP", "number": 1},
    ]


def test_rows_are_chosen_by_their_texts_and_then_cut(node: Node) -> None:
    for number in range(1, 4):
        node.maps["middle0_rooms"].update(Index(index=number).pack(), Room(number=9).pack())
    tables = node.tables()
    assert [row["index"] for row in tables.rows("rooms", limit=2)] == [1, 2]
    assert tables.rows("rooms", limit=2, where={"index": "3"}) == [{"index": 3, "number": 9}]
    assert tables.rows("drops", where={"cube": "core"}) == []
    with pytest.raises(AgentError) as unknown:
        tables.rows("rooms", where={"size": "3"})
    assert (unknown.value.message, unknown.value.details) == (
        "there is no column size",
        "known: index, number",
    )


def test_what_cubes_say_of_their_objects_is_listed(node: Node) -> None:
    said = Condition("Fence", "x/f", "Closed", True, "Planned", "to 3 pods", 7)
    told = frozenset({said, replace(said, key="x/e", status=False)})
    tables = Tables(node.composition, node.state, {}, dict, lambda: None, conditions=lambda: told)
    rows = tables.rows("conditions")
    assert [(row["name"], row["status"]) for row in rows] == [("x/e", False), ("x/f", True)]
    assert rows[1] == {
        "kind": "Fence",
        "name": "x/f",
        "type": "Closed",
        "status": True,
        "reason": "Planned",
        "message": "to 3 pods",
        "generation": 7,
    }


def test_an_unknown_noun_names_those_there_are(node: Node) -> None:
    with pytest.raises(AgentError) as unknown:
        node.tables().rows("cats")
    assert "cats" in unknown.value.message
    assert (
        unknown.value.details
        == "known: cubes, ports, flows, drops, conditions, doors, rooms, routes"
    )


@pytest.mark.parametrize("noun", ["flows", "drops", "rooms"])
def test_before_anything_is_composed_the_error_says_so(node: Node, noun: str) -> None:
    tables = Tables(node.composition, node.state, {}, dict, lambda: None)
    with pytest.raises(AgentError, match="nothing is composed"):
        tables.rows(noun)
    assert len(tables.rows("cubes")) == 3
    assert tables.rows("ports") == []


def test_every_installed_cube_shows_maps_that_it_has() -> None:
    cubes = discover().cubes
    assert cubes["router"].shows
    for cube in cubes.values():
        assert set(cube.shows.values()) <= {declared.name for declared in cube.maps}
