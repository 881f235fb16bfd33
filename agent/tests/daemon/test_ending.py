"""An agent that ends while calls wait for a pass: each of them ends, and soon."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cubelet.cni.errors import TRY_AGAIN_LATER, CniError
from cubelet.cni.service import CniService
from cubelet_hooks.objects import Change

from ..cni.test_service import LOCAL, Node, params, valid
from ..helpers.aio import in_loop
from .test_loop import Rig

PODS = tuple(f"c{number}" for number in range(6))


class Ending:
    """A node with six pods whose passes get stuck, and which is then told to end."""

    def __init__(self, folder: Path) -> None:
        self.rig = Rig()
        self.rig.state.apply(Change.between(None, LOCAL))
        self.node = Node(folder)
        self.node.socket = folder / "agent.sock"
        self.service = CniService(
            self.node, self.node.ipam, self.node.wiring, self.rig.attaching, self.node.find
        )
        self._began, self._go = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def stuck(self) -> AsyncIterator[asyncio.Task[None]]:
        """Six pods are attached, and a pass is under way that does not end."""
        async with self.rig.running() as task:
            await self.rig.inbox.submit()
            for each in PODS:
                await self.service.serve(params("ADD", each))
            loop = asyncio.get_running_loop()

            def wait() -> None:
                loop.call_soon_threadsafe(self._began.set)
                asyncio.run_coroutine_threadsafe(self._go.wait(), loop).result()

            self.rig.reconciler.stuck = wait
            self.rig.inbox.wake()
            await self._began.wait()
            try:
                yield task
            finally:
                self._go.set()

    async def end(self, passes: asyncio.Task[None]) -> None:
        """As the agent does it: wait for calls for a while, then end the passes."""
        await self.service.close(0.1)
        passes.cancel()
        await asyncio.wait([passes])
        await asyncio.wait_for(self.service.close(), 5)

    @property
    def left(self) -> set[str]:
        """The containers that something is held for."""
        return {lease.container_id for lease in self.node.ipam.leases}


@in_loop
async def test_six_pods_that_go_are_gone(tmp_path: Path) -> None:
    ending = Ending(tmp_path)
    async with ending.stuck() as passes:
        going = [asyncio.create_task(ending.service.serve(params("DEL", each))) for each in PODS]
        await asyncio.sleep(0)
        await ending.end(passes)
        assert [each.result() for each in going] == [{}] * len(PODS)
        assert (ending.left, ending.node.wiring.links) == (set(), {})


@in_loop
async def test_gc_ends_with_what_it_has_removed(tmp_path: Path) -> None:
    ending = Ending(tmp_path)
    async with ending.stuck() as passes:
        gc = asyncio.create_task(ending.service.serve(params("GC", "", **valid("c0"))))
        await asyncio.sleep(0)
        await ending.end(passes)
        assert gc.result() == {}
        assert ending.left == {"c0"}


@in_loop
async def test_a_pod_that_comes_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    ending = Ending(tmp_path)
    async with ending.stuck() as passes:
        add = asyncio.create_task(ending.service.serve(params("ADD", "late")))
        await asyncio.sleep(0)
        await ending.end(passes)
        with pytest.raises(CniError, match="the agent is ending") as caught:
            add.result()
        assert caught.value.code == TRY_AGAIN_LATER
        assert ending.left == set(PODS)
        assert len(ending.node.wiring.links) == len(PODS)


@in_loop
async def test_check_and_status_wait_for_no_pass(tmp_path: Path) -> None:
    ending = Ending(tmp_path)
    async with ending.stuck() as passes:
        for call in (params("CHECK", "c0"), params("STATUS", "")):
            assert await asyncio.wait_for(ending.service.serve(call), 5) == {}
        await ending.end(passes)
