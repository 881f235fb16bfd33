"""The agent's answers on its socket, except to CNI calls and cubes' commands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any

from cubelet.bpf.jiffies import Clock
from cubelet.bpf.programs import BpfProgram
from cubelet.composer.composition import Composition
from cubelet.composer.reasons import number_reasons
from cubelet.control.reconciler import Reconciler
from cubelet.cubes.context import Counts
from cubelet.cubes.discovery import Discovery
from cubelet.daemon.tables import Tables
from cubelet.datapath.cost import established_cost
from cubelet.datapath.drops import Monitor, Reasons
from cubelet.datapath.thread import OnDatapath
from cubelet.ipc.client import AgentError
from cubelet.state.cluster import State

Params = Mapping[str, Any]


class Requests:
    """Answers with status, tables and drops of the composition in force.

    ``status`` gives the agent's readiness, name and problems; ``counts`` the numbers of events and
    packets that cubes were given, by instance.
    """

    def __init__(
        self,
        state: State,
        reconciler: Reconciler,
        discovery: Discovery,
        clock: Clock,
        on_datapath: OnDatapath,
        status: Callable[[], dict[str, Any]],
        counts: Callable[[], Mapping[str, Counts]],
    ) -> None:
        self._state = state
        self._reconciler = reconciler
        self._discovery = discovery
        self._clock = clock
        self._on_datapath = on_datapath
        self._agent_status = status
        self._counts = counts
        self.monitor = Monitor(lambda: reconciler.datapath.maps, {}, ())

    def handlers(self) -> dict[str, Any]:
        """The methods by name."""
        return {
            "status": self._status,
            "composition": self._composition,
            "plugins": self._plugins,
            "get": self._get,
            "monitor": self._watch_drops,
        }

    def recomposed(self) -> None:
        """Name drops by the new composition's reasons and cubes."""
        composition = self._composed_or_wanted()
        self.monitor.reasons = self._reasons(composition)
        self.monitor.stages = ["core", *(cube.kind for cube in composition.cubes)]

    def _reasons(self, composition: Composition) -> Reasons:
        """The drop reasons of all cubes: also of those that were composed earlier."""
        cubes = (*self._discovery.cubes.values(), *map(type, composition.cubes))
        return number_reasons(cubes, composition.reasons)

    def _composed_or_wanted(self) -> Composition:
        reconciler = self._reconciler
        if reconciler.switchover.composition is not None:
            return reconciler.switchover.composition
        if reconciler.setup is None:
            raise AgentError(11, "nothing is composed yet", "see: cubelet status")
        return reconciler.setup.composition

    async def _status(self, _: Params) -> dict[str, Any]:
        local = self._state.local
        found = self._agent_status()
        waiting, problems = found.pop("waiting"), found.pop("problems")
        return {
            **found,
            "addresses": local.addresses if local else (),
            "pod_cidr": local.pod_cidr if local else None,
            "composition": self._composed() if self._reconciler.setup else None,
            "ports": len(self._state.ports),
            "waiting": waiting,
            "problems": problems,
        }

    def _composed(self) -> dict[str, Any]:
        datapath = self._reconciler.datapath
        composition, programs = self._composed_or_wanted(), datapath.programs
        setup = self._reconciler.setup
        entries: Mapping[str, BpfProgram] = programs.entries if programs else {}
        return {
            "mode": composition.mode,
            "identity": datapath.identity,
            "earlier": [] if programs else datapath.pinned(),
            "core": [cube.kind for cube in composition.core],
            "stacks": {n: [c.kind for c in cubes] for n, cubes in composition.stacks.items()},
            "excluded": setup.left_out if setup else [],
            "programs": {name: program.id for name, program in entries.items()},
        }

    async def _composition(self, _: Params) -> dict[str, Any]:
        compiled = self._reconciler.datapath.compiled
        if compiled is None:
            raise AgentError(11, "nothing is composed yet", "see: cubelet status")
        cost = await asyncio.to_thread(established_cost, compiled, self._clock)
        return self._composed() | {"cost_ns": cost}

    async def _plugins(self, _: Params) -> list[dict[str, object]]:
        active = [cube.kind for cube in self._reconciler.switchover.cubes]
        setup = self._reconciler.setup
        return self._discovery.rows(active, setup.excluded if setup else {})

    async def _get(self, params: Params) -> Any:
        composition = self._composed_or_wanted()
        reconciler = self._reconciler
        tables = Tables(
            composition,
            self._state,
            self._reasons(composition),
            lambda: reconciler.datapath.maps,
            lambda: reconciler.switchover.sweeper,
            self._counts,
            lambda: reconciler.conditions,
        )
        return await self._on_datapath(partial(tables.rows, **params))

    async def _watch_drops(self, _: Params) -> AsyncGenerator[dict[str, Any], None]:
        async for event in self.monitor.events():
            yield event
