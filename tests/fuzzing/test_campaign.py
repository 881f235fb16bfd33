"""A million frames through the real programs, and what is known to be wrong with them."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Iterator
from datetime import date
from typing import cast

import pytest

from cubelet.bpf.layout import possible_cpus
from cubelet.composer.composition import Mode
from cubelet.datapath.shared import SharedWords
from cubelet.testkit.network import private_network
from cubelet_hooks.flows import SHARE_TOTAL
from fuzz.__main__ import ENOUGH, main, show
from fuzz.campaign import Campaign, Report, Run, shrink
from fuzz.conversations import Step
from fuzz.known import KNOWN
from fuzz.machine import Machine, network

from .examples import EXAMPLES

FRAMES = 500_000
"""In each of two modes."""
SEED = date.today().toordinal()  # noqa: DTZ011 - other frames each day, the same for all that day


@pytest.fixture(scope="module", params=["fused", "tailcall"])
def machine(request: pytest.FixtureRequest) -> Iterator[Machine]:
    with private_network():
        made = Machine(network(), cast(Mode, request.param))
        try:
            yield made
        finally:
            made.close()


def test_nothing_unknown_is_violated(machine: Machine) -> None:
    report = Campaign(machine, SEED).run(FRAMES)
    assert not report.failures, "\n".join(map(str, report.failures))
    assert report.frames >= FRAMES
    # of all that can become of frames, a good part was seen
    assert report.outcomes["sent"] > FRAMES // 4
    assert report.outcomes["answered"] > FRAMES // 100
    wanted = {"kept", "core/malformed", "core/spoofed", "core/unrelated", "core/martian"}
    wanted |= {"core/no_flow", "core/source_route", "core/tunnel_port", "nat/no_ports"}
    wanted |= {"firewall/ingress_denied", "firewall/egress_denied", "bridge/arp_spoofed"}
    wanted |= {"bridge/unfiltered", "core/ttl", "core/client_gone", "leave", "come"}
    assert wanted <= report.outcomes.keys()


@pytest.mark.parametrize("name", KNOWN)
def test_known_faults_are_still_there(machine: Machine, name: str) -> None:
    """Fails for one that was mended: then it is no longer known, and its lines go away."""
    run = Run(machine)
    found = {each.name for step in EXAMPLES[name](run.oracle) for each in run.take(step)}
    assert name in found, f"{name} is mended: remove it from fuzz/known.py and from EXAMPLES"


def test_every_example_is_of_a_known_fault() -> None:
    assert EXAMPLES.keys() == KNOWN.keys()


def test_a_failure_is_told_with_the_steps_that_are_enough(machine: Machine) -> None:
    """As if a fault that is known were not."""
    report = Campaign(machine, 1, known=KNOWN.keys() - {"other_mac"}).run(20_000)
    (failure,) = report.failures
    assert failure.violation.name == "other_mac"
    assert len(failure.steps) <= 3
    assert failure.steps[-1].entry == "uplink"
    assert f"./dev fuzz --seed 1 --case {failure.case} --mode {machine.mode}" in str(failure)
    run = Run(machine)
    assert "other_mac" in {each.name for step in failure.steps for each in run.take(step)}


def test_a_case_fills_the_table_of_replied_flows(machine: Machine) -> None:
    """Owners meet their shares, and of what closes the oldest is pushed out."""
    campaign, settings = Campaign(machine, SEED), machine.path.core.settings
    most_live = most_closed = 0
    held = SharedWords(machine.path.maps["cubelet_shares"])
    try:
        for case in range(20):
            before = _closed(machine)
            campaign.case(case)
            most_live = max(most_live, held.words[SHARE_TOTAL])
            most_closed = max(most_closed, _closed(machine) - before)
    finally:
        held.close()
    assert most_live > settings.live_flows // 2
    assert most_closed > settings.closing // possible_cpus()


def _closed(machine: Machine) -> int:
    """How many connections have begun to close."""
    counts = machine.path.maps["cubelet_closing_heads"].lookup(bytes(4)) or b""
    return sum(struct.unpack(f"={len(counts) // 8}Q", counts))


def test_shrinking_keeps_what_is_needed() -> None:
    steps = [Step(str(n)) for n in range(100)]
    needed = {"3", "50", "51", "99"}
    found = shrink(steps, lambda some: needed <= {step.entry for step in some})
    assert [step.entry for step in found] == sorted(needed, key=int)


def test_what_was_not_met_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    met = Counter(dict.fromkeys(list(KNOWN)[1:], 1))
    report = Report(frames=ENOUGH, seconds=1, known=met)
    assert show("fused", [report])
    assert f"not met: {next(iter(KNOWN))};" in capsys.readouterr().out
    report.known[next(iter(KNOWN))] = 1
    assert not show("fused", [report])


def test_the_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seed", "3", "--frames", "800", "--mode", "fused"]) == 0
    told = capsys.readouterr()
    assert "fuzz: seed 3" in told.err
    assert told.out.startswith("fused: ")
