"""What all units want, merged: pure, and as cheap as the change."""

from __future__ import annotations

from cubelet.control.planner import Planner
from cubelet.state.cluster import State
from cubelet_hooks.cube import Cube, Entry, Settings
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, Namespace
from cubelet_hooks.records import U32, Record


class Key(Record):
    number: U32


class Value(Record):
    number: U32


class Tagger(Cube):
    """Wants an entry for each namespace's label ``key``, with the value of its label ``value``."""

    kind = "tagger"
    maps = (Map("tags", MapType.HASH, Key, Value, 10),)

    def units(self, change, view):
        if change.new is not None and "explode" in change.new.labels:
            raise RuntimeError("no units")
        return [("tag", change.key)]

    def plan(self, unit, view):
        found = view.namespaces.get(unit[1])
        if found is not None:
            yield Entry("tags", Key(int(found.labels["key"])), Value(int(found.labels["value"])))

    def rejected(self, key, holder, other):
        return f"{key.number}: {holder[1]}, not {other[1]}"


def setup():
    return Planner([Tagger("tagger0", Settings())]), State()


def apply(planner, state, *changes):
    taken = [c for c in map(state.apply, changes) if c]
    return planner.replan(planner.units(taken, state), state)


def namespace(name, key, value):
    return Namespace(name=name, labels={"key": str(key), "value": str(value)})


def tags(**entries):
    return {
        "tagger0_tags": {
            Key(int(k[1:])).pack(): None if v is None else Value(v).pack()
            for k, v in entries.items()
        }
    }


def test_changes_come_out_once():
    planner, state = setup()
    a = namespace("a", 1, 10)
    assert apply(planner, state, Change.between(None, a)) == tags(k1=10)
    assert apply(planner, state, Change.between(a, a)) == {}
    b = namespace("a", 2, 10)
    assert apply(planner, state, Change.between(a, b)) == tags(k1=None, k2=10)
    assert apply(planner, state, Change.between(b, None)) == tags(k2=None)
    assert planner.contents() == {"tagger0_tags": {}}


def test_of_two_units_that_want_a_key_the_first_by_name_wins_whatever_the_order():
    late, early = namespace("z", 1, 26), namespace("a", 1, 1)
    for order in ((late, early), (early, late)):
        planner, state = setup()
        for each in order:
            apply(planner, state, Change.between(None, each))
        assert planner.contents()["tagger0_tags"] == {Key(1).pack(): Value(1).pack()}
        assert apply(planner, state, Change.between(early, None)) == tags(k1=26)


def test_a_plan_that_raises_keeps_what_it_wanted_and_is_named():
    planner, state = setup()
    good = namespace("a", 1, 10)
    apply(planner, state, Change.between(None, good))
    bad = Namespace(name="a", labels={"key": "x", "value": "1"})
    other = namespace("b", 2, 20)
    delta = apply(planner, state, Change.between(good, bad), Change.between(None, other))
    assert delta == tags(k2=20)
    assert "invalid literal" in planner.failures["tagger0", ("tag", "a")]
    assert len(planner.contents()["tagger0_tags"]) == 2
    apply(planner, state, Change.between(bad, good))
    assert planner.failures == {}


def test_units_that_raise_are_named_and_stop_nobody():
    planner, state = setup()
    broken = Namespace(name="a", labels={"explode": "", "key": "1", "value": "1"})
    fine = namespace("b", 2, 20)
    changes = Change.between(None, broken), Change.between(None, fine)
    assert apply(planner, state, *changes) == tags(k2=20)
    assert any("no units" in text for text in planner.failures.values())


def test_what_could_not_be_asked_is_asked_again(monkeypatch):
    planner, state = setup()
    broken = Namespace(name="a", labels={"explode": "", "key": "1", "value": "1"})
    assert apply(planner, state, Change.between(None, broken)) == {}
    monkeypatch.setattr(Tagger, "units", lambda self, change, view: [("tag", change.key)])
    assert planner.replan(planner.units([], state), state) == tags(k1=1)
    assert planner.failures == {}


def test_what_several_units_want_differently_is_told_as_the_cube_puts_it():
    planner, state = setup()
    for each in (namespace("a", 1, 1), namespace("b", 1, 1)):
        apply(planner, state, Change.between(None, each))
    assert planner.rejected() == []
    apply(planner, state, Change.between(None, namespace("c", 1, 2)))
    assert planner.rejected() == ["1: a, not c"]
    apply(planner, state, Change.between(None, namespace("A", 1, 3)))
    assert planner.rejected() == ["1: A, not a", "1: A, not b", "1: A, not c"]
    for name in ("A", "c"):
        apply(planner, state, Change.between(state.namespaces[name], None))
    assert planner.rejected() == []
