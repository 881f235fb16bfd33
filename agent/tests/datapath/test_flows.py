"""The sweep and the list of flow records, on real maps (needs root)."""

from __future__ import annotations

import dataclasses
import ipaddress
import time
from collections.abc import Iterator, Mapping

import pytest

from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.datapath.flows import FlowSweeper, Row
from cubelet_hooks.flows import Count, Flow, FlowFlag, FlowState, Hop, PortClass, PortKey, Tuple

HZ = 250
NOW = 5_000_000
TCP, UDP = 6, 17
CLIENT, SERVER, OUTSIDE = "10.1.0.2", "10.1.0.5", "192.0.2.1"


class StandingClock(Clock):
    """Jiffies as a test sets them."""

    def __init__(self, now: int = NOW) -> None:
        self.at = now
        self.hz = HZ

    def now(self) -> int:
        return self.at & 0xFFFFFFFF


class Table(BpfMap):
    """A map in which the datapath may write just before a record is read by its key."""

    refreshed: Mapping[bytes, bytes] = {}

    def lookup(self, key: bytes) -> bytes | None:
        if key in self.refreshed:
            self.update(key, self.refreshed[key])
        return super().lookup(key)


@pytest.fixture
def maps() -> Iterator[dict[str, Table]]:
    key, value = Tuple.layout().size, Flow.layout().size
    layouts = {
        "cubelet_flows": MapLayout(MapType.HASH, key, value, 300_000, MapFlags.NO_PREALLOC),
        "cubelet_pending": MapLayout(MapType.LRU_HASH, key, value, 4096),
        "cubelet_flow_counts": MapLayout(MapType.HASH, 4, 4, 64, MapFlags.NO_PREALLOC),
    }
    made = {name: Table.create(name, layout) for name, layout in layouts.items()}
    yield {name: each for name, each in made.items() if isinstance(each, Table)}
    for each in made.values():
        each.close()


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


def counts(maps: Mapping[str, BpfMap]) -> dict[int, int]:
    return {
        PortKey.unpack(k).ifindex: Count.unpack(v).count
        for k, v in maps["cubelet_flow_counts"].items()
    }


def test_only_what_is_idle_goes(maps: dict[str, Table]) -> None:
    flows = maps["cubelet_flows"]
    for port, age in ((1, 0.0), (2, 59.9), (3, 60.1), (4, 5000.0)):
        key = ends(CLIENT, port, SERVER, 80)
        connect(flows, key, key, pod(7), pod(8), age)
    result = FlowSweeper(maps, StandingClock()).sweep()
    assert (result.total, result.removed) == (4, 4)
    assert {Tuple.unpack(k).sport for k, _ in flows.items()} & {1, 2, 3, 4} == {1, 2}


def test_timeouts_are_each_records_own_and_results_say_what_is_left(
    maps: dict[str, Table],
) -> None:
    key = ends(CLIENT, 1, SERVER, 80)
    connect(maps["cubelet_flows"], key, key, pod(7), pod(8), 100, timeout=8000)
    query = ends(CLIENT, 2, SERVER, 53, UDP)
    pending = {"state": FlowState.PENDING, "timeout": 30}
    connect(maps["cubelet_pending"], query, query, pod(7), pod(8), 29, **pending)
    old = ends(CLIENT, 3, SERVER, 53, UDP)
    connect(maps["cubelet_pending"], old, old, pod(7), pod(8), 31, **pending)
    result = FlowSweeper(maps, StandingClock()).sweep()
    assert (result.total, result.removed) == (4, 2)
    assert result.states == {"established": 2, "pending": 2}
    assert result.protocols == {"TCP": 2, "UDP": 2}


def test_the_tick_counter_may_wrap_and_run_ahead(maps: dict[str, Table]) -> None:
    flows, clock = maps["cubelet_flows"], StandingClock(now=10 * HZ)  # has just wrapped
    stamps = {1: 2**32 - 40 * HZ, 2: 2**32 - 60 * HZ, 3: 11 * HZ}
    for port, stamp in stamps.items():
        key = ends(CLIENT, port, SERVER, 80)
        flow = dataclasses.replace(record(key, pod(7), pod(8)), last_seen=stamp)
        flows.update(key.pack(), flow.pack())
    assert FlowSweeper(maps, clock).sweep().removed == 1
    assert {Tuple.unpack(k).sport for k, _ in flows.items()} == {1, 3}


def test_a_packet_that_comes_meanwhile_saves_its_record(maps: dict[str, Table]) -> None:
    flows = maps["cubelet_flows"]
    keys = [ends(CLIENT, port, SERVER, 80) for port in range(300)]
    for key in keys:
        flows.update(key.pack(), record(key, pod(7), pod(8), 100).pack())
    flows.refreshed = {keys[9].pack(): record(keys[9], pod(7), pod(8)).pack()}
    result = FlowSweeper(maps, StandingClock()).sweep()
    assert (result.total, result.removed) == (1, 299)
    assert [k for k, _ in flows.items()] == [keys[9].pack()]
    assert counts(maps) == {7: 1, 8: 1}


def test_connections_are_counted_once_for_each_pod_they_touch(maps: dict[str, Table]) -> None:
    flows, outside = maps["cubelet_flows"], hop(PortClass.UPLINK, 2)
    for port in range(3):
        key = ends(CLIENT, port, OUTSIDE, 80)
        connect(flows, key, ends("172.18.0.2", 12000 + port, OUTSIDE, 80), pod(7), outside)
    key = ends(CLIENT, 9, SERVER, 80)
    connect(flows, key, key, pod(7), pod(8))
    hairpin = ends(SERVER, 5, "10.96.0.1", 80)
    connect(flows, hairpin, ends("169.254.1.2", 5, SERVER, 80), pod(8), pod(8))
    wrong = {7: 99, 11: 3}
    for ifindex, count in wrong.items():
        maps["cubelet_flow_counts"].update(
            PortKey(ifindex=ifindex).pack(), Count(count=count).pack()
        )
    FlowSweeper(maps, StandingClock()).sweep()
    assert counts(maps) == {7: 4, 8: 2}


def test_a_node_without_flows_is_swept(maps: dict[str, Table]) -> None:
    result = FlowSweeper(maps, StandingClock()).sweep()
    assert (result.total, result.removed, result.states) == (0, 0, {})


def test_a_list_has_a_row_for_each_record_pairs_together(maps: dict[str, Table]) -> None:
    uplink = hop(PortClass.UPLINK, 2)
    for port in (3, 1, 2):
        key = ends(CLIENT, port, "10.96.0.1", 80)
        connect(maps["cubelet_flows"], key, ends(CLIENT, port, SERVER, 8080), pod(7), uplink, 4)
    rows = FlowSweeper(maps, StandingClock()).list()
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


def test_a_list_is_filtered_before_it_is_cut(maps: dict[str, Table]) -> None:
    for port in range(20):
        key = ends(CLIENT, port, SERVER, 53, UDP if port % 2 else TCP)
        connect(maps["cubelet_pending"], key, key, pod(7), pod(8))

    def wanted(row: Row) -> bool:
        return bool(row["protocol"] == "UDP" and row["direction"] == "forward")

    sweeper = FlowSweeper(maps, StandingClock())
    assert len(sweeper.list()) == 40
    assert len(sweeper.list(7)) == 7
    found = sweeper.list(8, wanted)
    assert len(found) == 8
    assert all(map(wanted, found))


def test_two_hundred_thousand_records_are_swept_in_about_a_second(maps: dict[str, Table]) -> None:
    key = ends(CLIENT, 1, SERVER, 80)
    fresh, old = (record(key, pod(7), pod(8), age).pack() for age in (0, 100))
    rest = key.pack()[4:]  # behind the source address
    maps["cubelet_flows"].update_batch(
        (number.to_bytes(4, "big") + rest, fresh if number % 50 else old)
        for number in range(200_000)
    )
    began = time.process_time()
    result = FlowSweeper(maps, StandingClock()).sweep()
    took = time.process_time() - began
    assert (result.total, result.removed) == (196_000, 4_000)
    assert took < 2, f"{took:.2f} s of CPU time"
