"""When a cube's Python is called, on a clock of the test's own."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import structlog

from cubelet.cubes import callbacks
from cubelet.cubes.callbacks import Departures, Tally, Ticker
from cubelet_hooks.objects import Namespace, Node, Object


class Clock:
    """A time that only the test lets pass."""

    now = 1_000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: Any) -> Clock:
    clock = Clock()
    monkeypatch.setattr(callbacks, "time", clock)
    return clock


def ticker(seconds: float, tick: Any, before: Ticker | None = None) -> Ticker:
    cube = SimpleNamespace(instance="meter0", tick_seconds=seconds, on_tick=tick)
    context: Any = SimpleNamespace(cube=cube)
    return Ticker(context, Tally(), before)


def test_the_first_tick_comes_after_a_whole_pause(clock: Clock) -> None:
    each = ticker(2, lambda context: None)
    assert each.pause == 2
    clock.now += 1.5
    assert each.pause == 0.5


def test_what_was_missed_is_called_once(clock: Clock) -> None:
    each = ticker(2, lambda context: None)
    clock.now += 1_000
    assert each.pause == 0
    each.tick()
    assert each.pause == 2


def test_a_long_tick_leaves_the_thread_to_others_and_is_told_of_once(clock: Clock) -> None:
    def busy(context: Any) -> None:
        clock.now += 0.5

    each = ticker(1, busy)
    clock.now += 1
    with structlog.testing.capture_logs() as logs:
        each.tick()
        assert each.pause == 9.5  # of ten seconds a twentieth has gone
        each.tick()
    assert [(line["event"], line["seconds"]) for line in logs] == [
        ("a cube's tick takes long", 0.5)
    ]


def test_another_composition_does_not_begin_to_wait_anew(clock: Clock) -> None:
    first = ticker(60, lambda context: None)
    clock.now += 50
    second = ticker(60, lambda context: None, first)
    assert second.pause == 10
    assert ticker(20, lambda context: None, second).pause == 0


def test_a_tick_that_raises_is_counted_and_comes_again(clock: Clock) -> None:
    def fail(context: Any) -> None:
        raise RuntimeError("out of ideas")

    cube = SimpleNamespace(instance="meter0", tick_seconds=1, on_tick=fail)
    context: Any = SimpleNamespace(cube=cube)
    tally = Tally()
    each = Ticker(context, tally, None)
    with structlog.testing.capture_logs() as logs:
        each.tick()
        each.tick()
    assert (tally.ticks, tally.failures) == (2, 2)
    assert [(line["event"], line["where"]) for line in logs] == [("a cube failed", "on_tick")]
    assert each.pause == 1


def test_a_retired_ticker_calls_nothing(clock: Clock) -> None:
    each = ticker(1, lambda context: pytest.fail("it was called"))
    each.retired = True
    each.tick()


def departures(tell: Any, before: Departures | None = None) -> tuple[Departures, Tally]:
    cube = SimpleNamespace(instance="meter0", gone={"Node"}, on_gone=tell)
    context: Any = SimpleNamespace(cube=cube)
    tally = Tally()
    return Departures(context, tally, before), tally


def test_only_of_kinds_that_it_asks_for_a_cube_is_told() -> None:
    told: list[Object] = []
    each, tally = departures(lambda gone, context: told.append(gone))
    for gone in (Node("a"), Namespace("b"), Node("c")):
        each.add(gone)
    each.batch()
    assert [gone.key for gone in told] == ["a", "c"]
    assert (tally.gone, tally.failures, each.waiting) == (2, 0, False)


def test_many_are_told_part_by_part(clock: Clock) -> None:
    def slow(gone: Object, context: Any) -> None:
        clock.now += 0.02

    each, tally = departures(slow)
    for number in range(10):
        each.add(Node(f"n{number}"))
    assert each.batch() == pytest.approx(0.06)
    assert tally.gone == 3
    assert each.waiting


def test_what_waits_is_told_by_the_next_composition() -> None:
    told: list[str] = []
    first, _ = departures(lambda gone, context: pytest.fail("it is retired"))
    first.add(Node("a"))
    second, _ = departures(lambda gone, context: told.append(gone.key), first)
    first.retired = True
    first.batch()
    second.batch()
    assert told == ["a"]


def test_a_cube_that_fails_at_one_is_told_of_the_next(clock: Clock) -> None:
    told: list[str] = []

    def fail(gone: Object, context: Any) -> None:
        told.append(gone.key)
        raise RuntimeError("out of ideas")

    each, tally = departures(fail)
    each.add(Node("a"))
    each.add(Node("b"))
    with structlog.testing.capture_logs() as logs:
        each.batch()
    assert [(line["event"], line["where"]) for line in logs] == [("a cube failed", "on_gone")]
    assert told == ["a", "b"]
    assert (tally.gone, tally.failures) == (2, 2)


def test_no_more_than_so_many_wait(monkeypatch: Any) -> None:
    monkeypatch.setattr(callbacks, "_WAITING", 2)
    each, tally = departures(lambda gone, context: None)
    for name in ("a", "b", "c"):
        each.add(Node(name))
    each.batch()
    assert (tally.gone, tally.failures) == (2, 1)
