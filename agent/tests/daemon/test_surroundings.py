"""How often passes are asked for, whatever others do to the node."""

from __future__ import annotations

import asyncio
import time

import pytest

from cubelet.daemon.surroundings import Pace, Surroundings
from cubelet.net.changes import Affected
from cubelet.testkit.network import private_network

from ..helpers.aio import in_loop
from ..net.shown import ip

NODE, PATHS, TABLES = Affected.NODE, Affected.PATHS, Affected.TABLES


class Rig:
    """What has been handed over, and when."""

    def __init__(self) -> None:
        self.noted: list[tuple[float, Affected]] = []
        self.settings_differ = False
        self.around = Surroundings(self.note, lambda: self.settings_differ)

    def note(self, affected: Affected) -> None:
        self.noted.append((time.monotonic(), affected))

    def of(self, kind: Affected) -> list[float]:
        """When this was handed over."""
        return [when for when, affected in self.noted if affected is kind]


@in_loop
async def test_what_comes_after_a_quiet_time_is_handed_over_at_once() -> None:
    rig = Rig()
    rig.around.affected(PATHS | NODE)
    assert {affected for _, affected in rig.noted} == {PATHS, NODE}
    rig.around.affected(TABLES)
    assert rig.of(TABLES)


@in_loop
async def test_a_storm_is_handed_over_now_and_then_and_its_end_for_certain() -> None:
    rig = Rig()
    until = time.monotonic() + 1.1
    while time.monotonic() < until:
        rig.around.affected(PATHS | TABLES)
        await asyncio.sleep(0.001)
    last = time.monotonic()
    rig.around.affected(PATHS | TABLES)
    await asyncio.sleep(1.2)
    assert 4 <= len(rig.of(PATHS)) <= 7
    assert 2 <= len(rig.of(TABLES)) <= 3
    assert min(rig.of(PATHS)[-1], rig.of(TABLES)[-1]) >= last - 0.3


@in_loop
async def test_what_costs_much_is_done_less_often() -> None:
    rig = Rig()
    rig.around.affected(NODE)
    rig.around.passed(0.2)
    rig.around.affected(NODE)
    assert len(rig.of(NODE)) == 1
    await asyncio.sleep(0.7)
    first, second = rig.of(NODE)
    assert second - first >= 0.4


def test_rests_end() -> None:
    pace = Pace(1.0, 50)
    pace.ended(100.0, 30.0)
    assert pace.not_before == 110.0


@in_loop
async def test_settings_that_the_kernel_tells_nobody_of_are_looked_at() -> None:
    with private_network():
        rig = Rig()
        task = asyncio.create_task(rig.around.run())
        await asyncio.sleep(0.6)
        assert rig.noted == []
        rig.settings_differ = True
        await asyncio.sleep(0.6)
        assert {affected for _, affected in rig.noted} == {PATHS, NODE}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


@in_loop
async def test_the_kernel_is_heard() -> None:
    with private_network():
        rig = Rig()
        task = asyncio.create_task(rig.around.run())
        await asyncio.sleep(0)
        ip("link", "set", "lo", "up")
        await asyncio.sleep(0.1)
        assert {affected for _, affected in rig.noted} == {PATHS, NODE, TABLES}
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
