"""Guests' Python in a process of its own: asked as any cube is, and stopped whatever it does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint
from ipaddress import ip_address
from pathlib import Path
from types import FunctionType
from typing import Any

import pytest

from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.composer.core import VALUE_MAPS
from cubelet.cubes.discovery import discover
from cubelet.guests import host
from cubelet.guests.child import MEMORY
from cubelet.guests.host import GuestError
from cubelet.guests.process import Limit
from cubelet.guests.proxy import REMOTE
from cubelet.guests.registry import Guests, is_guest
from cubelet.state.cluster import State
from cubelet_hooks.cube import Cube
from cubelet_hooks.ends import EndedFlow
from cubelet_hooks.flows import Counter, FlowState, Hop, Tuple
from cubelet_hooks.maps import EVERYTHING
from cubelet_hooks.objects import Change, Namespace
from cubelet_hooks.records import U32, Record

from .strange import REFUSING, Bench, alive, importable

Make = Callable[..., Bench]


DRIP = """
for fd in range(3, 20):
    try:
        os.write(fd, bytes((0, 1, 0, 0)))
        while True:
            time.sleep(0.01)
            os.write(fd, b"x")
    except OSError:
        pass
"""
"""An answer that comes byte by byte."""


class Key(Record):
    number: U32


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Make]:
    """Makes benches with short limits; their processes end with the test."""
    monkeypatch.setattr(host, "QUESTION", Limit(cpu=0.7, wall=60))
    made: list[Bench] = []

    def bench(more: str = "", **settings: int) -> Bench:
        name = f"cubelet_odd{os.getpid()}_{len(sys.modules)}_{len(made)}"
        made.append(Bench(tmp_path, name, more, **settings))
        return made[-1]

    for _ in importable(tmp_path):
        yield bench
    for each in made:
        each.close()


def gone(pid: int) -> bool:
    """Whether a process ends within some seconds."""
    late = time.monotonic() + 10
    while alive(pid) and time.monotonic() < late:
        time.sleep(0.02)
    return not alive(pid)


def test_a_guest_is_asked_as_any_other_cube(make: Make) -> None:
    bench = make(amount=7)
    assert not bench.running
    assert bench.put("a", 1, count="2") == {"odd0_tags": {1: 7, 1000: 1, 1001: 1}}
    assert bench.put("b", 1, wrong="no") == {}
    assert bench.put("c", 3, count="200") == {}
    wrong, large = bench.told.splitlines()
    assert wrong == "Namespace b: no"
    assert large.startswith("odd0: tag c: refused: it needs more than the 100 entries of odd0_tags")
    pid = bench.host.pid
    assert bench.put("a", 2) == {"odd0_tags": {1000: None, 1001: None, 2: 7}}
    assert bench.host.pid == pid
    concerns = bench.cube.maps[0].concerns
    assert concerns is not None
    found = [concerns(Key(number), Key(1)) for number in (1, 2, 3)]
    assert found == [(), (EVERYTHING,), (ip_address("10.1.0.3"),)]
    assert concerns(Key(4), Key(1)) == (EVERYTHING,), "it raises, so whom it concerns is not known"


@pytest.mark.parametrize(
    ("what", "why"),
    [
        ("while True: pass", "took over 0.7 s of CPU"),
        ("time.sleep(60)", "took over 1 s"),
        (
            "while True:\n try:\n  while True: pass\n except BaseException: pass",
            "took over 0.7 s of CPU",
        ),
        ("re.match('(a|aa)+$', 'a' * 60 + 'b')", "took over 0.7 s of CPU"),
        ("10 ** 10 ** 9", "took over 0.7 s of CPU"),
        ("b'x' * 10 ** 11", "wanted more memory than it may have: MemoryError()"),
        ("while True: hoard.append(b'x' * (1 << 26))", "wanted more memory than it may have"),
        ("os._exit(3)", "ended its process with status 3"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "ended its process by SIGSEGV"),
        ("os.closerange(3, 99)", "it is asked again after 60 s"),
        ("for fd in range(3, 20):\n try: os.write(fd, b'x' * 99)\n except OSError: pass", "gave a"),
        (DRIP, "took over 1 s"),
        (
            "signal.signal(signal.SIGTERM, signal.SIG_IGN)\nwhile True: pass",
            "took over 0.7 s of CPU",
        ),
        ("class Bad(Exception):\n def __repr__(self): os._exit(0)\nraise Bad", "with status 0"),
        ("subprocess.Popen(['sleep', '600'])\nwhile True: pass", "took over 0.7 s of CPU"),
    ],
)
def test_whatever_a_plan_does_is_its_units_problem(
    make: Make, monkeypatch: pytest.MonkeyPatch, what: str, why: str
) -> None:
    bench = make()
    bench.put("a", 1)
    if "CPU" not in why:
        monkeypatch.setattr(host, "QUESTION", Limit(cpu=60, wall=1 if "1 s" in why else 60))
    pid = bench.host.pid
    delta = bench.take_in(
        Namespace(name="b", labels={"key": "2", "do": what}),
        Namespace(name="c", labels={"key": "3"}),
    )
    assert delta == {"odd0_tags": {3: 1}}
    assert bench.told.startswith("odd0: tag b: not planned, left as it was: plan of tag b was stop")
    assert f"it {why}" in bench.told or why in bench.told
    assert bench.cube.fault == ""
    assert gone(pid)
    group = subprocess.run(["pgrep", "-g", str(pid)], capture_output=True, check=False)
    assert all(map(gone, map(int, group.stdout.split())))
    # The next question goes to a process that knows all there was before.
    assert bench.put("b", 2) == {}, "it is not asked again so soon"
    assert bench.put("d", 4) == {"odd0_tags": {4: 1}}
    assert bench.host.pid != pid


@pytest.mark.parametrize(
    ("ever", "told"),
    [
        ("Entry('tags', Key(number), Key(1))", "it needs more than the 100 entries"),
        ("Entry('tags', Key(1), Key(1))", "was stopped"),
        ("Complaint('Namespace', str(number), 'Wrong', 'x' * 999)", "was stopped"),
    ],
)
def test_a_plan_that_yields_for_ever_ends(make: Make, ever: str, told: str) -> None:
    bench = make()
    assert bench.put("b", 2, ever=ever) == {}
    assert told in bench.told
    assert bench.put("a", 1) == {"odd0_tags": {1: 1}}


@pytest.mark.parametrize(
    ("what", "error"),
    [
        ("raise ValueError('no')", "ValueError('no')"),
        ("sys.exit(5)", "SystemExit(5)"),
        ("raise KeyboardInterrupt", "KeyboardInterrupt()"),
        ("def f(): return f()\nf()", "RecursionError('maximum recursion depth exceeded"),
        ("raise ValueError('x' * 10 ** 8)", "ValueError('xxx"),
    ],
)
def test_a_plan_that_raises_costs_no_process(make: Make, what: str, error: str) -> None:
    bench = make()
    bench.put("a", 1)
    pid = bench.host.pid
    assert bench.put("b", 2, do=what) == {}
    assert bench.told.startswith(f"odd0: tag b: not planned, left as it was: {error}")
    assert len(bench.told) < 400
    assert bench.host.pid == pid
    assert bench.put("b", 2) == {"odd0_tags": {2: 1}}


def test_what_a_unit_is_stopped_at_closes_it(make: Make) -> None:
    bench = make(REFUSING)
    bench.put("b", 2)
    assert bench.put("b", 2, do="while True: pass") == {
        "odd0_tags": {2: None},
        "odd0_closed": {ord("b"): 1},
    }
    assert "tag b: not planned and closed: plan of tag b was stopped" in bench.told


def test_one_namespace_does_not_take_the_cube_out_and_several_do(make: Make) -> None:
    bench = make(REFUSING.replace("return unit[1]", "return unit[1][:1]"))
    for number in range(4):
        bench.put(f"a{number}", 2, do="os._exit(1)")
    assert bench.cube.fault == ""
    assert "tag a3: not planned, left as it was: objects of namespace a have stopped" in bench.told
    assert bench.put("b", 3) == {"odd0_tags": {3: 1}}
    for name in "cd":
        bench.put(name, 2, do="os._exit(1)")
    assert bench.cube.fault.startswith("plan of tag d was stopped: it ended its process")


def test_what_was_stopped_is_asked_again_later(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make()
    bench.put("b", 2, do="os._exit(1)")
    bench.put("b", 2)
    pid = bench.host.pid
    assert bench.planner.forgiven() == {("odd0", ("tag", "b"))}
    assert bench.replan(bench.planner.forgiven()) == {}
    assert bench.host.pid == pid
    now = time.monotonic
    monkeypatch.setattr(bench.cube.ledger, "_clock", lambda: now() + 61)
    assert bench.replan(bench.planner.forgiven()) == {"odd0_tags": {2: 1}}
    assert bench.told == ""


def test_units_that_are_stopped_are_the_objects_problem(make: Make) -> None:
    bench = make()
    assert bench.put("b", 2, units="while True: pass") == {}
    assert bench.told.startswith(
        "Namespace b: odd0: not planned, left as it was: units for Namespace b was stopped"
    )
    assert bench.put("a", 1) == {"odd0_tags": {1: 1}}


def test_many_changes_are_asked_about_at_once_and_who_hangs_is_found(make: Make) -> None:
    bench = make()
    asked: list[str] = []
    ask = bench.host.ask

    def noted(*given: object) -> object:
        asked.append(str(given[3]))
        return ask(*given)

    bench.host.ask = noted
    some = [Namespace(name=f"n{n}", labels={"key": str(n)}) for n in range(1, 300)]
    assert len(bench.take_in(*some)["odd0_tags"]) == 100
    assert asked[:3] == ["units_of", "units_of", "plan"]
    odd = Namespace(name="odd", labels={"key": "1", "units": "raise ValueError('no')"})
    hangs = Namespace(name="hangs", labels={"key": "1", "units": "while True: pass"})
    more = Namespace(name="more", labels={"key": "500"})
    bench.take_in(odd, hangs, more)
    failures = bench.planner.failures
    assert failures["odd0", ("units", "Namespace", "odd")] == "ValueError('no')"
    assert "was stopped" in failures["odd0", ("units", "Namespace", "hangs")]
    assert len(failures) == 2
    assert ("odd0", ("tag", "more")) in {each.wish.owned for each in bench.planner.refusals()}


def test_who_has_used_up_its_time_is_asked_later_and_nothing_is_wrong(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, now = make("    essential = True\n"), time.monotonic
    bench.put("a", 1)
    bench.cube.ledger.spend(100)
    assert bench.put("b", 2) == {}
    assert bench.replan({("odd0", ("tag", "a"))}) == {}
    assert bench.told == ""
    assert bench.planner.waiting == bench.planner.unsure == {"odd0"}
    assert bench.planner.holds_up("x", "x/pod") == "odd0 has not planned all"
    monkeypatch.setattr(bench.cube.ledger, "_clock", lambda: now() + 200)
    assert bench.replan(bench.planner.units([], bench.state)) == {"odd0_tags": {2: 1}}
    assert bench.planner.waiting == set()
    assert bench.planner.holds_up("x", "x/pod") == ""


def test_what_it_forks_does_not_answer_and_does_not_stay(make: Make) -> None:
    bench = make()
    assert bench.put("b", 2, do="pid = os.fork()\nos.waitpid(pid, 0)") == {"odd0_tags": {2: 1}}
    assert bench.put("a", 1) == {"odd0_tags": {1: 1}}
    assert bench.told == ""


def test_what_it_prints_is_no_answer(make: Make, capfd: pytest.CaptureFixture[str]) -> None:
    bench = make()
    assert bench.put("b", 2, do="print('garbage' * 9999)") == {"odd0_tags": {2: 1}}
    assert bench.put("a", 1) == {"odd0_tags": {1: 1}}
    bench.close()
    assert "garbage" not in capfd.readouterr().out


def test_large_objects_reach_it_whole_and_a_few_at_a_time(make: Make) -> None:
    bench = make()
    big = [
        Namespace(name=f"n{n}", labels={"key": str(n), "big": "x" * (1 << 20)})
        for n in range(1, 40)
    ]
    huge = Namespace(name="huge", labels={"key": "50", "big": "x" * (40 << 20)})
    assert bench.put("a", 99) == {"odd0_tags": {99: 1}}
    found = bench.take_in(*big, huge)["odd0_tags"]
    assert set(found) == {*range(1, 40), 50}


def test_an_answer_has_bounds(make: Make) -> None:
    bench = make("    def object_of(self, unit, view): return ('Pod', 'x' * (1 << 26))\n")
    bench.put("b", 2, do="raise ValueError('no')")
    assert bench.told == "odd0: tag b: not planned, left as it was: ValueError('no')"
    with pytest.raises(GuestError, match="its answer has 67,"):
        bench.cube.object_of(("tag", "b"), bench.state)


def test_it_has_bounds_and_no_secrets_of_ours(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET", "s3cret")
    bench = make()
    bench.put("a", 1)
    limits = Path(f"/proc/{bench.host.pid}/limits").read_text().splitlines()
    (space,) = (line for line in limits if line.startswith("Max address space"))
    assert space.split()[3:5] == [str(MEMORY)] * 2
    assert Path(f"/proc/{bench.host.pid}/oom_score_adj").read_text().strip() == "1000"
    assert b"s3cret" not in Path(f"/proc/{bench.host.pid}/environ").read_bytes()


def test_settings_that_the_guest_refuses_are_told(make: Make) -> None:
    with pytest.raises(GuestError, match="an amount over 9"):
        make(amount=10).cube.make_ready()
    make(amount=9).cube.make_ready()


def test_whoever_waits_for_a_guest_is_let_go_when_the_agent_ends(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "QUESTION", Limit(cpu=60, wall=60))
    bench = make()
    bench.put("a", 1)
    pid, began = bench.host.pid, time.monotonic()
    timer = threading.Timer(0.3, bench.guests.end)
    timer.start()
    assert bench.put("b", 2, do="while True: pass") == {}
    timer.join()
    assert time.monotonic() - began < 10
    assert gone(pid)
    assert (bench.told, bench.planner.waiting) == ("", {"odd0"})
    assert bench.put("c", 3) == {}
    assert not bench.running


def test_it_does_not_outlive_an_agent_that_is_killed(make: Make, tmp_path: Path) -> None:
    bench = make()  # its package is on disk
    package = bench.kind.__module__
    loop = "while True: pass"
    labels = {"key": "1", "units": loop}
    code = f"""
import sys
sys.path[:0] = {[str(tmp_path), *sys.path]!r}
from importlib.metadata import EntryPoint
from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.composer.core import VALUE_MAPS
from cubelet.cubes.discovery import discover
from cubelet.guests.registry import Guests
from cubelet.state.cluster import State
from cubelet_hooks.objects import Change, Namespace
state = State()
point = EntryPoint("odd", {package!r}, "cubelet.cubes")
guests = Guests(state)
cube = discover([point], guests.stand_in).cubes
made = cube["odd"]("odd0", cube["odd"].settings_type())
made.make_ready()
print(made.host.pid, flush=True)
made.units(Change.between(None, Namespace(name="a", labels={labels!r})), state)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as agent:
        assert agent.stdout is not None
        pid = int(agent.stdout.readline())
        assert alive(pid)
        agent.send_signal(signal.SIGKILL)
    assert gone(pid)


def test_an_instance_that_is_in_force_no_more_is_forgotten(make: Make) -> None:
    bench = make()
    bench.put("a", 1)
    pid = bench.host.pid
    other = bench.kind("odd0", bench.kind.settings_type())
    assert list(other.plan(("tag", "a"), bench.state))
    bench.guests.retain([other])
    assert bench.host.pid == pid
    assert list(other.plan(("tag", "a"), bench.state))
    bench.guests.retain([])
    assert not bench.running
    assert gone(pid)


OBSERVING = """

@hookimpl
def cubelet_changed(change):
    with open({path!r}, "a") as file:
        print(change.key, file=file)
    while change.key == "loop":
        pass
    if change.key == "bad":
        raise ValueError("no")


@hookimpl
def cubelet_composed(mode, instances):
    with open({path!r}, "a") as file:
        print(mode, *instances, file=file)


CONSTANTS = {{}}
"""


def test_what_guests_observe_they_observe_in_their_process(make: Make, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    bench = make(OBSERVING.format(path=str(seen)))

    def put(name: str) -> None:
        change = Change.between(None, Namespace(name=name))
        bench.discovery.observe("cubelet_changed", change=change)

    for name in ("a", "bad", "loop", "lost"):
        put(name)
    bench.discovery.observe("cubelet_composed", mode="fused", instances=["odd0"])
    assert not seen.exists()
    bench.guests.observe()
    assert seen.read_text().split("\n") == ["a", "bad", "loop", "fused odd0", ""]
    put("c")
    bench.guests.observe()
    assert seen.read_text().endswith("fused odd0\n"), "it is not asked so soon again"


EPOCHS = MapLayout(
    MapType.ARRAY,
    4,
    next(each.size for each in VALUE_MAPS if each.name == "epochs"),
    1,
    MapFlags.MMAPABLE,
)
CALLED = """
    class Fields(Record):
        first: U32

    flow_fields = Fields

    def on_tick(self, context):
        self.told("tick", os.getpid())

    def on_gone(self, gone, context):
        self.told(gone.kind, gone.key, os.getpid())
        while gone.key == "loop":
            pass

    def on_ended(self, flow, context):
        self.told(flow.sent.dport, flow.state.name, flow.fields.first, os.getpid())

    def told(self, *what):
        with open({path!r}, "a") as file:
            print(*what, file=file)
"""


def test_what_guests_are_told_they_are_told_in_their_process(make: Make, tmp_path: Path) -> None:
    seen = tmp_path / "seen"
    bench = make(CALLED.format(path=str(seen)))
    with BpfMap.create("cubelet_epochs", EPOCHS) as epochs:
        bench.cube.serve({"cubelet_epochs": epochs})
    context: Any = None
    bench.cube.on_tick(context)
    bench.cube.on_gone(Namespace(name="a"), context)
    fields: Any = bench.kind.flow_fields
    bench.cube.on_ended(ended(fields(5)), context)
    pid = bench.host.pid
    assert pid not in (None, os.getpid())
    assert seen.read_text().splitlines() == [
        f"tick {pid}",
        f"Namespace a {pid}",
        f"53 PENDING 5 {pid}",
    ]
    with pytest.raises(
        GuestError, match=r"on_gone of Namespace loop was stopped: it took over 0\.7 s"
    ):
        bench.cube.on_gone(Namespace(name="loop"), context)
    assert gone(pid)


def ended(fields: Record) -> EndedFlow:
    """A question to a DNS server that was answered."""
    asked = Tuple(ip_address("10.1.0.2"), ip_address("10.1.0.3"), 1024, 53, 17)
    hop = Hop(7, 0, "02:00:00:00:00:01", "02:00:00:00:00:02", 1500, 0)
    one = Counter(1, 100)
    return EndedFlow(asked, asked, hop, hop, FlowState.PENDING, one, one, fields)


def test_of_each_method_of_a_cube_it_is_decided_where_it_runs() -> None:
    methods = {
        name
        for base in Cube.__mro__[:-1]
        for name, each in vars(base).items()
        if not name.startswith("_") and isinstance(each, FunctionType | classmethod)
    }
    ours = {"number", "size_of"}
    by_batches, declared = {"on_event", "on_packet"}, {"places", "source"}
    assert methods == REMOTE.keys() | ours | by_batches | declared


def test_cubes_of_our_own_are_no_guests() -> None:
    found = discover()
    mine = {plugin.name for plugin in found.plugins if plugin.cubes and not is_guest(plugin)}
    assert mine >= {"bridge", "router", "lbrp", "nat", "firewall"}
    same = discover(present=Guests(State()).stand_in)
    assert all(same.cubes[name] is found.cubes[name] for name in mine)


def test_what_stands_for_a_cube_stays_the_same_until_the_cube_is_another(make: Make) -> None:
    """So a reload that changes nothing about a guest leaves its process and its limits alone."""
    bench = make("")
    point = EntryPoint("odd", bench.kind.__module__, "cubelet.cubes")
    again = discover([point], bench.guests.stand_in)
    assert again.cubes["odd"] is bench.kind
    del sys.modules[bench.kind.__module__]
    other = discover([point], bench.guests.stand_in)
    assert other.cubes["odd"] is not bench.kind
