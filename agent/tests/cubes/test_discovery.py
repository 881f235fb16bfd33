"""Discovery: every plugin by itself, so that a broken one is quarantined and the rest run."""

from __future__ import annotations

import sys
from dataclasses import replace
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from cubelet.cubes.discovery import BadCubeError, check_cube, discover
from cubelet_hooks.cube import Cube, Reason
from cubelet_hooks.flows import Count, Index
from cubelet_hooks.hookspecs import ENTRY_POINT_GROUP
from cubelet_hooks.maps import Earlier, Map, MapType
from cubelet_hooks.metrics import Metric
from cubelet_hooks.records import U32, Record
from cubelet_hooks.resources import Resource

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
        "metrics": [],
        "commands": "",
        "watches": [],
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


BUDGET = Resource("Budget", "example.com/v1", "budgets")
LEFT = Metric("left_bytes", "gauge", "Bytes left.", ("pod",))
RATES = Map("rates", MapType.HASH, Index, Count, 8)


def following(leader, key=Index, planned=False):
    """A map that goes with another one's entries."""
    return Map("seen", MapType.HASH, key, Count, 8, planned=planned, follows=leader)


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"metrics": (replace(LEFT, name="Left"),)}, "its name must be lower-case words"),
        ({"metrics": (replace(LEFT, name="left_total"),)}, "leave _total out"),
        (
            {"metrics": (replace(LEFT, kind="histogram"),)},  # type: ignore[arg-type]
            "'histogram', none of counter, gauge",
        ),
        ({"metrics": (replace(LEFT, help=""),)}, "it has no help"),
        ({"metrics": (replace(LEFT, labels=("po-d",)),)}, "its label 'po-d' must be"),
        ({"metrics": (replace(LEFT, labels=("instance",)),)}, "its label 'instance' is taken"),
        ({"metrics": (replace(LEFT, labels=("a", "a")),)}, "one label twice"),
        ({"metrics": (LEFT, replace(LEFT, labels=()))}, "'left_bytes' is declared twice"),
        ({"metrics": (LEFT,), "kind": "map"}, "cubelet_map_... is the agent's own"),
        ({"commands": "odd.commands"}, "'package.module:app' is expected"),
        ({"commands": "odd:app", "kind": "status"}, "`cubelet status` is cubelet's own"),
        ({"watches": (replace(BUDGET, kind="Pod"),)}, "every cube sees objects of this kind"),
        ({"watches": (replace(BUDGET, kind="budget"),)}, "must be in CamelCase"),
        ({"watches": (replace(BUDGET, kind="BudgetList"),)}, "not end in List"),
        ({"watches": (replace(BUDGET, api_version="v1"),)}, "is 'v1', not such as"),
        ({"watches": (replace(BUDGET, plural="Budgets"),)}, "its plural is 'Budgets'"),
        (
            {"watches": (BUDGET, replace(BUDGET, plural="b"))},
            "clashes with its own Budget (budgets.example.com, example.com/v1)",
        ),
        ({"annotations": ("example.com",)}, "'example.com/' for all of a domain"),
        ({"annotations": ("",)}, "'example.com/key'"),
        ({"maps": (following("rates"),)}, "'seen' follows 'rates', which is no planned map"),
        (
            {"maps": (RATES, following("rates", key=Count))},
            "'seen' has keys of Count, and 'rates', which it follows, has keys of Index",
        ),
        ({"maps": (RATES, following("rates", planned=True))}, "'seen': what is planned"),
        ({"maps": (replace(RATES, planned=False), following("rates"))}, "which is no planned map"),
        (
            {"maps": (replace(RATES, earlier=(Earlier(Index, Count, lambda k, v: (k, v)),)),)},
            "map 'rates': nothing is carried over into a planned map",
        ),
        ({"gone": frozenset({"Budget"})}, "gone: 'Budget' is no kind of object that it sees"),
    ],
)
def test_what_a_cube_offers_is_checked(attributes, message):
    sound = {
        "metrics": (LEFT,),
        "watches": (BUDGET,),
        "annotations": ("example.com/",),
        "maps": (RATES, following("rates")),
        "gone": frozenset({"Budget", "Port"}),
    }
    source = classmethod(lambda cls: Path(__file__))
    check_cube(type("Odd", (Cube,), {"kind": "odd", "source": source, **sound}))
    broken = type("Odd", (Cube,), {"kind": "odd", "source": source, **attributes})
    with pytest.raises(BadCubeError) as caught:
        check_cube(broken)
    assert message in str(caught.value)


OFFERING = """
from pathlib import Path
from cubelet_hooks.cube import Cube
from cubelet_hooks.hookspecs import hookimpl
from cubelet_hooks.metrics import Metric
from cubelet_hooks.resources import Resource

class {name}(Cube):
    kind = "{kind}"
    commands = "no_such_module:app"
    metrics = (Metric("seen", "counter", "Packets seen."),)
    watches = (Resource("Budget", "{group}/v1", "budgets"),)

    @classmethod
    def source(cls):
        return Path(__file__)

@hookimpl
def cubelet_cubes():
    return [{name}]
"""


def offering(kind, group="example.com"):
    return OFFERING.format(name=kind.title(), kind=kind, group=group)


def test_two_cubes_may_watch_one_kind_if_they_mean_the_same(plugin):
    points = [
        plugin("one", offering("one")),
        plugin("same", offering("same")),
        plugin("two", offering("two", "example.org")),
    ]
    found = discover(points)
    assert set(found.cubes) == {"one", "same"}
    assert found.watches == {"Budget": BUDGET}
    rows = {row["kind"]: row for row in found.rows()}
    assert "clashes with the cube one's Budget" in str(rows["two"]["reason"])
    assert (rows["one"]["metrics"], rows["one"]["commands"], rows["one"]["watches"]) == (
        ["cubelet_one_seen_total"],
        "cubelet one",
        ["budgets.example.com"],
    )
    assert rows["two"]["metrics"] == []


def test_a_cube_with_commands_is_found_by_its_kind(plugin):
    found = discover([plugin("other", offering("one"))])
    assert found.cubes == {}
    assert "its entry point is called other" in found.plugins[0].reason
