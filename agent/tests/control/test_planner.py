"""What all units want, merged: pure, and as cheap as the change."""

from __future__ import annotations

from typing import Any

import pytest

from cubelet.control.planner import Planner
from cubelet.state.cluster import State
from cubelet_hooks.cube import Complaint, Cube, Entry, Part, Settings
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, Namespace, Pod
from cubelet_hooks.records import U32, Record


class Key(Record):
    number: U32


class Value(Record):
    number: U32


ODD = {
    "map": Entry("tag", Key(1), Value(1)),
    "unplanned": Entry("seen", Key(1), Value(1)),
    "value": Entry("tags", Key(1), Key(1)),
    "key": Entry("tags", "1", Value(1)),  # type: ignore[arg-type]
    "size": Entry("tags", Key(1 << 32), Value(1)),
    "type": Entry("tags", Key("1"), Value(1)),  # type: ignore[arg-type]
    "rank": Entry("tags", Key(1), Value(1), 5),  # type: ignore[arg-type]
    "ranks": Entry("tags", Key(1), Value(1), [5]),  # type: ignore[arg-type]
    "list": [("tags", 1, 1)],
    "none": None,
}


class Tagger(Cube):
    """Wants an entry for each namespace's label ``key``, with the value of its label ``value``.

    Labels say its ``rank`` too, and what the plan says that is ``wrong``.
    """

    kind = "tagger"
    maps = (
        Map("tags", MapType.HASH, Key, Value, 10),
        Map("seen", MapType.HASH, Key, Value, 10, planned=False),
    )

    def units(self, change, view):
        if change.new is not None and "explode" in change.new.labels:
            raise RuntimeError("no units")
        return [("tag", change.key)]

    def plan(self, unit, view):
        found = view.namespaces.get(unit[1])
        if found is not None:
            labels = found.labels
            given = labels.get("rank")
            rank = (int(given) if given.isdecimal() else given,) if given else ()
            yield Entry("tags", Key(int(labels["key"])), Value(int(labels["value"])), rank)
            if "second" in labels:
                yield Entry("tags", Key(int(labels["key"])), Value(int(labels["second"])), (9,))
            if "wrong" in labels:
                yield complaint(unit[1], labels["wrong"])
            if "odd" in labels:
                yield ODD[labels["odd"]]

    def rejected(self, key, holder, other):
        if key.number == 7:
            return complaint(other[1], f"{holder[1]} has it")
        return f"{key.number}: {holder[1]}, not {other[1]}"


def careless(made: Any) -> Any:
    """As who checks no types makes it."""
    return made


def complaint(name, message):
    return Complaint("Namespace", name, "Wrong", message)


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ("map", "an entry of 'tag', which is no map of the cube; its maps: tags, seen"),
        ("unplanned", "an entry of seen, which is not planned: its Map says planned=False"),
        ("value", "tags holds Key and Value, not Key and Key"),
        ("key", "tags holds Key and Value, not str and Value"),
        ("size", "an entry of tags does not fit: Key.number: "),
        ("type", "an entry of tags does not fit: Key.number: "),
        ("rank", "an entry of tags has the rank 5, which is no tuple of int"),
        ("ranks", "an entry of tags has the rank [5], which is no tuple of int"),
        ("list", "the plan gives [('tags', 1, 1)], which is neither Entry nor Complaint"),
        ("none", "the plan gives None, which is neither Entry nor Complaint"),
    ],
)
def test_what_is_no_entry_of_a_planned_map_is_told_with_cube_unit_and_map(odd, told):
    planner, state = setup()
    apply(planner, state, Change.between(None, namespace("a", 1, 1)))
    assert apply(planner, state, Change.between(None, namespace("b", 2, 2, odd=odd))) == {}
    assert apply(planner, state, Change.between(None, namespace("c", 3, 3))) == tags(k3=3)
    (error,) = planner.failures.values()
    assert error.startswith(f"cube tagger0, unit tag b: {told}"), error
    mended = Change.between(None, namespace("b", 2, 2))
    assert apply(planner, state, mended) == tags(k2=2)
    assert planner.failures == {}


def test_what_is_no_part_is_told_with_cube_and_unit(monkeypatch):
    monkeypatch.setattr(Tagger, "parts", lambda *_: ["tags"])
    planner, state = setup()
    apply(planner, state, Change.between(None, namespace("a", 1, 1)))
    (error,) = planner.failures.values()
    assert error == "cube tagger0, unit tag a: parts gives 'tags', which is no Part"


def setup():
    return Planner([Tagger("tagger0", Settings())]), State()


def apply(planner, state, *changes):
    taken = [c for c in map(state.apply, changes) if c]
    return planner.replan(planner.units(taken, state), state)


def namespace(name, key, value, **labels):
    return Namespace(name=name, labels={"key": str(key), "value": str(value), **labels})


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
    (told,) = planner.complaints()
    assert (told.kind, told.key, told.reason) == ("Namespace", "a", "NotPlanned")
    assert told.message.startswith("tagger0: not planned, left as it was: RuntimeError('no units')")


def test_what_could_not_be_asked_is_asked_again(monkeypatch):
    planner, state = setup()
    broken = Namespace(name="a", labels={"explode": "", "key": "1", "value": "1"})
    assert apply(planner, state, Change.between(None, broken)) == {}
    monkeypatch.setattr(Tagger, "units", lambda self, change, view: [("tag", change.key)])
    assert planner.replan(planner.units([], state), state) == tags(k1=1)
    assert planner.failures == {}


def test_what_makes_units_raise_is_its_own_namespaces_and_asked_again_once(monkeypatch):
    """Each change of an object that a cube cannot stand is one thing to ask for, not one more."""
    planner, state = setup()
    asked = []

    def explode(self, change, view):
        asked.append(change.key)
        raise RuntimeError("no units")

    monkeypatch.setattr(Tagger, "units", explode)
    monkeypatch.setattr(Tagger, "essential", True)
    for number in range(5):
        pod = Pod(namespace="tenant", name="a", labels={"n": str(number)})
        apply(planner, state, Change.between(None, pod))
    assert "no units" in planner.holds_up("tenant", "tenant/other")
    assert planner.holds_up("innocent", "innocent/pod") == ""
    asked.clear()
    assert planner.units([], state) == set()
    assert asked == ["tenant/a"]
    assert planner.forgiven() == set()


@pytest.mark.parametrize(
    ("method", "answer"),
    [
        ("units", [("tag", 1)]),
        ("units", ["tag"]),
        ("namespace_of", ["a"]),
        ("object_of", "Namespace"),
        ("object_of", (1, 2)),
        ("rejected", None),
        ("parts", [careless(Part)(1, ())]),
        ("parts", [careless(Part)("a", (), about=("Pod",))]),
        ("plan", [Entry("tags", careless(Key)("x"), Value(1))]),
        ("plan", [Entry("others", Key(1), Value(1))]),
        ("plan", [None]),
        ("plan", None),
        ("plan", [careless(Complaint)("Namespace", ["a"], "Wrong", "no")]),
    ],
)
def test_an_answer_that_is_none_stops_nobody(monkeypatch, method, answer):
    """Whatever a cube answers about one object, others' are planned, and all is told."""
    planner, state = setup()
    given = getattr(Tagger, method)

    def answered(self, *asked):
        if method == "rejected":
            raise RuntimeError("no idea")
        mine = asked[0].key == "a" if method == "units" else asked[0] == ("tag", "a")
        return answer if mine else given(self, *asked)

    if method == "object_of":
        planned = Tagger.plan
        monkeypatch.setattr(
            Tagger, "plan", lambda self, *of: 1 / 0 if of[0][1] == "a" else planned(self, *of)
        )
    monkeypatch.setattr(Tagger, method, answered)
    changes = [Change.between(None, namespace(name, 1, ord(name))) for name in "abc"]
    changes += [Change.between(None, namespace("d", 4, 40))]
    assert apply(planner, state, *changes)["tagger0_tags"][Key(4).pack()] == Value(40).pack()
    assert planner.complaints() or planner.rejected()


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


def test_the_lower_rank_wins_whatever_the_names_and_the_order():
    late, early = namespace("a", 1, 1, rank="2"), namespace("z", 1, 26, rank="1")
    for order in ((late, early), (early, late)):
        planner, state = setup()
        for each in order:
            apply(planner, state, Change.between(None, each))
        assert planner.contents()["tagger0_tags"] == {Key(1).pack(): Value(26).pack()}
        assert planner.rejected() == ["1: z, not a"]
        assert apply(planner, state, Change.between(early, None)) == tags(k1=1)
    planner, state = setup()
    for each in (namespace("a", 1, 1, rank="2"), namespace("b", 1, 2)):
        apply(planner, state, Change.between(None, each))
    assert planner.contents()["tagger0_tags"] == {Key(1).pack(): Value(2).pack()}, "no rank"


def test_who_comes_to_another_rank_wins_or_loses():
    planner, state = setup()
    low, high = namespace("a", 1, 1, rank="1"), namespace("a", 1, 1, rank="3")
    apply(planner, state, Change.between(None, low))
    apply(planner, state, Change.between(None, namespace("b", 1, 2, rank="2")))
    assert apply(planner, state, Change.between(low, high)) == tags(k1=2)
    assert apply(planner, state, Change.between(high, low)) == tags(k1=1)
    assert apply(planner, state, Change.between(low, None)) == tags(k1=2)


def test_of_a_unit_that_wants_a_key_twice_the_better_rank_counts():
    planner, state = setup()
    apply(planner, state, Change.between(None, namespace("a", 1, 1, rank="2", second="5")))
    assert planner.contents()["tagger0_tags"] == {Key(1).pack(): Value(1).pack()}
    assert planner.rejected() == []


def test_a_rank_that_cannot_be_compared_is_the_units_failure():
    planner, state = setup()
    apply(planner, state, Change.between(None, namespace("b", 1, 2, rank="2")))
    apply(planner, state, Change.between(None, namespace("a", 1, 1, rank="x")))
    assert "is no tuple of int" in planner.failures["tagger0", ("tag", "a")]
    assert planner.contents()["tagger0_tags"] == {Key(1).pack(): Value(2).pack()}


def test_complaints_last_until_the_unit_is_planned_without_them():
    planner, state = setup()
    wrong, right = namespace("a", 1, 1, wrong="no"), namespace("a", 1, 1)
    apply(planner, state, Change.between(None, wrong))
    apply(planner, state, Change.between(None, namespace("b", 2, 2, wrong="no")))
    assert planner.complaints() == {complaint("a", "no"), complaint("b", "no")}
    apply(planner, state, Change.between(wrong, right))
    assert planner.complaints() == {complaint("b", "no")}
    apply(planner, state, Change.between(state.namespaces["b"], None))
    assert planner.complaints() == frozenset()


def test_of_an_object_the_first_few_complaints_are_told(monkeypatch):
    def plan(self, unit, view):
        return [complaint(unit[1], str(number)) for number in range(9)]

    monkeypatch.setattr(Tagger, "plan", plan)
    planner, state = setup()
    for name in "ab":
        apply(planner, state, Change.between(None, namespace(name, 1, 1)))
    told = {complaint(name, str(number)) for name in "ab" for number in range(5)}
    assert planner.complaints() == told


def test_who_does_not_get_a_key_may_be_told_by_a_complaint():
    planner, state = setup()
    for name, value in (("a", 1), ("b", 2)):
        apply(planner, state, Change.between(None, namespace(name, 7, value)))
    assert planner.rejected() == []
    assert planner.complaints() == {complaint("b", "a has it")}
    apply(planner, state, Change.between(state.namespaces["a"], None))
    assert planner.complaints() == frozenset()
