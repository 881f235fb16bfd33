"""Fixtures for tests of the flow machinery, on cubes as small as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cubelet.composer.composition import Mode
from cubelet_hooks.testing.network import TestNetwork

from .rig import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture
def make_rig(cubelet_network: TestNetwork) -> Iterator[MakeRig]:
    """Makes rigs: a mode and settings of the core."""
    made: list[Rig] = []

    def make(mode: Mode = "fused", **core: int) -> Rig:
        made.append(Rig(cubelet_network, mode, core))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture(params=["fused", "tailcall"])
def rig(make_rig: MakeRig, request: pytest.FixtureRequest) -> Rig:
    """A fresh rig, in both modes: no flow, nothing translated, all permitted."""
    return make_rig(request.param)


@pytest.fixture
def fused(make_rig: MakeRig) -> Rig:
    """A fresh rig, for what does not depend on how cubes are joined."""
    return make_rig()
