"""What joins a lab's nodes."""

from __future__ import annotations

import pytest

from cubelet.lab import netns, wire
from cubelet.lab.layout import LabSpec, Layout, plan_nodes


def macs(name: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    lines: list[str] = []
    monkeypatch.setattr(netns, "create", lambda _: None)
    monkeypatch.setattr(netns, "ip_batch", lambda some, _: lines.extend(some))
    wire.build(Layout(name), LabSpec(name, plan_nodes(3, ()), {}))
    words = [line.split() for line in lines if " veth " in line]
    return [each[each.index("address") + 1] for each in words]


def test_nics_of_nodes_are_the_same_in_every_lab(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are compiled in: else each lab would compile everything anew."""
    found = macs("one", monkeypatch)
    assert found == macs("another", monkeypatch)
    assert len(set(found)) == 4, "three nodes and the outside"
