"""Labs for tests: each has a name of its own and is torn down, whatever the test left behind."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from contextlib import ExitStack

import msgspec
import pytest

from cubelet.lab import admission, cluster, wire
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.lab.objects import Objects
from cubelet.lab.store import Store

from .stand_in import StandInAgent

_numbers = itertools.count()


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
