"""Labs for tests: each has a name of its own and is torn down, whatever the test left behind."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import msgspec
import pytest

from cubelet.lab import admission, cluster, wire
from cubelet.lab.kinds import Key
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.lab.objects import Objects
from cubelet.lab.store import Store

from .stand_in import StandInAgent
from .world import QUICK, Space, World

_numbers = itertools.count()

POD_CIDRS = ("192.168.1.0/24", "10.244.2.0/24")
"""The first node's has the addresses that policy cases name."""

Up = Callable[..., World]


def _up(layout: Layout, cidrs: tuple[str, ...]) -> World:
    spec = LabSpec(layout.name, plan_nodes(len(cidrs), cidrs), QUICK)
    cluster.up(layout, spec, lambda _: None)
    return World(layout, spec)


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """The lab of two nodes that tests share; what they leave is no one's but theirs."""
    layout = Layout(f"w{os.getpid()}")
    try:
        yield _up(layout, POD_CIDRS)
    finally:
        cluster.down(layout)


@pytest.fixture(scope="session")
def small() -> Iterator[World]:
    """A lab of one node with five addresses for pods."""
    layout = Layout(f"s{os.getpid()}")
    try:
        yield _up(layout, ("10.244.9.0/29",))
    finally:
        cluster.down(layout)


def _space(world: World) -> Iterator[Space]:
    space = Space(world, f"t{next(_numbers)}")
    try:
        yield space
    finally:
        world.delete(Key("Namespace", "", space.name))


@pytest.fixture
def space(world: World) -> Iterator[Space]:
    """A Kubernetes namespace in the shared lab; what is in it goes with it."""
    yield from _space(world)


@pytest.fixture
def small_space(small: World) -> Iterator[Space]:
    """A Kubernetes namespace in the small lab."""
    yield from _space(small)


@pytest.fixture
def layout() -> Iterator[Layout]:
    """The names of a lab that does not exist yet."""
    lab = Layout(f"t{os.getpid()}x{next(_numbers)}")
    try:
        yield lab
    finally:
        cluster.down(lab)


@pytest.fixture
def spec(layout: Layout) -> LabSpec:
    """Two nodes."""
    return LabSpec(layout.name, plan_nodes(2, ()), {})


@pytest.fixture
def objects(layout: Layout, spec: LabSpec) -> Iterator[Objects]:
    """A lab with its wire and its outside, whose agents are stand-ins that use plain routing."""
    layout.root.mkdir(parents=True)
    layout.spec.write_bytes(msgspec.json.encode(spec))
    store = Store(layout)
    for node in spec.nodes:
        store.put(cluster.node_manifest(node))
    store.put(admission.namespace("default"))
    wire.build(layout, spec)
    wire.serve_outside(layout)
    with ExitStack() as stack:
        for node in spec.nodes:
            stack.enter_context(StandInAgent(layout, spec, node))
        yield Objects(layout, spec)
