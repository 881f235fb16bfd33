"""The one thread that touches maps and programs: a pass may replace them all."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

T = TypeVar("T")
OnDatapath = Callable[..., Awaitable[Any]]
"""Runs a function with these arguments on the datapath thread: :meth:`DatapathThread.run`."""


class DatapathThread:
    """Runs functions one after another, in the order of the calls."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, "datapath")

    def run(self, work: Callable[..., T], *arguments: Any) -> Awaitable[T]:
        """Run a function on the datapath thread; awaiting gives its result or its exception."""
        return asyncio.get_running_loop().run_in_executor(self._worker, work, *arguments)

    async def close(self) -> None:
        """Wait until all functions handed over have run."""
        await asyncio.to_thread(self._worker.shutdown)
