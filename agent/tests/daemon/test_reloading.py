"""Cubes that are installed while an agent runs join it, or it is told why they do not."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import AsyncIterator, Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from cubelet.composer.slots import Slots
from cubelet.config.cluster import KEY
from cubelet.config.live import Configuration
from cubelet.config.node import Settings
from cubelet.config.setup import Setup
from cubelet.control.trial import Job
from cubelet.cubes.keeping import Keeper
from cubelet.daemon import reloading
from cubelet.daemon.reloading import Reloader
from cubelet.ipc.client import AgentError
from cubelet.state.last_known import Memory
from cubelet_hooks.objects import Change, ConfigMap

from ..helpers.aio import in_loop
from ..helpers.site import Site

INSERTED = "insert: [{cube: gate, ports: [pod]}]"


class Rig:
    """An agent whose passes put in force what is proposed, unless it is to be ``refused``."""

    def __init__(self, site: Site) -> None:
        self.settings = Settings(state_dir=site.state.parent, cache_dir=site.state.parent / "cache")
        self.keeper = Keeper(site.state)
        self.discovery = self.keeper.discover()
        self.proposed: list[Setup] = []
        memory = Memory(site.state.parent / "memory.json")
        self.configuration = Configuration(
            self.settings, self.discovery, memory, self.proposed.append
        )
        self.refused = ""
        self.learned: list[set[str]] = []
        reconciler: Any = SimpleNamespace(setup=None, switchover=SimpleNamespace(cubes=()))
        self.reconciler = reconciler
        feed: Any = SimpleNamespace(learn=self._learn)
        self.reloader = Reloader(
            self.discovery,
            self.keeper,
            self.configuration,
            reconciler,
            feed,
            self._job,
            self.pass_,
        )
        self.handlers = self.reloader.handlers()

    async def _learn(self, annotations: Iterable[str], watches: object) -> None:
        self.learned.append(set(annotations))

    async def _job(self) -> Job:
        return Job(
            self.settings,
            self.configuration.present,
            {},
            Slots(),
            (),
            None,
            250,
            False,
            frozenset(plugin.digest for plugin in self.discovery.plugins),
        )

    def pass_(self, *changes: Change) -> None:
        self.configuration.follow(changes)
        if self.configuration.settle(self.refused, in_force=bool(self.reconciler.setup)):
            return
        setup = self.reconciler.setup = self.proposed[-1]
        self.reconciler.switchover.cubes = setup.composition.cubes
        self.keeper.took_over(self.discovery, {cube.kind for cube in setup.composition.cubes})

    def configure(self, text: str) -> None:
        config_map = ConfigMap("kube-system", "cubelet", {KEY: text})
        self.pass_(Change(ConfigMap.kind, "kube-system/cubelet", None, config_map))
        assert self.configuration.problem == ""

    async def reload(self) -> dict[str, Any]:
        return {row["kind"]: row for row in await self.handlers["reload"]({})}

    @property
    def release(self) -> int:
        return int(self.discovery.cubes["gate"].release)  # type: ignore[attr-defined]

    @contextlib.asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.reloader.run())
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    made.state = tmp_path / "state/cubes"
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.syspath_prepend(str(made.folder))
    monkeypatch.setenv("PYTHONPATH", str(made.folder))
    return made


@in_loop
async def test_a_new_cube_joins_is_upgraded_breaks_and_goes(site: Site) -> None:
    rig = Rig(site)
    rig.pass_()
    bridge = rig.discovery.cubes["bridge"]
    site.install(1, essential=False)
    assert (await rig.reload())["gate"]["state"] == "inactive"
    rig.configure(INSERTED)
    site.install(2, essential=False)
    row = (await rig.reload())["gate"]
    assert (row["state"], row["version"], rig.release) == ("active", "0.2", 2)
    assert rig.discovery.cubes["bridge"] is bridge, "what has not changed is not imported again"
    site.install(3, essential=False, broken="\nraise ValueError('no')")
    row = (await rig.reload())["gate"]
    assert (row["state"], row["version"], rig.release) == ("kept", "0.2", 2)
    assert "ValueError: no" in row["reason"]
    rig.configure("")
    site.uninstall()
    assert "gate" not in await rig.reload()


@in_loop
async def test_what_does_not_take_over_leaves_what_runs(site: Site) -> None:
    site.install(1)
    rig = Rig(site)
    rig.pass_()
    rig.configure(INSERTED)
    before = rig.discovery.cubes["gate"]
    site.install(2)
    rig.refused = "refused by the verifier"
    with pytest.raises(AgentError, match="those that run go on") as caught:
        await rig.reload()
    assert caught.value.details == "refused by the verifier"
    assert any("do not take over: refused by" in each for each in rig.reloader.problems())
    assert sum(each.is_dir() for each in site.state.iterdir()) == len(rig.discovery.plugins)
    assert rig.discovery.cubes["gate"] is before
    assert before.late(None) == 1  # type: ignore[attr-defined]
    rig.refused = ""
    await rig.reload()
    assert rig.release == 2


@in_loop
async def test_who_does_not_wait_for_the_answer_harms_nobody(site: Site) -> None:
    rig = Rig(site)
    rig.pass_()
    site.install(1)
    asking = asyncio.create_task(rig.reload())
    await asyncio.sleep(0.1)
    asking.cancel()
    async with asyncio.timeout(30):
        while "gate" not in rig.discovery.cubes:
            await asyncio.sleep(0.05)
    assert rig.discovery.cubes["gate"].source().is_file()


@in_loop
async def test_another_agent_on_disk_is_not_reloaded_into_this_one(site: Site) -> None:
    rig = Rig(site)
    rig.pass_()
    info = site.folder / "cubelet_hooks-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: cubelet-hooks\nVersion: 9\n")
    with pytest.raises(AgentError) as caught:
        await rig.reload()
    assert caught.value.details.endswith("remedy: restart the agent")


@in_loop
async def test_an_essential_cube_goes_when_it_is_said_to(site: Site) -> None:
    site.install(1)
    rig = Rig(site)
    rig.pass_()
    rig.configure(INSERTED)
    with pytest.raises(AgentError, match="no nobody was in force"):
        await rig.handlers["forget"]({"kind": "nobody"})
    site.uninstall()
    row = (await rig.reload())["gate"]
    assert row["state"] == "kept"
    assert "is not installed any more" in row["reason"]
    (problem,) = rig.reloader.problems()
    assert problem.startswith("cube gate is kept: cubelet-gate 0.1 runs on: cubelet-gate is not")
    with pytest.raises(AgentError) as caught:  # the configuration still asks for it
        await rig.handlers["forget"]({"kind": "gate"})
    assert "no installed cube is called gate" in caught.value.details
    assert rig.release == 1
    assert "gate" in Rig(site).discovery.cubes, "nor is it forgotten by the next agent"
    rig.configure("")
    rows = await rig.handlers["forget"]({"kind": "gate"})
    assert "gate" not in {row["kind"] for row in rows}
    assert "gate" not in Rig(site).discovery.cubes


@in_loop
async def test_what_is_installed_joins_by_itself_once(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "_LOOK", 0.2)
    rig = Rig(site)
    rig.pass_()
    proposed = len(rig.proposed)
    async with rig.watching():
        site.install(1)
        async with asyncio.timeout(30):
            while "gate" not in rig.discovery.cubes:
                await asyncio.sleep(0.05)
        await asyncio.sleep(1)
    assert len(rig.proposed) == proposed + 1
