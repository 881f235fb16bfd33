"""Fixtures for tests of the flow machinery, on cubes as small as can be."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from cubelet.composer.composition import Mode
from cubelet.testkit.network import TestNetwork
from cubelet_hooks.records import Family

from .rig import Rig

MakeRig = Callable[..., Rig]


@pytest.fixture(scope="module")
def rigs(cubelet_network: TestNetwork) -> Iterator[MakeRig]:
    """A mode's rig with these settings of the core, one for the whole module."""
    made: dict[object, Rig] = {}

    def take(mode: Mode = "fused", family: Family = 4, **core: int) -> Rig:
        key = (mode, family, *sorted(core.items()))
        if key not in made:
            made[key] = Rig(cubelet_network, mode, core, family)
        return made[key]

    yield take
    for each in made.values():
        each.close()


@pytest.fixture
def make_rig(rigs: MakeRig) -> MakeRig:
    """Makes rigs as if fresh: a mode and settings of the core."""

    def make(mode: Mode = "fused", family: Family = 4, **core: int) -> Rig:
        rig = rigs(mode, family, **core)
        rig.reset()
        return rig

    return make


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A module's ``FAMILIES`` are those that its cases serve; IPv4 alone if it names none."""
    families = getattr(metafunc.module, "FAMILIES", (4,))
    for name, modes in {"rig": ("fused", "tailcall"), "fused": ("fused",)}.items():
        if name in metafunc.fixturenames:
            ways = [(mode, family) for family in families for mode in modes]
            ids = [mode if family == 4 else f"{mode}-ipv6" for mode, family in ways]
            metafunc.parametrize(name, ways, indirect=True, ids=ids)


@pytest.fixture
def rig(make_rig: MakeRig, request: pytest.FixtureRequest) -> Rig:
    """In both modes: no flow, nothing translated, all permitted."""
    return make_rig(*request.param)


@pytest.fixture
def fused(make_rig: MakeRig, request: pytest.FixtureRequest) -> Rig:
    """The same, for what does not depend on how cubes are joined."""
    return make_rig(*request.param)
