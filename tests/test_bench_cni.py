"""The benchmark of CNI calls measures both plugins, and leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from bench import cni
from cubelet.lab.layout import RUN_ROOT


def test_every_call_is_measured_with_both_plugins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cni, "PODS", 3)
    rows = {(row.case, row.variant): row for row in cni.run()}
    cases = [f"{command}, {at_once}" for command in ("ADD", "DEL") for at_once in cni.AT_ONCE]
    assert set(rows) == {
        (f"{case}{suffix}", plugin)
        for case in cases
        for suffix in ("", ", p99")
        for plugin in ("C", "Python")
    }
    assert all(row.median > 0 for row in rows.values())
    assert all(rows[case, plugin].runs == 3 for case in cases for plugin in ("C", "Python"))
    assert not (RUN_ROOT / f"b{os.getpid()}").exists()
    assert not list(Path("/run/netns").glob(f"cubelet-b{os.getpid()}-*"))
