"""The pytest plugin: fixtures for packet tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from cubelet.testkit.datapath import Datapath
    from cubelet.testkit.network import TestNetwork


@pytest.fixture(scope="module")
def cubelet_network() -> Iterator[TestNetwork]:
    """A node's devices in a network namespace of the test module's own."""
    from cubelet.testkit.network import build_network, private_network

    with private_network():
        yield build_network()


@pytest.fixture
def datapath(cubelet_network: TestNetwork) -> Iterator[Callable[..., Datapath]]:
    """Makes datapaths: call it with the arguments of :class:`cubelet.testkit.Datapath`."""
    from cubelet.testkit.datapath import Datapath

    made: list[Datapath] = []

    def make(**options: Any) -> Datapath:
        made.append(Datapath(cubelet_network, **options))
        return made[-1]

    yield make
    for each in made:
        each.close()
