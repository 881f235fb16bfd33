"""Settings that are planned into a map: in force at once, and nothing is compiled for them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from cubelet.bpf.fs import BPFFS
from cubelet.bpf.jiffies import Clock
from cubelet.composer.composition import Chain, compose
from cubelet.composer.core import Core, CoreSettings
from cubelet.config.node import Settings
from cubelet.config.setup import Setup
from cubelet.control.reconciler import Reconciler
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet.testkit.network import build_network, private_network
from cubelet.testkit.outlet import Outlet
from cubelet_hooks.flows import Index
from cubelet_hooks.objects import Change, Node

from .dial import Dial, Values

NODE = Node(
    name="node1", addresses=(ip_address("172.18.0.2"),), pod_cidrs=(ip_network("10.1.0.0/24"),)
)


@pytest.fixture
def reconciler(tmp_path: Path) -> Iterator[Reconciler]:
    """One that has put nothing in force yet."""
    bpffs = BPFFS / f"cubelet-test-dial-{os.getpid()}"
    settings = Settings(
        node_name="node1",
        bpffs=bpffs,
        cache_dir=tmp_path,
        state_dir=tmp_path,
        cni_bin=None,
        cni_conf=None,
    )
    memory = Memory(tmp_path / "memory.json")
    with private_network(), Clock() as clock:
        build_network(0)
        try:
            yield Reconciler(settings, State(), clock, memory)
        finally:
            shutil.rmtree(bpffs, ignore_errors=True)


def setup(limit: int, dial: type[Dial] = Dial) -> Setup:
    chain = Chain(core=("outlet",), stacks={"pod": ("dial",)})
    made = compose(chain, {"outlet": Outlet, "dial": dial}, {"dial": {"limit": limit}})
    return Setup(made, Core("cubelet", CoreSettings()), ())


def limit_in_force(reconciler: Reconciler) -> int:
    raw = reconciler.datapath.maps["dial0_settings"].lookup(Index(0).pack())
    assert raw is not None
    return Values.unpack(raw).limit


def test_a_changed_setting_is_written_and_nothing_is_compiled(reconciler: Reconciler) -> None:
    reconciler.propose(setup(500))
    reconciler.run([Change.between(None, NODE)])
    assert reconciler.problems == {}
    identity = reconciler.datapath.identity
    assert limit_in_force(reconciler) == 500
    reconciler.propose(setup(900))
    reconciler.run([])
    assert reconciler.problems == {}
    assert limit_in_force(reconciler) == 900
    assert reconciler.datapath.identity == identity
    # The cubes in force are those of the new settings, as their callbacks see them.
    assert reconciler.switchover.composition is not None
    (dial,) = (cube for cube in reconciler.switchover.composition.cubes if isinstance(cube, Dial))
    assert dial.settings.limit == 900


class Keeping(Dial):
    """Keeps something of each flow."""

    flow_fields = Values


def test_where_fields_stand_is_remembered_with_what_is_in_force(
    reconciler: Reconciler, tmp_path: Path
) -> None:
    reconciler.propose(setup(500, Keeping))
    reconciler.run([Change.between(None, NODE)])
    assert reconciler.problems == {}
    assert reconciler.switchover.composition is not None
    slot = reconciler.switchover.composition.slots.held["dial0"]
    assert Memory(tmp_path / "memory.json").known.slots.held == {"dial0": slot}
