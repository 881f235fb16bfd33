"""The inbox and the loop: what a pass takes in, who waits for it, and how all of it ends."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from cubelet.cni.errors import NOT_PROGRAMMED, CniError
from cubelet.daemon.attaching import Attaching
from cubelet.daemon.inbox import Inbox
from cubelet.daemon.loop import Loop
from cubelet.datapath.thread import DatapathThread
from cubelet.net.changes import Affected
from cubelet.state.cluster import State
from cubelet.testkit import view
from cubelet_hooks.cube import Complaint, Condition
from cubelet_hooks.objects import Change, Custom, Namespace, Object, Port
from cubelet_hooks.resources import Resource

from ..helpers.aio import in_loop, until

PORT = Port(
    namespace="default",
    name="web",
    container_id="c1",
    ifname="eth0",
    netns="/run/netns/web",
    host_ifname="veth1",
    ifindex=7,
    mac="02:00:00:00:01:00",
    host_mac="02:00:00:00:02:00",
    addresses=(),
    mtu=1500,
)


class FakeReconciler:
    """Takes changes into a state, and does nothing else with them."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.passes: list[tuple[list[Change], bool]] = []
        self.problems: dict[str, str] = {}
        self.rejected: list[str] = []
        self.complaints: frozenset[Complaint] = frozenset()
        self.conditions: frozenset[Condition] = frozenset()
        self.refused: str | None = None
        self.lingers: float | None = None
        self.serving = False
        self.pods_wait = False
        self.watches: tuple[Resource, ...] = ()
        self.ports = SimpleNamespace(unsettled=False)
        self.datapath = SimpleNamespace(identity="", maps={})
        self.switchover = SimpleNamespace(composition=None, in_force=None, faults={}, suspects={})
        self.setup: Any = None
        self.stuck: Callable[[], None] = lambda: None
        self.reviews = 0
        self.affected = Affected.NOTHING
        self.gone: list[Object] = []

    def take_gone(self) -> list[Object]:
        gone, self.gone = self.gone, []
        return gone

    def run(
        self, changes: Sequence[Change], affected: Affected, *, hurry: bool, complete: bool
    ) -> None:
        self.affected |= affected
        self.passes.append((list(changes), hurry))
        self.stuck()
        for change in changes:
            self.state.apply(change)
        self.gone += [change.gone for change in changes if change.gone is not None]
        self.serving = True

    def blocker(self, port: Port) -> str:
        return self.problems.get(f"port {port.key}", "")

    def review_all(self) -> None:
        self.reviews += 1


class Rig:
    """A loop whose source, runtime and configuration do nothing."""

    def __init__(self) -> None:
        async def nothing(*_: object) -> None:
            return None

        self.state = view()
        self.older: set[str] = set()
        self.gone_on: list[Mapping[str, str]] = []
        self.inbox = Inbox()
        self.feed: Any = SimpleNamespace(
            begun=nothing, watch=nothing, complete=True, usable=True, problems=[], passed=self.told
        )
        self.configuration = SimpleNamespace(
            follow=lambda changes, complete: None,
            settle=lambda refused, serves, at_fault: False,
            problem="",
            go_on_without=self.gone_on.append,
        )
        self.reconciler = FakeReconciler(self.state)
        discovery: Any = SimpleNamespace(
            quarantined=dict,
            kept=lambda kinds: {},
            observe=lambda hook, **arguments: None,
            faults={},
            fall_back=lambda kind, reason: kind in self.older,
        )
        self.told_gone: list[Object] = []
        runtime: Any = SimpleNamespace(
            listen=nothing,
            take_over=lambda composition, maps: None,
            tell_gone=self.told_gone.extend,
        )
        health: Any = SimpleNamespace(ready=True, pass_began=None)
        self.thread = DatapathThread()
        reconciler: Any = self.reconciler
        configuration: Any = self.configuration
        self.noted: list[set[str]] = []
        keeper: Any = SimpleNamespace(took_over=lambda _, kinds: self.noted.append(kinds))
        self.loop = Loop(
            self.inbox,
            self.thread,
            self.feed,
            configuration,
            discovery,
            reconciler,
            runtime,
            health,
            keeper,
        )
        self.attaching = Attaching(self.state, reconciler, self.inbox)

    def told(self, *_: object) -> None:
        """The feed is told of a pass."""

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[asyncio.Task[None]]:
        task = asyncio.create_task(self.loop.run())
        try:
            yield task
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await self.thread.close()


@in_loop
async def test_a_pod_is_attached_by_the_pass_that_takes_it_in() -> None:
    rig = Rig()
    async with rig.running():
        assert rig.attaching.local() is None
        await rig.attaching.attach(PORT)
        assert rig.state.ports == {PORT.key: PORT}
        changes, hurry = rig.reconciler.passes[-1]
        assert ([change.new for change in changes], hurry) == ([PORT], True)
        assert rig.told_gone == []
        await rig.attaching.detach(PORT)
        assert rig.state.ports == {}
        assert rig.told_gone == [PORT]


@in_loop
async def test_what_is_in_the_way_of_a_pod_is_told() -> None:
    rig = Rig()
    rig.reconciler.problems[f"port {PORT.key}"] = "no room"
    async with rig.running():
        with pytest.raises(CniError, match="is not served") as caught:
            await rig.attaching.attach(PORT)
    assert (caught.value.code, caught.value.details) == (NOT_PROGRAMMED, "no room")


@in_loop
async def test_a_pod_waits_for_what_keeps_its_policies() -> None:
    rig = Rig()
    async with rig.running():
        rig.reconciler.pods_wait = True
        attaching = asyncio.create_task(rig.attaching.attach(PORT))
        await until(lambda: rig.state.ports)
        await rig.inbox.submit()
        assert not attaching.done()
        rig.reconciler.pods_wait = False
        rig.inbox.wake()  # as the compiler does
        await asyncio.wait_for(attaching, 5)


@in_loop
async def test_who_waits_for_a_pass_is_told_when_passes_end() -> None:
    rig = Rig()
    began, go = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def stuck() -> None:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go.wait(), loop).result()

    rig.reconciler.stuck = stuck
    async with rig.running() as task:
        first = asyncio.create_task(rig.attaching.attach(PORT))
        await began.wait()
        second = asyncio.create_task(rig.inbox.submit())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        for waiting in (first, second, rig.inbox.submit()):
            with pytest.raises(CniError, match="the agent is ending"):
                await asyncio.wait_for(waiting, 1)
        go.set()


@in_loop
async def test_a_pass_that_fails_ends_neither_the_loop_nor_those_who_wait() -> None:
    rig = Rig()
    good = rig.configuration.follow

    def fail(changes: Sequence[Change], complete: bool) -> None:
        raise RuntimeError("a bug")

    async with rig.running():
        await rig.inbox.submit()
        rig.configuration.follow = fail
        await asyncio.wait_for(rig.inbox.submit(), 1)
        rig.configuration.follow = good
        await rig.attaching.attach(PORT)
    assert rig.reconciler.reviews == 1
    assert rig.state.ports == {PORT.key: PORT}


@in_loop
async def test_what_a_new_configuration_watches_is_known_to_its_first_pass() -> None:
    budget = Resource("Budget", "example.com/v1beta1", "budgets")
    config, first = Namespace("config"), Custom("Budget", "shop", "a")
    late = Namespace("late")
    rig = Rig()
    followed: list[Change] = []

    def follow(changes: list[Change], complete: bool) -> None:
        followed.extend(changes)
        if changes and changes[0].new == config:
            rig.reconciler.watches = (budget,)

    async def watch(wanted: tuple[Resource, ...]) -> None:
        if wanted and len(followed) == 1:
            await asyncio.sleep(0)
            for each in (late, first):
                rig.inbox.emit(Change.between(None, each))

    rig.configuration.follow, rig.feed.watch = follow, watch
    async with rig.running():
        await rig.inbox.submit(Change.between(None, config))
    taken = rig.reconciler.passes[-1][0]
    assert [change.new for change in taken] == [config, late, first]
    assert taken == followed  # what comes meanwhile may be a configuration, too
    assert rig.inbox.empty


OLD = msgspec.structs.replace(PORT, container_id="c0", host_ifname="veth0", ifindex=6)


@in_loop
async def test_the_newest_of_a_pods_two_sandboxes_is_served() -> None:
    """Whatever is called for the other, in any order, and with passes in between or not."""
    rig = Rig()
    async with rig.running():
        await rig.attaching.attach(OLD)
        await rig.attaching.attach(PORT)
        await rig.attaching.attach(OLD)  # the runtime repeats its ADD
        assert rig.state.ports == {PORT.key: PORT}
        await rig.attaching.detach(OLD)
        assert rig.state.ports == {PORT.key: PORT}
        await rig.attaching.attach(OLD)
        await rig.attaching.detach(PORT)
        assert rig.state.ports == {PORT.key: OLD}
        await rig.attaching.detach(OLD)
        assert rig.state.ports == {}


@in_loop
async def test_an_old_sandbox_goes_while_the_new_one_comes() -> None:
    rig = Rig()
    async with rig.running():
        await rig.attaching.attach(OLD)
        await asyncio.gather(rig.attaching.attach(PORT), rig.attaching.detach(OLD))
        assert rig.state.ports == {PORT.key: PORT}
        await asyncio.gather(rig.attaching.detach(OLD), rig.attaching.attach(PORT))
        assert rig.state.ports == {PORT.key: PORT}


@in_loop
@pytest.mark.parametrize("ports", [(OLD, PORT), (PORT, OLD)])
async def test_a_restarted_agent_serves_the_newest(ports: tuple[Port, Port]) -> None:
    rig = Rig()
    rig.attaching.resume(ports)
    async with rig.running():
        await rig.inbox.submit()
        assert rig.state.ports == {PORT.key: PORT}
        await rig.attaching.detach(PORT)
        assert rig.state.ports == {PORT.key: OLD}


def setup_of(*kinds: str) -> Any:
    cubes = [SimpleNamespace(kind=kind) for kind in kinds]
    return SimpleNamespace(composition=SimpleNamespace(cubes=cubes))


@in_loop
async def test_what_took_over_without_a_fault_is_noted_once() -> None:
    rig = Rig()
    rig.reconciler.setup = setup_of("gate", "nat")
    async with rig.running():
        await rig.inbox.submit()
        assert rig.noted == [], "it is not in force yet"
        rig.reconciler.refused = ""
        rig.reconciler.switchover.faults["nat"] = "its plan raises"
        await rig.inbox.submit()
        assert rig.noted == []
        assert rig.gone_on == [{"nat": "its plan raises"}]
        for _ in range(2):
            await rig.inbox.submit()
        assert rig.noted == [{"gate", "nat"}]


@in_loop
async def test_what_fails_gives_way_to_what_was_in_force_and_is_not_quarantined() -> None:
    rig = Rig()
    rig.older = {"gate", "nat"}
    rig.reconciler.refused, rig.reconciler.setup = "", setup_of("gate", "nat")
    async with rig.running():
        rig.reconciler.switchover.suspects["gate"] = "it cannot be compiled"
        await rig.inbox.submit()
        assert (rig.gone_on, rig.noted) == ([{}], [])
        rig.older = set()
        rig.reconciler.switchover.suspects["gate"] = "nor can this"
        await rig.inbox.submit()
        assert rig.gone_on == [{}], "an essential cube is never taken out"


@in_loop
async def test_a_pass_looks_at_what_others_have_changed() -> None:
    rig = Rig()
    async with rig.running():
        await rig.inbox.submit()
        assert rig.reconciler.affected is Affected.NOTHING
        rig.inbox.note(Affected.PATHS)
        rig.inbox.note(Affected.NODE)
        await rig.inbox.submit()
        assert rig.reconciler.affected == Affected.PATHS | Affected.NODE
        assert rig.inbox.take().affected is Affected.NOTHING
