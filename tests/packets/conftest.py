"""Fixtures for tests of the flow machinery, on cubes as small as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cubelet.composer.composition import Mode
from cubelet.testkit.network import TestNetwork

from .rig import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture(scope="module")
def rigs(cubelet_network: TestNetwork) -> Iterator[MakeRig]:
    """A mode's rig with these settings of the core, one for the whole module."""
    made: dict[object, Rig] = {}

    def take(mode: Mode = "fused", **core: int) -> Rig:
        key = (mode, *sorted(core.items()))
        if key not in made:
            made[key] = Rig(cubelet_network, mode, core)
        return made[key]

    yield take
    for each in made.values():
        each.close()


@pytest.fixture
def make_rig(rigs: MakeRig) -> MakeRig:
    """Makes rigs as if fresh: a mode and settings of the core."""

    def make(mode: Mode = "fused", **core: int) -> Rig:
        rig = rigs(mode, **core)
        rig.reset()
        return rig

    return make


@pytest.fixture(params=["fused", "tailcall"])
def rig(make_rig: MakeRig, request: pytest.FixtureRequest) -> Rig:
    """In both modes: no flow, nothing translated, all permitted."""
    return make_rig(request.param)


@pytest.fixture
def fused(make_rig: MakeRig) -> Rig:
    """The same, for what does not depend on how cubes are joined."""
    return make_rig()
