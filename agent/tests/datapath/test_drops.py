"""Drop events and counters, from a composed datapath through the ring buffer (needs root)."""

from __future__ import annotations

import asyncio
import ipaddress
import struct
import threading
from collections.abc import AsyncGenerator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import ARP, Ether

from cubelet.composer.core import DropEvent
from cubelet.composer.reasons import NumberedReason
from cubelet.datapath.drops import Monitor, describe, drop_rows, summary
from cubelet.ipc.client import AgentError, stream
from cubelet.ipc.server import AgentServer
from cubelet.testkit.datapath import Datapath
from cubelet_hooks.flows import Tuple

STAGES = ("core", "outlet0")


@pytest.fixture
def dp(datapath: Callable[..., Datapath]) -> Datapath:
    return datapath()


@pytest.fixture
def watch(dp: Datapath) -> Monitor:
    return Monitor(lambda: dp.maps, dp.reasons, STAGES, backlog=4)


def drop(dp: Datapath, *ports: int) -> None:
    """Have the datapath drop a packet for each source port."""
    for port in ports:
        ip = IP(src="10.1.0.9", dst="10.96.0.1")
        frame = Ether(dst="02:00:00:00:00:01") / ip / TCP(sport=port, dport=80, flags="S")
        assert dp.send(frame).reason == "core/spoofed"


def switched_on(dp: Datapath) -> bool:
    (value,) = struct.unpack_from("=I", dp.maps["cubelet_monitor"].lookup(bytes(4)) or b"")
    return bool(value)


def open_events(watch: Monitor) -> tuple[AsyncGenerator[Any], asyncio.Task[Any]]:
    """A client, and its wait for the first event, which is what makes it one."""
    events = cast("AsyncGenerator[Any]", watch.events())
    return events, asyncio.ensure_future(anext(events))


async def take(events: AsyncGenerator[Any], count: int) -> list[Any]:
    return [await asyncio.wait_for(anext(events), 5) for _ in range(count)]


def test_a_drop_is_described(dp: Datapath, watch: Monitor) -> None:
    async def main() -> Any:
        events, first = open_events(watch)
        await asyncio.sleep(0)
        drop(dp, 1000)
        found = await asyncio.wait_for(first, 5)
        await events.aclose()
        return found

    event = asyncio.run(main())
    age = datetime.now(UTC) - datetime.fromisoformat(event.pop("time"))
    assert 0 <= age.total_seconds() < 10
    assert event == {
        "class": "pod",
        "ifindex": dp.network.ports["default/a"].ifindex,
        "cube": "core",
        "stage": "core",
        "reason": "spoofed",
        "text": "the source address is not one that this port may send from",
        "packet": "10.1.0.9:1000 > 10.96.0.1:80 TCP [S]",
        "length": 54,
    }


def test_events_are_on_only_while_somebody_watches(dp: Datapath, watch: Monitor) -> None:
    async def main() -> list[Any]:
        drop(dp, 1)
        on = [switched_on(dp)]
        one, first = open_events(watch)
        two, second = open_events(watch)
        await asyncio.sleep(0)
        on.append(switched_on(dp))
        drop(dp, 2)
        packets = [(await asyncio.wait_for(each, 5))["packet"] for each in (first, second)]
        await one.aclose()
        on.append(switched_on(dp))
        drop(dp, 3)
        packets += [event["packet"] for event in await take(two, 1)]
        await two.aclose()
        on.append(switched_on(dp))
        return [on, [packet.split()[0] for packet in packets]]

    on, sources = asyncio.run(main())
    assert on == [False, True, True, False]
    assert sources == ["10.1.0.9:2", "10.1.0.9:2", "10.1.0.9:3"]


def test_a_slow_client_is_told_what_it_lost_and_others_lose_nothing(
    dp: Datapath, watch: Monitor
) -> None:
    async def main() -> tuple[list[Any], list[Any]]:
        slow, first = open_events(watch)
        quick, second = open_events(watch)
        await asyncio.sleep(0)
        seen = []
        for port in range(10):
            drop(dp, port)
            seen.append(await asyncio.wait_for(second if port == 0 else anext(quick), 5))
        late = [await first, *await take(slow, 5)]
        drop(dp, 10)
        late += await take(slow, 1)
        await slow.aclose()
        await quick.aclose()
        return seen, late

    seen, late = asyncio.run(main())
    assert [event["packet"].split()[0] for event in seen] == [f"10.1.0.9:{p}" for p in range(10)]
    shown = [event.get("lost") or int(event["packet"].split(":")[1].split()[0]) for event in late]
    assert shown == [0, 1, 2, 3, 4, 5, 10]
    assert late[5] == {"lost": 5}


def test_a_client_that_hangs_up_switches_events_off(
    dp: Datapath, watch: Monitor, tmp_path: Path
) -> None:
    async def main() -> list[bool]:
        server = AgentServer(tmp_path / "s", {"monitor": lambda _: watch.events()})
        await server.start()
        got = threading.Event()

        def client() -> None:
            for _ in stream(str(tmp_path / "s"), "monitor", timeout=5):
                got.set()
                return

        calling = asyncio.create_task(asyncio.to_thread(client))
        while not switched_on(dp):
            await asyncio.sleep(0.01)
        drop(dp, 1)
        await calling
        for _ in range(200):
            if not switched_on(dp):
                break
            await asyncio.sleep(0.01)
        await server.stop()
        return [got.is_set(), switched_on(dp)]

    assert asyncio.run(main()) == [True, False]


def test_events_that_a_killed_agent_left_on_are_silenced(dp: Datapath, watch: Monitor) -> None:
    dp.maps["cubelet_monitor"].update(bytes(4), struct.pack("=II", 1, 0))
    drop(dp, 1)
    watch.silence()
    assert not switched_on(dp)


def test_watching_before_anything_is_composed_is_an_error() -> None:
    async def main() -> None:
        await anext(cast("AsyncGenerator[Any]", Monitor(dict, {}, STAGES).events()))

    with pytest.raises(AgentError, match="nothing is composed"):
        asyncio.run(main())


def test_drops_are_counted_by_reason_and_class(dp: Datapath) -> None:
    assert drop_rows(dp.maps, dp.reasons) == []
    drop(dp, 1, 2, 3)
    dp.send(Ether(dst="02:00:00:00:00:01") / ARP(), enters="overlay")
    found = {(row["reason"], row["class"]): row for row in drop_rows(dp.maps, dp.reasons)}
    spoofed = found["spoofed", "pod"]
    assert (spoofed["cube"], spoofed["packets"], spoofed["bytes"]) == ("core", 3, 3 * 54)
    assert "address" in spoofed["text"]
    assert found["unsupported", "overlay"]["packets"] == 1
    unnamed = drop_rows(dp.maps, {})
    assert [row["packets"] for row in unnamed] == [row["packets"] for row in found.values()]
    assert {row["reason"].partition("-")[0] for row in unnamed} == {"reason"}


def event(**fields: Any) -> DropEvent:
    a, b = ipaddress.ip_address("10.1.0.2"), ipaddress.ip_address("10.96.0.1")
    values: dict[str, Any] = {
        "tuple": Tuple(src=a, dst=b, sport=1000, dport=80, protocol=fields.pop("protocol", 6)),
        "ifindex": 7,
        "length": 60,
        "reason": 64,
        "ethertype": 0x0800,
        "entered": 0,
        "stage": 1,
        "tcp_flags": 0x12,
        "mode": 1,
    }
    return DropEvent(**{**values, **fields})


@pytest.mark.parametrize(
    ("dropped", "text"),
    [
        (event(), "10.1.0.2:1000 > 10.96.0.1:80 TCP [S.]"),
        (event(protocol=17), "10.1.0.2:1000 > 10.96.0.1:80 UDP"),
        (event(protocol=132), "10.1.0.2:1000 > 10.96.0.1:80 SCTP"),
        (event(protocol=1), "10.1.0.2 > 10.96.0.1 ICMP"),
        (event(protocol=200), "10.1.0.2 > 10.96.0.1 200"),
        (event(ethertype=0x0806), "ARP frame of 60 bytes"),
        (event(ethertype=0x88B5), "0x88b5 frame of 60 bytes"),
        (event(protocol=0), "IPv4 frame of 60 bytes"),  # so broken that it was not parsed
    ],
)
def test_packets_are_summed_up(dropped: DropEvent, text: str) -> None:
    assert summary(dropped) == text


def test_ipv6_ends_are_told_from_their_ports() -> None:
    a, b = ipaddress.ip_address("fd00::1"), ipaddress.ip_address("fd00::2")
    ends = Tuple(src=a, dst=b, sport=1, dport=2, protocol=17)
    assert summary(event(tuple=ends, ethertype=0x86DD)) == "[fd00::1]:1 > [fd00::2]:2 UDP"


@pytest.mark.parametrize(
    ("fields", "cube", "reason"),
    [
        ({"reason": 64, "stage": 1}, "outlet0", "closed"),
        ({"reason": 6, "stage": 1}, "core", "no_path"),
        ({"reason": 999, "stage": 9}, "unknown", "reason-999"),
    ],
)
def test_a_drop_is_put_down_to_whom_its_reason_belongs_to(
    fields: dict[str, int], cube: str, reason: str
) -> None:
    reasons = {
        6: NumberedReason(6, "core", "no_path", "no cube forwarded the packet"),
        64: NumberedReason(64, "outlet", "closed", "it is closed"),
    }
    row = describe(event(**fields), datetime.now(UTC), reasons, STAGES)
    assert (row["cube"], row["reason"]) == (cube, reason)
