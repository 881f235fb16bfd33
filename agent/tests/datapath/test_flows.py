"""The sweep and the list of flow records, on real maps (needs root)."""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pytest

from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram
from cubelet.bpf.ringbuf import RingBuffer
from cubelet.bpf.syscalls import BpfError
from cubelet.composer.ends import Ended
from cubelet.datapath.flows import FlowSweeper, Row
from cubelet.datapath.shared import SharedWords
from cubelet_hooks.flows import (
    PORT_SHARES,
    SHARE_TOTAL,
    SHARES,
    Flow,
    FlowFlag,
    FlowState,
    Hop,
    PortClass,
    Tuple,
    port_slots,
    share_slot,
)

from ..helpers.tables import StandingClock, Table

NOW = 0
"""Jiffies when the test began: the program that sweeps goes by the kernel's own."""
with Clock() as _clock:
    HZ = _clock.hz
TCP, UDP = 6, 17
CLIENT, SERVER, OUTSIDE = "10.1.0.2", "10.1.0.5", "192.0.2.1"


@pytest.fixture(autouse=True)
def begun() -> None:
    global NOW  # noqa: PLW0603
    with Clock() as clock:
        NOW = clock.now()


@pytest.fixture
def maps() -> Iterator[dict[str, Table]]:
    key, value = Tuple.layout().size, Flow.layout().size
    words = {"cubelet_shares": SHARES, "cubelet_port_shares": PORT_SHARES, "cubelet_recovery": 2}
    layouts = {
        "cubelet_flows": MapLayout(MapType.HASH, key, value, 300_000, MapFlags.NO_PREALLOC),
        "cubelet_pending": MapLayout(MapType.LRU_HASH, key, value, 4096),
    } | {n: MapLayout(MapType.ARRAY, 4, 4 * w, 1, MapFlags.MMAPABLE) for n, w in words.items()}
    layouts["cubelet_ended_ring"] = MapLayout(MapType.RINGBUF, 0, 0, 1 << 16)
    layouts["cubelet_ended_lost"] = MapLayout(MapType.ARRAY, 4, 8, 1)
    made = {name: Table.create(name, layout) for name, layout in layouts.items()}
    yield {name: each for name, each in made.items() if isinstance(each, Table)}
    for each in made.values():
        each.close()


def refused(*_: object) -> BpfProgram:
    raise BpfError(22, "load", "program sweep", "an old kernel")


@pytest.fixture
def make_sweeper(maps: dict[str, Table]) -> Iterator[Callable[..., FlowSweeper]]:
    made: list[FlowSweeper] = []

    def make(live: int = 1000, ends: int = 0) -> FlowSweeper:
        made.append(FlowSweeper(maps, StandingClock(NOW, HZ), live, ends=ends))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=["by the kernel", "one by one"])
def sweeper(
    make_sweeper: Callable[..., FlowSweeper],
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> FlowSweeper:
    if request.param == "one by one":
        monkeypatch.setattr("cubelet.datapath.sweeping.load_sweep", refused)
    return make_sweeper()


def pod(ifindex: int) -> Hop:
    return hop(PortClass.POD, ifindex)


def hop(port_class: PortClass, ifindex: int) -> Hop:
    return Hop(
        ifindex=ifindex,
        remote=0,
        dst_mac="02:00:00:00:00:01",
        src_mac="02:00:00:00:00:02",
        mtu=1500,
        port_class=port_class,
    )


def ends(src: str, sport: int, dst: str, dport: int, protocol: int = TCP) -> Tuple:
    a, b = ipaddress.ip_address(src), ipaddress.ip_address(dst)
    return Tuple(src=a, dst=b, sport=sport, dport=dport, protocol=protocol)


def turned(to: Tuple) -> Tuple:
    return Tuple(src=to.dst, dst=to.src, sport=to.dport, dport=to.sport, protocol=to.protocol)


def record(to: Tuple, enters: Hop, leaves: Hop, age: float = 0, **fields: int) -> Flow:
    """A record last seen `age` seconds before NOW; fields not named are zero."""
    values = {f.name: 0 for f in dataclasses.fields(Flow)}
    values |= {"timeout": 60, "state": FlowState.ESTABLISHED, **fields}
    values["last_seen"] = int(NOW - age * HZ) & 0xFFFFFFFF
    return Flow(**{**values, "enters": enters, "leaves": leaves, "to": to, "area": bytes(64)})  # type: ignore[arg-type]


def connect(
    table: BpfMap, key: Tuple, to: Tuple, enters: Hop, leaves: Hop, age: float = 0, **fields: int
) -> None:
    """Both records of a connection."""
    forward = record(to, enters, leaves, age, **fields)
    reply = record(turned(key), leaves, enters, age, **{"flags": FlowFlag.REPLY, **fields})
    table.update(key.pack(), forward.pack())
    table.update(turned(to).pack(), reply.pack())


def words(maps: Mapping[str, BpfMap], name: str) -> Mapping[int, int]:
    """The words of a shared value that are not zero."""
    raw = memoryview(maps[f"cubelet_{name}"].lookup(bytes(4)) or b"").cast("I")
    return {at: word for at, word in enumerate(raw) if word}


def share(ifindex: int) -> int:
    return share_slot(pod(ifindex))


def test_only_what_is_idle_goes(maps: dict[str, Table], sweeper: FlowSweeper) -> None:
    flows = maps["cubelet_flows"]
    for port, age in ((1, 0.0), (2, 50.0), (3, 60.1), (4, 5000.0)):
        key = ends(CLIENT, port, SERVER, 80)
        connect(flows, key, key, pod(7), pod(8), age)
    result = sweeper.sweep()
    assert (result.total, result.removed) == (4, 4)
    assert {Tuple.unpack(k).sport for k, _ in flows.items()} & {1, 2, 3, 4} == {1, 2}


def test_timeouts_are_each_records_own_and_results_say_what_is_left(
    maps: dict[str, Table], sweeper: FlowSweeper
) -> None:
    key = ends(CLIENT, 1, SERVER, 80)
    connect(maps["cubelet_flows"], key, key, pod(7), pod(8), 100, timeout=8000)
    query = ends(CLIENT, 2, SERVER, 53, UDP)
    pending = {"state": FlowState.PENDING, "timeout": 30}
    connect(maps["cubelet_pending"], query, query, pod(7), pod(8), 9, **pending)
    old = ends(CLIENT, 3, SERVER, 53, UDP)
    connect(maps["cubelet_pending"], old, old, pod(7), pod(8), 31, **pending)
    result = sweeper.sweep()
    assert (result.total, result.removed) == (4, 2)
    assert result.states == {"established": 2, "pending": 2}
    assert result.protocols == {"TCP": 2, "UDP": 2}


def test_a_stamp_may_be_ahead(maps: dict[str, Table], sweeper: FlowSweeper) -> None:
    """A packet came after the sweep had begun."""
    key = ends(CLIENT, 1, SERVER, 80)
    maps["cubelet_flows"].update(key.pack(), record(key, pod(7), pod(8), -5).pack())
    assert sweeper.sweep().removed == 0


def test_a_packet_that_comes_meanwhile_saves_its_record(
    maps: dict[str, Table],
    make_sweeper: Callable[..., FlowSweeper],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("cubelet.datapath.sweeping.load_sweep", refused)
    flows = maps["cubelet_flows"]
    keys = [ends(CLIENT, port, SERVER, 80) for port in range(300)]
    for key in keys:
        flows.update(key.pack(), record(key, pod(7), pod(8), 100).pack())
    flows.refreshed = {keys[9].pack(): record(keys[9], pod(7), pod(8)).pack()}
    result = make_sweeper().sweep()
    assert (result.total, result.removed) == (1, 299)
    assert [k for k, _ in flows.items()] == [keys[9].pack()]


def test_what_owners_hold_is_put_right(maps: dict[str, Table], sweeper: FlowSweeper) -> None:
    """Of whoever opened a connection; closing and pending ones count in nobody's share."""
    flows, outside = maps["cubelet_flows"], hop(PortClass.UPLINK, 2)
    remote = dataclasses.replace(hop(PortClass.OVERLAY, 4), remote=0xAC120003)
    masqueraded = [ends("172.18.0.2", 12000 + port, OUTSIDE, 80) for port in range(3)]
    for port, to in enumerate(masqueraded):
        key = ends(CLIENT, port, OUTSIDE, 80)
        connect(flows, key, to, pod(7), outside)
        for tuple_, flag in ((key, 0), (turned(to), FlowFlag.REPLY)):
            flow = Flow.unpack(flows.lookup(tuple_.pack()) or b"")
            flow = dataclasses.replace(flow, flags=flag | FlowFlag.RANGE)
            flows.update(tuple_.pack(), flow.pack())
    for number, enters in enumerate((pod(7), remote, outside)):
        key = ends("192.0.2.9", number, SERVER, 80)
        connect(flows, key, key, enters, pod(8))
    key = ends(CLIENT, 99, SERVER, 80)
    connect(flows, key, key, pod(9), pod(8), state=FlowState.CLOSING)
    shared = SharedWords(maps["cubelet_shares"])
    shared.words[share(7)], shared.words[share(11)] = 99, 3
    shared.close()
    result = sweeper.sweep()
    assert words(maps, "shares") == {
        share(7): 4,
        share_slot(remote): 1,
        share_slot(outside): 1,
        SHARE_TOTAL: 6,
    }
    assert words(maps, "port_shares") == dict.fromkeys(port_slots(masqueraded[0], share(7)), 3)
    assert (sweeper.held(7), sweeper.held(9)) == (4, 0)
    assert result.used == 6 / 1000


def test_a_table_that_fills_up_is_told_of_and_idle_udp_gives_way(
    maps: dict[str, Table], make_sweeper: Callable[..., FlowSweeper]
) -> None:
    for port in range(8):
        key = ends(CLIENT, port, SERVER, 53, UDP)
        connect(maps["cubelet_flows"], key, key, pod(7), pod(8), 40 if port < 4 else 0)
    sweeper = make_sweeper(10)
    assert "80% of the flow table" in sweeper.sweep().warning
    after = sweeper.sweep()
    assert (after.removed, after.total, after.warning) == (8, 8, "")


def test_a_node_without_flows_is_swept(sweeper: FlowSweeper) -> None:
    result = sweeper.sweep()
    assert (result.total, result.removed, result.states) == (0, 0, {})


def test_a_list_has_a_row_for_each_record_pairs_together(
    maps: dict[str, Table], make_sweeper: Callable[..., FlowSweeper]
) -> None:
    uplink = hop(PortClass.UPLINK, 2)
    for port in (3, 1, 2):
        key = ends(CLIENT, port, "10.96.0.1", 80)
        connect(maps["cubelet_flows"], key, ends(CLIENT, port, SERVER, 8080), pod(7), uplink, 4)
    rows = make_sweeper().list()
    assert [(row["direction"], row["sport"], row["dport"]) for row in rows] == [
        *(("forward", 1, 80), ("reply", 8080, 1)),
        *(("forward", 2, 80), ("reply", 8080, 2)),
        *(("forward", 3, 80), ("reply", 8080, 3)),
    ]
    assert rows[0] == {
        "protocol": "TCP",
        "src": ipaddress.ip_address(CLIENT),
        "sport": 1,
        "dst": ipaddress.ip_address("10.96.0.1"),
        "dport": 80,
        "state": "established",
        "direction": "forward",
        "to_src": ipaddress.ip_address(CLIENT),
        "to_sport": 1,
        "to_dst": ipaddress.ip_address(SERVER),
        "to_dport": 8080,
        "enters": "pod",
        "enters_ifindex": 7,
        "leaves": "uplink",
        "leaves_ifindex": 2,
        "packets": 0,
        "bytes": 0,
        "idle": 4.0,
        "timeout": 60,
    }


def test_a_list_is_filtered_before_it_is_cut(
    maps: dict[str, Table], make_sweeper: Callable[..., FlowSweeper]
) -> None:
    for port in range(20):
        key = ends(CLIENT, port, SERVER, 53, UDP if port % 2 else TCP)
        connect(maps["cubelet_pending"], key, key, pod(7), pod(8))

    def wanted(row: Row) -> bool:
        return bool(row["protocol"] == "UDP" and row["direction"] == "forward")

    sweeper = make_sweeper()
    assert len(sweeper.list()) == 40
    assert len(sweeper.list(7)) == 7
    found = sweeper.list(8, wanted)
    assert len(found) == 8
    assert all(map(wanted, found))


def test_two_hundred_thousand_records_are_swept_in_a_moment(
    maps: dict[str, Table], make_sweeper: Callable[..., FlowSweeper]
) -> None:
    key = ends(CLIENT, 1, SERVER, 80)
    fresh, old = (record(key, pod(7), pod(8), age).pack() for age in (0, 100))
    rest = key.pack()[4:]  # behind the source address
    maps["cubelet_flows"].update_batch(
        (number.to_bytes(4, "big") + rest, fresh if number % 50 else old)
        for number in range(200_000)
    )
    sweeper = make_sweeper()
    began = time.process_time()
    result = sweeper.sweep()
    took = time.process_time() - began
    assert (result.total, result.removed) == (196_000, 4_000)
    assert took < 0.5, f"{took:.2f} s of CPU time"


def test_recovery_ends_for_good(
    maps: dict[str, Table], make_sweeper: Callable[..., FlowSweeper]
) -> None:
    sweeper = make_sweeper()
    sweeper.recover(60)
    sweeper.sweep()
    assert words(maps, "recovery")[0] == (NOW + 60 * HZ) & 0xFFFFFFFF
    sweeper.recover(-1)
    sweeper.sweep()
    assert words(maps, "recovery") == {}


def told(maps: Mapping[str, BpfMap]) -> list[Ended]:
    with RingBuffer(maps["cubelet_ended_ring"]) as ring:
        return [Ended.unpack(raw) for raw in ring.records()]


def lost(maps: Mapping[str, BpfMap]) -> int:
    return int.from_bytes(maps["cubelet_ended_lost"].lookup(bytes(4)) or b"", "little")


def test_idle_flows_that_were_answered_are_told_as_they_were(
    maps: dict[str, Table], make_sweeper: Callable[..., FlowSweeper]
) -> None:
    key, dead = ends(CLIENT, 1, SERVER, 80), ends(CLIENT, 2, SERVER, 80)
    sweeper = make_sweeper(ends=10_000)
    flags = FlowFlag.REPLIED
    alive = ends(CLIENT, 3, SERVER, 80)
    connect(maps["cubelet_flows"], key, key, pod(7), pod(8), 61, flags=flags, packets=3, bytes=300)
    connect(maps["cubelet_flows"], alive, alive, pod(7), pod(8), 5, flags=flags)
    connect(maps["cubelet_pending"], dead, dead, pod(7), pod(8), 61)
    before = {Tuple.unpack(k): Flow.unpack(v) for k, v in maps["cubelet_flows"].items()}
    time.sleep(0.01)
    sweeper.sweep()
    found = {each.key: each for each in told(maps)}
    assert found.keys() == {key, turned(key)}, "nobody has answered the other one"
    assert all(each.flow == before[each.key] and not each.paired for each in found.values())
    assert lost(maps) == 0
    sweeper.sweep()
    assert told(maps) == []


def test_a_sweep_tells_of_no_more_than_it_may(
    maps: dict[str, Table], make_sweeper: Callable[..., FlowSweeper], monkeypatch: Any
) -> None:
    clock = [100.0]
    monkeypatch.setattr("cubelet.datapath.flows.time.monotonic", lambda: clock[0])
    sweeper = make_sweeper(ends=5)
    for port in range(40):
        key = ends(CLIENT, 1 + port, SERVER, 80)
        connect(maps["cubelet_flows"], key, key, pod(7), pod(8), 61, flags=FlowFlag.REPLIED)
    clock[0] += 2
    assert sweeper.sweep().removed == 80
    assert len(told(maps)) == 20
    assert lost(maps) == 60


def test_what_finds_no_room_in_the_ring_is_removed_and_counted(
    maps: dict[str, Table], make_sweeper: Callable[..., FlowSweeper], monkeypatch: Any
) -> None:
    clock = [100.0]
    monkeypatch.setattr("cubelet.datapath.flows.time.monotonic", lambda: clock[0])
    sweeper = make_sweeper(ends=10_000)
    for port in range(400):
        key = ends(CLIENT, 1 + port, SERVER, 80)
        connect(maps["cubelet_flows"], key, key, pod(7), pod(8), 61, flags=FlowFlag.REPLIED)
    clock[0] += 2
    assert sweeper.sweep().removed == 800
    found = len(told(maps))
    assert 0 < found < 400
    assert found + lost(maps) == 800
