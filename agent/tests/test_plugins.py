"""Discovery: every plugin by itself, so that a broken one is quarantined and the rest run."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint

import pytest

from cubelet.plugins import BadCubeError, check_cube, discover
from cubelet_hooks.cube import Cube, Reason
from cubelet_hooks.hookspecs import ENTRY_POINT_GROUP
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import U32, Record

BUILT_IN = {"bridge", "firewall", "lbrp", "nat", "router"}
PLUGIN = """
from pathlib import Path
from cubelet_hooks.cube import Cube
from cubelet_hooks.hookspecs import hookimpl

class {name}(Cube):
    kind = "{kind}"
    abi = {abi}

    @classmethod
    def source(cls):
        return Path(__file__)

@hookimpl
def cubelet_cubes():
    return [{name}]
"""


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    """Makes an entry point to a module with this text."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def make(name, text):
        monkeypatch.delitem(sys.modules, f"{name}_module", raising=False)
        (tmp_path / f"{name}_module.py").write_text(text)
        return EntryPoint(name, f"{name}_module", ENTRY_POINT_GROUP)

    return make


def cube_text(kind, abi=1):
    return PLUGIN.format(name=kind.title(), kind=kind, abi=abi)


def test_the_built_in_cubes_are_found_like_any_others():
    found = discover()
    assert set(found.cubes) >= BUILT_IN
    rows = {row["kind"]: row for row in found.rows(active=["nat"])}
    assert rows["nat"]["state"] == "active"
    assert rows["lbrp"]["state"] == "inactive"
    assert rows["nat"] | {"version": ""} == {
        "kind": "nat",
        "distribution": "cubelet-nat",
        "version": "",
        "hooks": ["cubelet_cubes"],
        "state": "active",
        "reason": "",
    }


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("import nothing_like_it", "ModuleNotFoundError"),
        ("raise SystemError('no')", "SystemError: no"),
        (cube_text("old", abi=0), "old is built for ABI 0, this cubelet has 1"),
        (cube_text("tcp"), "the kind 'tcp' is not usable"),
        (cube_text("fine"), "another package already offers the kind fine"),
        (
            "from cubelet_hooks.hookspecs import hookimpl\n@hookimpl\ndef cubelet_cube(): ...",
            "cubelet_cube",
        ),
    ],
)
def test_a_broken_plugin_is_quarantined_and_the_rest_run(plugin, text, reason):
    points = [
        plugin("afine", cube_text("fine")),
        plugin("broken", text),
        plugin("zed", cube_text("zed")),
    ]
    found = discover(points)
    assert set(found.cubes) == {"fine", "zed"}
    broken = next(row for row in found.rows() if row["state"] == "quarantined")
    assert reason in str(broken["reason"])
    assert found.manager.hook.cubelet_cubes()
    assert len(found.manager.get_plugins()) == 2


class Number(Record):
    number: U32


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"inward": frozenset({"door"})}, "unknown port classes door"),
        ({"reasons": (Reason("x", ""),) * 65}, "more than 64 drop reasons"),
        (
            {"maps": (Map("number", MapType.HASH, Number, Number, 1),)},
            "a map and a record are both called number in C",
        ),
        ({}, "its C source"),
    ],
)
def test_a_class_that_breaks_the_contract_is_told_how(attributes, message):
    broken = type("Odd", (Cube,), {"kind": "odd", **attributes})
    with pytest.raises(BadCubeError) as caught:
        check_cube(broken)
    assert message in str(caught.value)
