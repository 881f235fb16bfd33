"""A lab before its agents, for tests that look at its nodes first or start agents their own way."""

from __future__ import annotations

import msgspec

from cubelet.lab import admission, cluster, wire
from cubelet.lab.layout import LabSpec, Layout
from cubelet.lab.store import Store


def build(layout: Layout, spec: LabSpec) -> None:
    """Make the nodes, their wire and their objects."""
    layout.root.mkdir(parents=True)
    layout.spec.write_bytes(msgspec.json.encode(spec))
    store = Store(layout)
    for node in spec.nodes:
        store.put(cluster.node_manifest(node))
    store.put(admission.namespace("default"))
    layout.bpffs.mkdir()
    wire.build(layout, spec)
