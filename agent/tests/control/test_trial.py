"""Cubes are tried in a process of its own: what they do there is told, and harms nobody."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import MappingProxyType

import pytest

from cubelet.composer.slots import Slots
from cubelet.config.cluster import ClusterConfig, parse_config
from cubelet.config.node import Settings
from cubelet.control import trial
from cubelet.control.trial import Job, Verdict, try_out
from cubelet.cubes.keeping import Keeper
from cubelet.testkit import local_node
from cubelet_hooks.objects import Custom, Namespace

from ..helpers.aio import in_loop
from ..helpers.site import Site

OBJECTS = (Namespace("default"), Custom("Fence", "default", "a", spec=MappingProxyType({"a": 1})))
PLANS = """
    def units(self, change, view):
        return [("all", change.kind)]

    def plan(self, unit, view):
        {body}

@hookimpl"""


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    made = Site(tmp_path)
    made.state = tmp_path / "state/cubes"
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.syspath_prepend(str(made.folder))
    monkeypatch.setenv("PYTHONPATH", str(made.folder))
    return made


def job(site: Site, config: ClusterConfig | None = None, **known: object) -> Job:
    values = {
        "settings": Settings(state_dir=site.state.parent, cache_dir=site.state.parent / "cache"),
        "config": config or parse_config("insert: [{cube: gate, ports: [pod]}]"),
        "reasons": {},
        "slots": Slots(),
        "objects": OBJECTS,
        "local": None,
        "hz": 250,
        "early_xdp": False,
        "running": frozenset(),
    }
    return Job(**{**values, **known})  # type: ignore[arg-type]


def states(verdict: Verdict) -> dict[str, str]:
    return {p.name: p.reason or p.kept for p in verdict.plugins}


def spoil(site: Site, old: str, new: str) -> None:
    file = site.package / "__init__.py"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


@in_loop
async def test_what_is_sound_may_take_over(site: Site) -> None:
    site.install(1, broken="\nprint('no answer')")
    verdict = await try_out(job(site))
    assert (verdict.refused, verdict.faults, verdict.lost) == ("", {}, {})
    assert states(verdict)["gate"] == ""
    assert set(states(verdict)) >= {"bridge", "router", "gate"}
    (gate,) = [p for p in verdict.plugins if p.name == "gate"]
    assert (site.state / gate.digest / "cubelet_gate/number.py").read_text() == "NUMBER = 1\n"


RAISES = PLANS.format(body="raise ValueError('no food')")
FAULTS: list[tuple[Callable[[Site], None], str]] = [
    (
        lambda site: spoil(
            site, "    def late", "    def needed_on(self, view): return 1 / 0\n\n    def late"
        ),
        "ZeroDivisionError",
    ),
]


@pytest.mark.parametrize(("fault", "told"), FAULTS)
@in_loop
async def test_a_new_cube_that_fails_is_left_out_and_an_essential_one_refuses_all(
    site: Site, fault: Callable[[Site], None], told: str
) -> None:
    for essential in (False, True):
        site.install(1, essential)
        fault(site)
        verdict = await try_out(job(site))
        if essential:
            assert told in verdict.refused
        else:
            assert verdict.refused == ""
            assert told in verdict.faults["gate"]


@pytest.mark.parametrize("essential", [True, False])
@in_loop
async def test_an_object_that_a_new_cube_cannot_plan_is_no_reason_to_do_without_it(
    site: Site, essential: bool
) -> None:
    site.install(1, essential)
    spoil(site, "\n@hookimpl", RAISES)
    verdict = await try_out(job(site))
    assert (verdict.refused, verdict.faults, states(verdict)["gate"]) == ("", {}, "")


@in_loop
async def test_a_new_version_that_fails_leaves_the_one_in_force(site: Site) -> None:
    site.install(1)
    keeper = Keeper(site.state)
    found = keeper.discover(site.points)
    keeper.took_over(found, {"gate"})
    site.forget()
    site.install(2)
    spoil(site, "\n@hookimpl", RAISES)
    running = frozenset(plugin.digest for plugin in found.plugins)
    verdict = await try_out(job(site, running=running))
    assert (verdict.refused, verdict.faults) == ("", {})
    assert "cubelet-gate 0.2 cannot be used: planning all Namespace" in states(verdict)["gate"]


HOARDS = "hoard = [bytes(1 << 20) for _ in range(2048)]"


@pytest.mark.parametrize("where", ["import", "plan"])
@in_loop
async def test_memory_without_end_is_refused(site: Site, where: str) -> None:
    """Two gigabytes, of which the node may not have that many."""
    site.install(1, essential=False, broken=f"\n{HOARDS}" if where == "import" else "")
    if where == "plan":
        needed = f"    def needed_on(self, view):\n        {HOARDS}\n\n    def late"
        spoil(site, "    def late", needed)
    verdict = await try_out(job(site))
    # Whether what could not be imported is essential is not known: nothing takes over then.
    told = verdict.refused if where == "import" else verdict.faults["gate"]
    assert "MemoryError" in told


@in_loop
async def test_old_faults_of_what_runs_already_are_no_reason(site: Site) -> None:
    site.install(1)
    spoil(site, "\n@hookimpl", RAISES)
    keeper = Keeper(site.state)
    found = keeper.discover(site.points)
    keeper.took_over(found, {"gate"})
    site.forget()
    running = frozenset(plugin.digest for plugin in found.plugins)
    verdict = await try_out(job(site, running=running))
    assert (verdict.refused, states(verdict)["gate"]) == ("", "")


@in_loop
async def test_c_is_compiled_and_verified(site: Site) -> None:
    if os.geteuid():
        raise AssertionError("compiling and verifying needs root")
    site.install(1, essential=False)
    (site.package / "bpf/gate.bpf.c").write_text(
        '#include "cubelet.h"\n'
        "static __always_inline int gate_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)\n"
        "{\n\treturn missing;\n}\n"
    )
    local = local_node()
    verdict = await try_out(job(site, local=local))
    assert "gate.bpf.c:4: use of undeclared identifier 'missing'" in verdict.faults["gate"]


LOOP = """#include "cubelet.h"

static __always_inline int gate_count(__u32 rounds)
{
	__u32 i;

	for (i = 0; i < rounds; i++)
		asm volatile("" : "+r"(i));
	return 0;
}

static __always_inline int gate_inward(struct __sk_buff *skb, struct cubelet_pkt *pkt)
{
	return gate_count(ROUNDS) + cubelet_next(pkt);
}
"""
CHAINED = LOOP.replace("ROUNDS", "50000")
"""Too large to be fused, not to be tail-called."""
SHARED = (
    LOOP.replace("ROUNDS", "1")
    + """
static __always_inline __u16
gate_packet(struct __sk_buff *skb, const struct cubelet_headers *h, struct cubelet_flow *f)
{
	return gate_count(500000);
}
"""
)
"""Too large for the program of all packets, which is no cube's alone."""


def test_what_can_only_be_tail_called_may_take_over(site: Site) -> None:
    site.install(1, essential=False)
    (site.package / "bpf/gate.bpf.c").write_text(CHAINED)
    verdict = asyncio.run(try_out(job(site, local=local_node())))
    assert (verdict.refused, verdict.faults) == ("", {})


def test_whose_fault_it_is_is_found_if_no_log_says_so(site: Site) -> None:
    site.install(1, essential=False)
    spoil(site, "    inward =", '    per_packet = frozenset({"pod"})\n    inward =')
    (site.package / "bpf/gate.bpf.c").write_text(SHARED)
    verdict = asyncio.run(try_out(job(site, local=local_node())))
    assert verdict.refused == ""
    assert "cube gate: it cannot be composed with the other cubes" in verdict.faults["gate"]


@in_loop
async def test_a_trial_that_dies_or_does_not_end_is_a_refusal(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.install(1, broken="\nimport os\nos.write(2, b'so long')\nos._exit(7)")
    verdict = await try_out(job(site))
    assert verdict.refused == "the trial ended with status 7: so long"
    monkeypatch.setattr(trial, "_SECONDS", 2.0)
    site.install(2, broken="\nimport time\ntime.sleep(1000)")
    verdict = await try_out(job(site))
    assert verdict.refused == "the trial did not end within 2 s"
