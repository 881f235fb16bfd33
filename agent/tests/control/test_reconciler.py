"""Passes of the one loop: devices, programs, maps, ports, routes; and what trouble leaves."""

from __future__ import annotations

import errno
import os
import shutil
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pyroute2 import IPRoute

from cubelet.bpf.fs import BPFFS
from cubelet.bpf.jiffies import Clock
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.syscalls import BpfError
from cubelet.bpf.tcx import TcxLink
from cubelet.composer.background import Compiling
from cubelet.composer.compiler import Compiled, compile_source
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.errors import CompileError
from cubelet.composer.source import Source
from cubelet.config.node import Settings
from cubelet.config.setup import Setup
from cubelet.control.reconciler import Reconciler
from cubelet.control.switchover import Switchover
from cubelet.datapath.programs import Datapath
from cubelet.net import sysctl
from cubelet.net.changes import Affected
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet.testkit.network import TestNetwork, build_network, private_network
from cubelet_hooks.objects import Change, Node, Object, Pod, Port, Service, ServicePort
from cubelet_hooks.view import View

from ..helpers import tint

NODE = Node(
    name="node1", addresses=(ip_address("172.18.0.2"),), pod_cidrs=(ip_network("10.1.0.0/24"),)
)


@dataclass
class Compiler:
    """Compiles at once, or, while ``busy``, not yet; ``asked`` counts how often then."""

    busy: bool = False
    asked: int = 0

    def __call__(self, source: Source, cache: Path) -> Compiled:
        if self.busy:
            self.asked += 1
            raise Compiling
        return compile_source(source, cache)


@dataclass
class Agent:
    """What an agent holds; ``restart`` gives the one that follows it."""

    settings: Settings
    network: TestNetwork
    source: Path
    successor: Agent | None = None
    complete: bool = True
    compiler: Compiler = field(default_factory=Compiler)

    def __post_init__(self) -> None:
        """Start with what is pinned."""
        self.state = State()
        tint.write(self.source, tint.FINE)
        self.clock = Clock()
        memory = Memory(self.settings.state_dir / "memory.json")
        self.reconciler = Reconciler(
            self.settings, self.state, self.clock, memory, self.compiler, lambda: self.compiler.busy
        )
        self.reconciler.propose(setup(self.settings))

    def close(self) -> None:
        """End, and let what is pinned forward on."""
        self.reconciler.close()
        self.clock.close()

    def restart(self) -> Agent:
        """Another one in its place."""
        self.close()
        self.successor = Agent(self.settings, self.network, self.source)
        return self.successor

    def end(self) -> None:
        """End the last of those in its place."""
        if self.successor is None:
            self.close()
        else:
            self.successor.end()

    def run(self, *objects: Object, gone: tuple[Object, ...] = ()) -> dict[str, str]:
        """A pass with these objects new or changed; the problems after it."""
        changes = [Change.between(None, each) for each in objects]
        changes += [Change.between(each, None) for each in gone]
        self.reconciler.run(changes, complete=self.complete)
        return self.reconciler.problems

    @property
    def identity(self) -> str:
        """The composition in force."""
        return self.reconciler.datapath.identity

    @property
    def ports(self) -> set[int]:
        """What the cube's map holds."""
        table: BpfMap = self.reconciler.datapath.maps["tint0_ports"]
        return {tint.Key.unpack(key, 4).port for key, _ in table.items()}

    @property
    def attached(self) -> dict[str, int]:
        """By pin the device that a link is on."""
        found = {}
        for pin in (self.settings.bpffs / "links").iterdir():
            with TcxLink.open(pin) as link:
                found[pin.name] = link.info().ifindex
        return found


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What has been compiled, for all of these tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture
def agent(tmp_path: Path, cache: Path) -> Iterator[Agent]:
    """A node that has an uplink and two pods' devices, and nothing of ours."""
    bpffs = BPFFS / f"cubelet-test-reconciler-{os.getpid()}"
    settings = Settings(
        node_name="node1",
        bpffs=bpffs,
        cache_dir=cache,
        state_dir=tmp_path,
        cni_bin=None,
        cni_conf=tmp_path / "10-cubelet.conflist",
        linger_seconds=0,
    )
    with private_network():
        made = Agent(settings, build_network(6), tmp_path / "tint.bpf.c")
        try:
            yield made
        finally:
            made.end()
            shutil.rmtree(bpffs, ignore_errors=True)


def setup(settings: Settings, outlet: Mapping[str, object] | None = None) -> Setup:
    core = Core("cubelet", CoreSettings())
    return Setup(tint.composition(outlet=outlet), core, settings.service_cidrs)


def filters(agent: Agent) -> set[str]:
    """The pods' devices with a clsact filter."""
    found = set()
    with IPRoute() as ip:
        for port in agent.network.ports.values():
            if any(ip.get_filters(index=port.ifindex, parent=0xFFFFFFF2)):
                found.add(port.host_ifname)
    return found


def awaited(agent: Agent) -> int:
    return len(agent.reconciler.awaited)


def refused(agent: Agent) -> str | None:
    return agent.reconciler.refused


def serving(agent: Agent) -> bool:
    return agent.reconciler.serving


def unsettled(agent: Agent) -> bool:
    return agent.reconciler.ports.unsettled


def epoch(agent: Agent) -> int:
    """The global one."""
    value = agent.reconciler.datapath.maps["cubelet_epochs"].lookup(bytes(4))
    assert value is not None
    return int.from_bytes(value[:4], "little")


def pinned_maps(agent: Agent) -> list[str]:
    return [pin.name for pin in (agent.settings.bpffs / "maps").iterdir()]


def service(name: str, port: int, *external: str) -> Service:
    addresses = tuple(ip_address(each) for each in external)
    ports = (ServicePort(name="", protocol="TCP", port=port, target_port=port, node_port=0),)
    return Service(namespace="default", name=name, ports=ports, external_ips=addresses)


def pod(agent: Agent, name: str) -> Port:
    return agent.network.ports[f"default/{name}"]


def routes() -> set[str]:
    """The networks routed by our gateway."""
    with IPRoute() as ip:
        (gateway,) = ip.link_lookup(ifname="cubelet0")
        found = ip.get_routes(family=2, oif=gateway, table=254)
    return {f"{each.get_attr('RTA_DST')}/{each['dst_len']}" for each in found}


def test_nothing_happens_before_the_node_is_known(agent: Agent) -> None:
    problems = agent.run(service("a", 1))
    assert set(problems) == {"node"}
    assert "node1" in problems["node"]
    assert not agent.reconciler.serving
    assert agent.settings.cni_conf is not None
    assert not agent.settings.cni_conf.exists()


def test_a_first_pass_brings_everything_up(agent: Agent) -> None:
    assert agent.run(service("a", 1), NODE, pod(agent, "a")) == {}
    assert agent.reconciler.serving
    assert agent.ports == {1}
    assert set(agent.attached) == {"host", "overlay", "uplink", "pod0"}
    assert {"10.1.0.0/24", "10.96.0.0/12"} <= routes()
    assert agent.settings.cni_conf is not None
    assert agent.settings.cni_conf.exists()


def test_later_passes_follow_the_changes(agent: Agent) -> None:
    agent.run(NODE, service("a", 1), pod(agent, "a"))
    identity = agent.identity
    assert (
        agent.run(service("b", 2), pod(agent, "b"), gone=(service("a", 1), pod(agent, "a"))) == {}
    )
    assert agent.ports == {2}
    assert set(agent.attached) == {"host", "overlay", "uplink", "pod1"}
    assert agent.identity == identity


def test_what_is_gone_is_told_once_when_a_pass_has_ended(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = Pod("shop", "web", uid="1"), Pod("shop", "web", uid="2")
    agent.run(NODE, first)
    assert agent.reconciler.take_gone() == []

    def fail(*_: object) -> None:
        raise RuntimeError("why not")

    with monkeypatch.context() as patched:
        patched.setattr("cubelet.datapath.applier.Applier.apply", fail)
        agent.run(second)
        assert agent.reconciler.take_gone() == [], "its entries may still be there"
    agent.run()
    assert agent.reconciler.take_gone() == [first]
    agent.run(gone=(second,))
    assert agent.reconciler.take_gone() == [second]
    assert agent.reconciler.take_gone() == []


def test_events_drive_the_composition(agent: Agent) -> None:
    agent.run(NODE, pod(agent, "a"), service("a", 1))
    plain, attached = agent.identity, agent.attached
    assert agent.run(service("a", 1, "203.0.113.1")) == {}
    assert agent.identity not in ("", plain)
    assert agent.ports == {1}
    assert "203.0.113.1/32" in routes()
    assert agent.run(service("a", 1)) == {}
    assert agent.identity == plain
    assert agent.attached == attached
    assert "203.0.113.1/32" not in routes()
    assert len(list((agent.settings.bpffs / "programs").iterdir())) == 1


def test_a_restart_converges(agent: Agent) -> None:
    agent.run(NODE, pod(agent, "a"), pod(agent, "b"), service("a", 1), service("b", 2))
    agent.reconciler.datapath.maps["tint0_ports"].delete(tint.Key(2).pack())
    again = agent.restart()
    assert again.run(NODE, pod(agent, "b"), service("b", 2), service("c", 3)) == {}
    assert again.ports == {2, 3}
    assert set(again.attached) == {"host", "overlay", "uplink", "pod1"}


def test_what_a_source_in_trouble_may_know_is_kept(agent: Agent) -> None:
    agent.run(NODE, service("a", 1), service("b", 2))
    again = agent.restart()
    again.complete = False
    again.run(NODE, service("c", 3))
    assert again.ports == {1, 2, 3}
    again.run(service("d", 4), gone=(service("c", 3),))
    assert again.ports == {1, 2, 4}
    again.complete = True
    again.run(service("a", 1))
    assert again.ports == {1, 4}


def test_a_composition_that_fails_leaves_the_old_one_and_is_named(agent: Agent) -> None:
    agent.run(NODE, pod(agent, "a"), service("a", 1))
    identity = agent.identity
    tint.write(agent.source, tint.BROKEN)
    problems = agent.run(service("b", 2, "203.0.113.1"))
    assert "cube tint: tint.bpf.c:5" in problems["composition"]
    assert agent.identity == identity
    assert agent.ports == {1, 2}  # everything else goes on
    assert agent.run(pod(agent, "b"), service("c", 3)).keys() == {"composition"}
    assert "pod1" in agent.attached
    assert agent.run(service("b", 2)) == {}  # what asked for it is gone
    assert agent.identity == identity


def test_another_setup_takes_over_with_all_that_is_known(agent: Agent) -> None:
    agent.run(NODE, service("a", 1), pod(agent, "a"))
    before = agent.identity
    agent.reconciler.propose(setup(agent.settings, outlet={"ifindex": 2}))
    assert agent.run(service("b", 2)) == {}
    assert agent.reconciler.refused == ""
    assert agent.identity != before
    assert agent.ports == {1, 2}
    assert agent.run(gone=(service("a", 1),)) == {}
    assert agent.ports == {2}


def test_a_setup_that_fails_is_given_up_and_the_old_one_goes_on(agent: Agent) -> None:
    agent.run(NODE, service("a", 1))
    before = agent.identity
    tint.write(agent.source, tint.BROKEN)
    agent.reconciler.propose(setup(agent.settings, outlet={"ifindex": 2}))
    assert agent.run(service("b", 2)) == {}
    assert "no_such_function" in str(agent.reconciler.refused)
    assert agent.identity == before
    assert agent.ports == {1, 2}
    tint.write(agent.source, tint.FINE)
    assert agent.run(service("c", 3)) == {}
    assert agent.identity == before  # what was given up is not tried again by itself


def test_a_cube_joins_and_leaves_as_it_is_needed(agent: Agent) -> None:
    agent.run(NODE, service("a", 1))
    epochs = epoch(agent)
    with_tint = agent.identity
    assert agent.run(service("unneeded", 9)) == {}
    assert agent.identity != with_tint
    assert "tint0_ports" not in agent.reconciler.datapath.maps
    assert not [pin for pin in pinned_maps(agent) if pin.startswith("tint0")]
    assert epoch(agent) > epochs  # what the cube has judged is judged again
    assert agent.run(service("b", 2), gone=(service("unneeded", 9),)) == {}
    assert agent.identity == with_tint
    assert agent.ports == {1, 2}


def test_a_cube_that_is_needed_no_more_lingers(agent: Agent) -> None:
    agent.settings = msgspec.structs.replace(agent.settings, linger_seconds=0.3)
    again = agent.restart()
    again.run(NODE)
    with_tint, unneeded = again.identity, service("unneeded", 9)
    for _ in range(2):
        again.run(unneeded)
        assert again.identity == with_tint
        again.run(gone=(unneeded,))
        assert (again.identity, again.reconciler.lingers) == (with_tint, None)
    again.run(unneeded)
    left = again.reconciler.lingers
    assert left is not None
    time.sleep(left)
    assert again.run() == {}
    assert again.identity != with_tint
    assert again.reconciler.lingers is None


def test_pods_attach_while_another_composition_is_compiled(agent: Agent) -> None:
    agent.run(NODE, service("a", 1))
    plain = agent.identity
    agent.compiler.busy = True
    assert agent.run(service("a", 1, "203.0.113.1")) == {}
    assert agent.run(service("b", 2), pod(agent, "a")) == {}
    assert (agent.identity, agent.ports, "pod0" in agent.attached) == (plain, {1, 2}, True)
    assert awaited(agent) == 1
    assert not agent.reconciler.pods_wait
    assert agent.compiler.asked == 1
    agent.compiler.busy = False
    assert agent.run() == {}
    assert agent.identity != plain
    assert agent.ports == {1, 2}
    assert not awaited(agent)
    assert agent.reconciler.blocker(pod(agent, "a")) == ""


def test_what_is_no_longer_wanted_when_it_is_compiled_is_dropped(agent: Agent) -> None:
    agent.run(NODE, service("a", 1))
    plain = agent.identity
    agent.compiler.busy = True
    agent.run(service("a", 1, "203.0.113.1"))
    assert agent.run(service("a", 1)) == {}
    assert not awaited(agent)
    agent.compiler.busy = False
    assert agent.run() == {}
    assert agent.identity == plain


def test_a_proposed_setup_waits_for_its_compiler_and_the_old_one_goes_on(agent: Agent) -> None:
    agent.run(NODE, service("a", 1))
    before = agent.identity
    agent.compiler.busy = True
    agent.reconciler.propose(setup(agent.settings, outlet={"ifindex": 2}))
    assert agent.run(service("b", 2)) == {}
    assert agent.run(service("c", 3), pod(agent, "a"), gone=(service("a", 1),)) == {}
    assert (agent.identity, refused(agent)) == (before, None)
    assert (agent.ports, "pod0" in agent.attached) == ({2, 3}, True)
    assert awaited(agent) == agent.compiler.asked == 1
    agent.compiler.busy = False
    assert agent.run() == {}
    assert agent.identity != before
    assert refused(agent) == ""
    assert not awaited(agent)
    assert agent.ports == {2, 3}


def test_a_first_composition_is_waited_for(agent: Agent) -> None:
    agent.compiler.busy = True
    assert agent.run(NODE, service("a", 1), pod(agent, "a")) == {}
    assert not serving(agent)
    agent.compiler.busy = False
    assert agent.run() == {}
    assert serving(agent)
    assert (agent.ports, "pod0" in agent.attached) == ({1}, True)


def test_pods_wait_for_an_essential_cube_that_joins(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They would start without their policies."""
    monkeypatch.setattr(tint.Tint, "essential", True)
    unneeded = service("unneeded", 9)
    agent.run(NODE, unneeded)
    agent.compiler.busy = True
    agent.run(gone=(unneeded,))
    waited = agent.reconciler.pods_wait
    agent.compiler.busy = False
    assert agent.run() == {}
    assert (waited, agent.reconciler.pods_wait) == (True, False)


def test_a_setup_that_is_given_up_does_not_end_what_lingers(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise CompileError("", "", 0, "no_such_function", "")

    agent.settings = msgspec.structs.replace(agent.settings, linger_seconds=60)
    again = agent.restart()
    again.run(NODE)
    with_tint = again.identity
    again.run(service("unneeded", 9))
    again.reconciler.propose(setup(agent.settings, outlet={"ifindex": 2}))
    with monkeypatch.context() as patched:
        patched.setattr(again.reconciler.datapath, "prepare", refuse)
        again.run(service("b", 2))
    assert again.reconciler.refused == "no_such_function"
    assert again.run(service("c", 3)) == {}
    assert again.identity == with_tint


def test_what_the_last_run_needed_stays_until_all_is_known(agent: Agent) -> None:
    agent.run(NODE, service("a", 1), service("unneeded", 9))
    without = agent.identity
    agent.run(gone=(service("unneeded", 9),))
    with_tint = agent.identity
    again = agent.restart()
    again.complete = False
    again.run(service("unneeded", 9))  # the node itself is not known, but remembered
    assert again.identity == with_tint
    assert again.ports == {1, 9}
    again.complete = True
    assert again.run(NODE) == {}
    assert again.identity == without


def test_a_port_that_cannot_be_served_is_named_and_stops_no_other(agent: Agent) -> None:
    gone = msgspec.structs.replace(pod(agent, "a"), ifindex=4095)
    problems = agent.run(NODE, gone, pod(agent, "b"))
    assert set(problems) == {"port default/a"}
    assert set(agent.attached) == {"host", "overlay", "uplink", "pod1"}
    assert agent.run(gone=(gone,)) == {}


def test_what_does_not_fit_is_refused_alone_and_taken_in_when_there_is_room(agent: Agent) -> None:
    many = [service(f"s{n}", n) for n in range(1, 10)]
    assert agent.run(NODE, pod(agent, "a"), *many) == {}
    [told] = agent.reconciler.complaints
    assert (told.kind, told.key, told.reason) == ("Service", "default/s9", "NoRoom")
    assert told.message.startswith("tint0: refused: it needs 1 entry of tint0_ports, where")
    assert agent.ports == set(range(1, 9))
    assert "pod0" in agent.attached
    assert agent.run(gone=(many[0],)) == {}
    assert agent.ports == set(range(2, 10))
    assert agent.reconciler.complaints == frozenset()


def test_a_pod_waits_for_its_own_namespaces_plans_alone(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tint.Tint, "essential", True)
    poison = msgspec.structs.replace(service("poison", 1), namespace="tenant")
    one, strange = pod(agent, "a"), msgspec.structs.replace(pod(agent, "b"), namespace="tenant")
    assert agent.run(NODE, one, poison) == {}
    (told,) = agent.reconciler.complaints
    assert (told.key, told.reason) == ("tenant/poison", "NotPlanned")
    assert agent.reconciler.switchover.faults == {}
    assert agent.reconciler.blocker(one) == ""
    assert "poison" in agent.reconciler.blocker(strange)


def test_what_the_kernel_refuses_is_one_units_and_tried_again(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has no memory for what one Service wants, say."""
    update, refused = BpfMap.update, tint.Key(2).pack()

    def short_of_memory(table: BpfMap, key: bytes, value: bytes) -> None:
        if key == refused and table.name.startswith("tint0_ports"):
            raise BpfError(errno.ENOMEM, "write", "a record", "no memory")
        update(table, key, value)

    def one_by_one(table: BpfMap, records: Iterable[tuple[bytes, bytes]]) -> None:
        for key, value in records:
            table.update(key, value)

    monkeypatch.setattr(tint.Tint, "essential", True)
    with monkeypatch.context() as patched:
        patched.setattr(BpfMap, "update", short_of_memory)
        patched.setattr(BpfMap, "update_batch", one_by_one)
        agent.run(NODE, service("s1", 1))
        for _ in range(2):
            wanted = [service(f"s{n}", n) for n in (2, 3)]
            assert agent.run(pod(agent, "a"), *wanted) == {}
            [complaint] = agent.reconciler.complaints
            told = str(complaint)
            assert "Service default/s2: tint0: refused: " in told
            assert "no memory" in told
            assert agent.ports == {1, 3}
            assert agent.reconciler.blocker(pod(agent, "a")) == ""
    agent.reconciler.review_all()
    assert agent.run() == {}
    assert (agent.ports, agent.reconciler.complaints) == ({1, 2, 3}, frozenset())


def test_a_pass_that_breaks_off_is_made_good(agent: Agent, monkeypatch: pytest.MonkeyPatch) -> None:
    agent.run(NODE, service("a", 1))

    def fail(*_: object) -> None:
        raise RuntimeError("why not")

    with monkeypatch.context() as patched:
        patched.setattr("cubelet.datapath.applier.Applier.apply", fail)
        assert "why not" in agent.run(service("b", 2), gone=(service("a", 1),))["pass"]
    assert agent.ports == {1}
    assert agent.run() == {}
    assert agent.ports == {2}


def test_pods_are_not_served_before_a_pass_has_ended(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("why not")

    with monkeypatch.context() as patched:
        patched.setattr(agent.reconciler.datapath, "forget_strangers", fail)
        assert "why not" in agent.run(NODE)["pass"]
    assert agent.reconciler.switchover.in_force
    assert not agent.reconciler.serving
    assert agent.run() == {}
    assert agent.reconciler.serving


def test_a_pod_that_waits_is_attached_quickly_and_for_good_later(agent: Agent) -> None:
    agent.run(NODE)
    agent.reconciler.run([Change.between(None, pod(agent, name)) for name in "ab"], hurry=True)
    assert unsettled(agent)
    assert filters(agent) == {"pod0", "pod1"}
    assert set(agent.attached) == {"host", "overlay", "uplink"}
    assert agent.run() == {}
    assert not unsettled(agent)
    assert filters(agent) == set()
    assert set(agent.attached) == {"host", "overlay", "uplink", "pod0", "pod1"}


def test_a_pod_that_goes_in_between_is_forgotten(agent: Agent) -> None:
    agent.run(NODE)
    agent.reconciler.run([Change.between(None, pod(agent, "a"))], hurry=True)
    assert agent.run(gone=(pod(agent, "a"),)) == {}
    assert not agent.reconciler.ports.unsettled
    assert filters(agent) == set()


def test_waiting_pods_do_not_cost_others_their_links(agent: Agent) -> None:
    agent.run(NODE, pod(agent, "a"))
    agent.reconciler.review_all()
    agent.reconciler.run([Change.between(None, pod(agent, "b"))], hurry=True)
    assert filters(agent) == {"pod1"}
    assert "pod0" in agent.attached


def test_a_look_at_everything_settles_a_few_at_a_time(agent: Agent) -> None:
    agent.run(NODE)
    agent.reconciler.run([Change.between(None, pod(agent, name)) for name in "abcdef"], hurry=True)
    agent.reconciler.review_all()
    assert agent.run() == {}
    assert len(filters(agent)) == 2
    assert agent.run() == {}
    assert not unsettled(agent)
    assert filters(agent) == set()


def test_what_was_judged_before_a_switch_is_judged_again_after_it(agent: Agent) -> None:
    agent.run(NODE, pod(agent, "a"))
    first = epoch(agent)
    agent.run(service("unneeded", 9))
    second = epoch(agent)
    agent.run(gone=(service("unneeded", 9),))  # what ran before runs again
    assert first < second < epoch(agent)
    last = epoch(agent)
    again = agent.restart()
    assert again.run(NODE, pod(again, "a")) == {}
    # the same composition, and no other ran meanwhile; but paths may have changed
    assert epoch(again) == last + 1


def test_verdicts_are_raised_when_the_last_port_runs_the_new_programs(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.run(NODE, pod(agent, "a"))
    again = agent.restart()
    order: list[str] = []
    attach, settle = Datapath.attach_pod, Switchover.settle_verdicts

    def attached(self: Datapath, *arguments: Any, **options: Any) -> None:
        order.append("attached")
        attach(self, *arguments, **options)

    def settled(self: Switchover, final: bool) -> None:
        before = epoch(again)
        settle(self, final)
        order.append("raised" if epoch(again) > before else "as it was")

    monkeypatch.setattr(Datapath, "attach_pod", attached)
    monkeypatch.setattr(Switchover, "settle_verdicts", settled)
    again.run(NODE, pod(again, "a"), service("unneeded", 9))
    assert order == ["attached", "raised"]


def test_what_cannot_be_planned_after_a_restart_is_kept(agent: Agent) -> None:
    agent.run(NODE, service("a", 1), service("b", 2))
    again = agent.restart()
    problems = again.run(NODE, service("b", 2), service("poison", 3))
    assert again.reconciler.switchover.faults == {}
    assert problems == {}
    assert again.ports == {1, 2}


def test_facts_that_cannot_be_told_any_more_stay(
    agent: Agent, monkeypatch: pytest.MonkeyPatch
) -> None:
    agent.run(NODE, service("a", 1), service("b", 2, "192.0.2.1"))
    before = agent.identity
    defines = tint.Tint.defines

    def touchy(self: tint.Tint, view: View) -> Mapping[str, int]:
        if "default/odd" in view.services:
            raise ValueError("an odd Service")
        return defines(self, view)

    monkeypatch.setattr(tint.Tint, "defines", touchy)
    odd = service("odd", 3, "192.0.2.2")
    problems = agent.run(odd)
    assert problems["facts"].startswith("cube tint: ValueError('an odd Service'); its defines")
    again = agent.restart()
    assert "facts" in again.run(NODE, service("a", 1), service("b", 2, "192.0.2.1"), odd)
    assert again.reconciler.switchover.faults == {}
    assert again.identity == before
    assert again.ports == {1, 2, 3}
    assert again.run(gone=(odd,)) == {}


def test_another_size_alone_is_put_in_force(agent: Agent) -> None:
    agent.run(NODE, service("a", 1))
    before = agent.identity
    core = Core("cubelet", CoreSettings(pending_flows=4096))
    more = Setup(tint.composition(), core, agent.settings.service_cidrs)
    agent.reconciler.propose(more)
    assert agent.run() == {}
    assert agent.identity == before
    assert agent.reconciler.datapath.maps["cubelet_pending"].info.layout.max_entries == 4096


def test_routes_stay_while_it_is_not_known_who_wants_them(agent: Agent) -> None:
    other = Node(name="node2", pod_cidrs=(ip_network("10.2.0.0/24"),))
    agent.run(NODE, other)
    assert "10.2.0.0/24" in routes()
    again = agent.restart()
    again.complete = False
    again.run()
    assert again.reconciler.serving
    assert "10.2.0.0/24" in routes()
    again.complete = True
    again.run(NODE)
    assert "10.2.0.0/24" not in routes()


def test_a_device_that_is_lost_is_made_anew(agent: Agent) -> None:
    agent.run(NODE, pod(agent, "a"))
    before = agent.attached
    with IPRoute() as ip:
        ip.link("del", ifname="cubelet0")
    agent.reconciler.review_all()
    assert agent.run() == {}
    assert agent.attached == before
    assert "10.1.0.0/24" in routes()


@pytest.mark.parametrize("device", ["cubelet0", "cubelet0-dp", "cubelet-vxlan"])
def test_devices_that_others_remove_are_made_again(agent: Agent, device: str) -> None:
    """Attached again, and without another composition, which would take seconds."""
    agent.run(NODE, pod(agent, "a"))
    before = (agent.identity, agent.attached, routes())
    with IPRoute() as ip:
        ip.link("del", ifname=device)
    agent.reconciler.run([], Affected.NODE)
    assert agent.reconciler.problems == {}
    assert (agent.identity, agent.attached, routes()) == before


def test_open_flows_are_judged_again_when_paths_change(agent: Agent) -> None:
    agent.run(NODE)
    before = epoch(agent)
    agent.reconciler.run([], Affected.NODE)
    assert epoch(agent) == before
    agent.reconciler.run([], Affected.PATHS)
    assert epoch(agent) == before + 1
    agent.reconciler.run([], Affected.PATHS | Affected.NODE)  # at once, and when all is right
    assert epoch(agent) == before + 3


def test_settings_that_others_change_are_noticed_and_put_right(agent: Agent) -> None:
    agent.run(NODE)
    assert not agent.reconciler.astray()
    key = "ipv4/conf/lo/route_localnet"
    sysctl.write(key, "0")
    assert agent.reconciler.astray()
    agent.reconciler.run([], Affected.NODE)
    assert sysctl.read(key) == "1"
    assert not agent.reconciler.astray()
