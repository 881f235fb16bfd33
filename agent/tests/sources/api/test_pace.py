"""Delays between requests: growth, jitter, the server's wish, and when the row starts anew."""

from __future__ import annotations

import asyncio

import pytest

from cubelet.sources.api.pace import Backoff, Pace


class Clock:
    """Time that passes when somebody waits."""

    def __init__(self, chance: float = 0.5) -> None:
        self.now = 1000.0
        self.waits: list[float] = []
        self.events: list[asyncio.Event] = []
        self.pace = Pace(clock=lambda: self.now, chance=lambda: chance, wait=self._wait)

    async def _wait(self, wake: asyncio.Event, seconds: float) -> None:
        self.events.append(wake)
        self.waits.append(seconds)
        self.now += seconds


def pauses(clock: Clock, times: int, *, lives: float | None = None, asked: float = 0.0) -> None:
    async def run() -> None:
        backoff = Backoff(clock.pace)
        for _ in range(times):
            if lives is not None:
                backoff.established()
                clock.now += lives
            await backoff.pause(asyncio.Event(), asked=asked)

    asyncio.run(run())


def test_delays_double_up_to_the_longest() -> None:
    clock = Clock()
    pauses(clock, 9)
    assert clock.waits == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


@pytest.mark.parametrize(("chance", "factor"), [(0.0, 0.5), (1.0, 1.5)])
def test_jitter(chance: float, factor: float) -> None:
    clock = Clock(chance)
    pauses(clock, 3)
    assert clock.waits == [0.5 * factor, 1 * factor, 2 * factor]


def test_a_thousand_failures_do_not_overflow() -> None:
    clock = Clock()
    pauses(clock, 5000)
    assert clock.waits[-1] == 30


def test_what_the_server_asks_for_is_the_least() -> None:
    clock = Clock()
    pauses(clock, 5, asked=3)
    assert clock.waits[:3] == [pytest.approx(3.15)] * 3
    assert clock.waits[3:] == [4, 8]


def test_what_the_server_asks_for_has_a_limit() -> None:
    clock = Clock()
    pauses(clock, 1, asked=1e9)
    assert clock.waits == [pytest.approx(315)]


def test_watches_that_end_at_once_are_slowed_down() -> None:
    clock = Clock()
    pauses(clock, 4, lives=0.01)
    assert clock.waits == [0.5, 1, 2, 4]


def test_a_watch_that_outlives_the_last_delay_starts_anew() -> None:
    clock = Clock()
    pauses(clock, 4, lives=0.6)
    assert clock.waits == [0.5, 0.5, 0.5, 0.5]


@pytest.mark.parametrize(("lived", "waits"), [(1, [0.5]), (11, [])])
def test_a_clean_end_of_a_long_life_needs_no_pause(lived: float, waits: list[float]) -> None:
    clock = Clock()

    async def run() -> None:
        backoff = Backoff(clock.pace)
        backoff.established()
        clock.now += lived
        await backoff.pause(asyncio.Event(), clean=True)

    asyncio.run(run())
    assert clock.waits == waits


def test_waking_ends_a_pause_but_not_one_asked_for() -> None:
    async def run(asked: float) -> float:
        wake, loop = asyncio.Event(), asyncio.get_running_loop()
        backoff = Backoff(Pace(first=60))
        wake.set()
        began = loop.time()
        async with asyncio.timeout(0.3):
            await backoff.pause(wake, asked=asked)
        return loop.time() - began

    assert asyncio.run(run(0)) < 0.3
    with pytest.raises(TimeoutError):
        asyncio.run(run(100))
