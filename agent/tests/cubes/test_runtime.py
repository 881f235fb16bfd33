"""What cubes are told in the agent, from real programs by their rings (needs root)."""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from typing import Any

import msgspec
import pytest
import structlog
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether

from cubelet.cubes.context import Counts
from cubelet.cubes.runtime import Runtime
from cubelet.testkit.datapath import Datapath
from cubelet_hooks.context import Context
from cubelet_hooks.flows import Index
from cubelet_hooks.objects import Pod

from .beacon import BAD_PORT, Beacon, Opened, Source, Tally, Until

A = IPv4Address("10.1.0.2")
Make = Callable[..., Datapath]


@pytest.fixture(autouse=True)
def _nothing_told() -> None:
    Beacon.told.clear()
    Beacon.packets.clear()
    Beacon.ticks.clear()
    Beacon.left.clear()
    Beacon.over.clear()


@pytest.fixture
def dp(datapath: Make) -> Datapath:
    return datapath(stacks={"pod": [Beacon]})


def frame(sport: int = 1000, dport: int = 53) -> Any:
    packet = Ether(src="02:00:00:00:01:00", dst="02:00:00:00:00:01")
    return packet / IP(src=str(A), dst="10.1.0.5") / UDP(sport=sport, dport=dport)


def opened(*ports: int, instance: str = "beacon0") -> list[tuple[str, Opened]]:
    return [(instance, Opened(A, port)) for port in ports]


class Agent:
    """The part of the agent that a runtime needs: one thread for maps."""

    def __init__(self, dp: Datapath) -> None:
        self.worker = ThreadPoolExecutor(1)
        self.runtime = Runtime(dp.state, self.on_datapath)

    async def on_datapath(self, work: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self.worker, work, *arguments)

    async def serve(self, dp: Datapath) -> None:
        await self.on_datapath(self.runtime.take_over, dp.composition, dp.maps)
        await self.runtime.listen()


def running(dp: Datapath, body: Callable[[Agent], Awaitable[None]]) -> None:
    """Run the body beside a runtime that serves the datapath's cubes."""

    async def main() -> None:
        agent = Agent(dp)
        try:
            await agent.serve(dp)
            await body(agent)
        finally:
            await agent.runtime.close()
            agent.worker.shutdown()

    asyncio.run(main())


async def until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end, "it never came"
        await asyncio.sleep(0.005)


def test_events_are_delivered_in_order_while_they_come(dp: Datapath) -> None:
    async def body(agent: Agent) -> None:
        for port in (1, 2, 3):
            dp.send(frame(dport=port))
        await until(lambda: len(Beacon.told) == 3)
        dp.send(frame(dport=4))
        await until(lambda: len(Beacon.told) == 4)

    running(dp, body)
    assert Beacon.told == opened(1, 2, 3, 4)


def test_what_waited_while_no_agent_ran_is_delivered(dp: Datapath) -> None:
    dp.send(frame(dport=1))

    async def body(agent: Agent) -> None:
        await until(lambda: bool(Beacon.told))

    running(dp, body)
    assert Beacon.told == opened(1)


def test_a_cube_that_raises_is_counted_told_of_once_and_stops_nobody(datapath: Make) -> None:
    dp = datapath(stacks={"pod": [Beacon, "beacon1"]})
    ports = [1, BAD_PORT, BAD_PORT + 1, BAD_PORT, 5, BAD_PORT]
    counts: dict[str, Counts] = {}

    async def body(agent: Agent) -> None:
        for sport, port in enumerate(ports, 1):
            dp.send(frame(sport=sport, dport=port))
        await until(lambda: len(Beacon.told) == 12)
        counts.update(await agent.on_datapath(agent.runtime.counts))

    with structlog.testing.capture_logs() as logs:
        running(dp, body)
    failed = [line for line in logs if line["event"] == "a cube failed"]
    told_of = sorted((line["instance"], line["where"]) for line in failed)
    assert told_of == [("beacon0", "on_event"), ("beacon1", "on_event")]
    assert counts["beacon0"] == Counts(events=6, failures=3)
    for name in ("beacon0", "beacon1"):
        mine = [event.port for instance, event in Beacon.told if instance == name]
        assert mine == ports


def test_a_cube_is_called_again_and_again_with_its_tables(datapath: Make) -> None:
    often = {"beacon": {"every": 0.1}, "beacon1": {"every": 0.0}}
    dp = datapath(stacks={"pod": [Beacon, "beacon1"]}, settings=often)
    dp.put("beacon", "blocked", Source(A), Until(1))
    counts: dict[str, Counts] = {}

    async def body(agent: Agent) -> None:
        await until(lambda: len(Beacon.ticks) > 2)
        counts.update(await agent.on_datapath(agent.runtime.counts))

    running(dp, body)
    ticks = len(Beacon.ticks)
    assert Beacon.ticks == [("beacon0", 1)] * ticks
    assert counts["beacon0"].ticks in (ticks, ticks - 1)
    assert counts["beacon1"] == Counts()


def test_what_leaves_is_called_no_more(datapath: Make) -> None:
    often = {"beacon": {"every": 0.1}}
    old = datapath(stacks={"pod": [Beacon]}, settings=often)
    new = datapath(stacks={"pod": []})

    async def body(agent: Agent) -> None:
        await until(lambda: bool(Beacon.ticks))
        await agent.serve(new)
        Beacon.ticks.clear()
        await asyncio.sleep(0.3)

    running(old, body)
    assert Beacon.ticks == []


def test_a_cube_is_told_of_what_has_gone(dp: Datapath) -> None:
    first, second = (dp.network.ports[f"default/{name}"] for name in "ab")
    pod = Pod("default", "a")

    async def body(agent: Agent) -> None:
        await agent.on_datapath(agent.runtime.tell_gone, [first, pod, second])
        await agent.runtime.listen()
        await until(lambda: len(Beacon.left) == 2)
        counts = await agent.on_datapath(agent.runtime.counts)
        assert counts["beacon0"].gone == 2

    running(dp, body)
    assert Beacon.left == [("beacon0", first.ifindex), ("beacon0", second.ifindex)]


def test_the_test_kit_tells_of_what_has_gone(dp: Datapath) -> None:
    port = dp.network.ports["default/a"]
    dp.apply(msgspec.structs.replace(port, ifindex=99))
    dp.delete(dp.network.ports["default/b"])
    assert [ifindex for _, ifindex in Beacon.left] == [
        port.ifindex,
        dp.network.ports["default/b"].ifindex,
    ]


def connection(dp: Datapath, dport: int) -> None:
    """A TCP connection that is closed, and the SYN of the next one with its ports."""
    pod, peer = (Ether(src=f"02:00:00:00:01:0{n}", dst="02:00:00:00:00:01") for n in (0, 3))
    sent, back = pod / IP(src=str(A), dst="10.1.0.5"), peer / IP(src="10.1.0.5", dst=str(A))
    there, again = {"sport": 7, "dport": dport}, {"sport": dport, "dport": 7}
    for flags, seq in (("S", 0), ("", 0), ("A", 1), ("A", 1), ("FA", 1), ("-", 1), ("S", 9)):
        if flags in ("", "-"):
            answer = TCP(**again, flags="FA" if flags else "SA", seq=seq, ack=1)
            dp.send(back / answer, pod="default/d")
        else:
            dp.send(sent / TCP(**there, flags=flags, seq=seq, ack=int("A" in flags)))


def test_a_cube_is_told_of_flows_that_have_ended(datapath: Make) -> None:
    chosen = {"beacon": {"ends": 100}, "beacon1": {"ends": 0}}
    dp = datapath(stacks={"pod": [Beacon, "beacon1"]}, settings=chosen)
    counts: dict[str, Counts] = {}

    async def body(agent: Agent) -> None:
        connection(dp, BAD_PORT)
        connection(dp, 80)
        await until(lambda: len(Beacon.over) == 2)
        counts.update(await agent.on_datapath(agent.runtime.counts))

    with structlog.testing.capture_logs() as logs:
        running(dp, body)
    assert [(name, flow.sent.dport) for name, flow in Beacon.over] == [
        ("beacon0", BAD_PORT),
        ("beacon0", 80),
    ]
    assert [flow.reply.packets for _, flow in Beacon.over] == [2, 2]
    assert (counts["beacon0"].ended, counts["beacon0"].lost_ended) == (2, 0)
    assert counts["beacon0"].failures > 0
    assert "on_ended" in [line.get("where") for line in logs]


def test_what_is_lost_is_counted(datapath: Make) -> None:
    dp = datapath(stacks={"pod": [Beacon]}, settings={"beacon": {"rate": 2}})
    counts: dict[str, Counts] = {}

    async def body(agent: Agent) -> None:
        for port in range(1, 9):
            dp.send(frame(dport=port))
        await until(lambda: len(Beacon.told) >= 2)
        counts.update(await agent.on_datapath(agent.runtime.counts))

    running(dp, body)
    (found,) = counts.values()
    assert found == Counts(events=found.events, lost_events=8 - found.events)
    assert found.events < 8


def test_a_flood_leaves_the_thread_to_others(dp: Datapath, monkeypatch: Any) -> None:
    """Whoever waits for the thread is served between batches, and gets half of the time."""
    monkeypatch.setattr(Beacon, "on_event", lambda *_: time.sleep(0.002))
    waits: list[float] = []

    async def body(agent: Agent) -> None:
        for port in range(1_500):
            dp.send(frame(sport=1 + port))
        began = time.monotonic()
        while time.monotonic() - began < 1:
            asked = time.monotonic()
            await agent.on_datapath(time.sleep, 0)
            waits.append(time.monotonic() - asked)
            await asyncio.sleep(0.001)

    running(dp, body)
    assert max(waits) < 0.5
    assert sum(wait < 0.01 for wait in waits) > 50


def test_a_packet_can_be_answered(dp: Datapath) -> None:
    pod = dp.network.ports["default/a"]
    listening = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
    listening.bind((f"{pod.host_ifname}p", 0))
    listening.settimeout(5)

    async def body(agent: Agent) -> None:
        dp.send(frame(dport=9))
        await until(lambda: bool(Beacon.packets))

    with listening:
        running(dp, body)
        (packet,) = Beacon.packets
        assert (packet.port_class, packet.ifindex) == ("pod", pod.ifindex)
        assert packet.frame == bytes(frame(dport=9))
        wanted = packet.frame[6:12] + packet.frame[:6] + packet.frame[12:]
        while listening.recv(2048) != wanted:
            pass


def test_packets_of_before_the_start_are_passed_over(dp: Datapath) -> None:
    dp.send(frame(dport=9))

    async def body(agent: Agent) -> None:
        dp.send(frame(sport=77, dport=9))
        await until(lambda: bool(Beacon.packets))

    running(dp, body)
    assert [Ether(packet.frame)[UDP].sport for packet in Beacon.packets] == [77]


def test_another_composition_brings_other_contexts_and_closes_the_old(datapath: Make) -> None:
    old, new = datapath(stacks={"pod": [Beacon]}), datapath(stacks={"pod": [Beacon, "beacon1"]})

    async def body(agent: Agent) -> None:
        runtime = agent.runtime
        before = runtime.context(old.composition.cubes[0])
        await agent.serve(new)
        after = [runtime.context(cube) for cube in new.composition.cubes if cube.kind == "beacon"]
        with pytest.raises(ValueError, match="closed"):
            len(before.table("blocked"))
        assert [len(context.table("blocked")) for context in after] == [0, 0]
        old.send(frame(dport=1))
        new.send(frame(dport=2))
        await until(lambda: len(Beacon.told) == 2)
        await agent.serve(new)  # nothing new: nothing is made again
        assert runtime.context(after[0].cube) is after[0]

    running(old, body)
    assert sorted(Beacon.told) == sorted([*opened(2), *opened(2, instance="beacon1")])


def test_no_descriptor_is_left_behind(datapath: Make) -> None:
    dp, other = datapath(stacks={"pod": [Beacon]}), datapath(stacks={"pod": [Beacon, "beacon1"]})

    async def body(agent: Agent) -> None:
        for each in (other, dp, other, dp):
            await agent.serve(each)
            each.send(frame(dport=9))

    running(dp, body)
    before = len(os.listdir("/proc/self/fd"))
    running(dp, body)
    assert len(os.listdir("/proc/self/fd")) == before


# Tables


@pytest.fixture
def context(dp: Datapath) -> Iterator[Context]:
    agent = Agent(dp)
    agent.runtime.take_over(dp.composition, dp.maps)
    yield agent.runtime.context(next(c for c in dp.composition.cubes if c.kind == "beacon"))
    asyncio.run(agent.runtime.close())
    agent.worker.shutdown()


@pytest.fixture
def table(context: Context) -> Callable[[str], Any]:
    return context.table


def test_a_write_changes_what_the_programs_do_and_whose_verdicts_hold(
    dp: Datapath, table: Callable[[str], Any]
) -> None:
    answer = Ether(src="02:00:00:00:ff:01", dst="02:00:00:00:00:01")
    answer /= IP(src="10.1.0.5", dst=str(A)) / UDP(sport=53, dport=1000)
    dp.send(frame())
    dp.send(answer, pod="default/d")
    assert dp.send(frame()).verdict == "redirect"
    table("blocked")[Source(A)] = Until(5)
    assert dp.send(frame()).reason == "beacon/blocked"
    assert dict(table("blocked")) == {Source(A): Until(5)}
    del table("blocked")[Source(A)]
    assert dp.send(frame()).verdict == "redirect"
    assert Source(A) not in table("blocked")
    with pytest.raises(KeyError):
        del table("blocked")[Source(A)]


def test_numbers_per_cpu_are_read_as_sums_and_written_as_such(
    dp: Datapath, table: Callable[[str], Any]
) -> None:
    seen = table("seen")
    assert len(seen) == 0
    dp.send(frame(1))
    dp.send(frame(2))
    assert dict(seen.items()) == {Index(0): Tally(2)}
    seen[Index(0)] = Tally(40)
    dp.send(frame(3))
    assert seen[Index(0)] == Tally(41)
    del seen[Index(0)]
    assert Index(0) not in seen
    assert list(seen.values()) == []


def test_a_planned_map_can_be_read_alone(table: Callable[[str], Any]) -> None:
    wanted = table("wanted")
    assert dict(wanted) == {Index(1): Tally(7)}
    with pytest.raises(TypeError, match="beacon0_wanted holds what the plan wants"):
        wanted[Index(2)] = Tally(1)
    with pytest.raises(TypeError, match="planned=False"):
        del wanted[Index(1)]
    assert dict(wanted) == {Index(1): Tally(7)}


def test_what_is_no_record_of_the_map_is_refused(table: Callable[[str], Any]) -> None:
    with pytest.raises(TypeError, match="records of Source, not Index"):
        table("blocked")[Index(1)] = Until(1)
    with pytest.raises(TypeError, match="records of Until, not Tally"):
        table("blocked")[Source(A)] = Tally(1)
    with pytest.raises(KeyError, match="beacon0 has no map 'nothing'; it declares blocked, seen"):
        table("nothing")


def test_a_frame_that_cannot_be_sent_says_why(dp: Datapath, context: Context) -> None:
    pod, local = dp.network.ports["default/a"], dp.network.local
    with pytest.raises(ValueError, match="14 bytes at least, not 3"):
        context.send(b"abc", pod.ifindex)
    with pytest.raises(ValueError, match="tunnel's far end"):
        context.send(bytes(60), local.overlay_ifindex)
    with pytest.raises(OSError, match="there is no device 999999"):
        context.send(bytes(60), 999_999)
    with pytest.raises(OSError, match=f"cannot send 4000 bytes by {pod.host_ifname}: Message too"):
        context.send(bytes(4000), pod.ifindex)
