"""Chains become compositions, or errors that name the cube and the remedy."""

from __future__ import annotations

import msgspec
import pytest

from cubelet.composer.chain import FIRST_SLOT, chain_links
from cubelet.composer.composition import Chain, CompositionError, Facts, compose, default_chain
from cubelet.composer.reasons import allot, first_reason, number_reasons
from cubelet.state.cluster import State
from cubelet_hooks.cube import PORT_CLASSES, Cube, Reason, Settings
from cubelet_hooks.objects import Change, Node
from cubelet_hooks.reasons import MAX_CUBES

EVERYWHERE = frozenset(PORT_CLASSES)


class Limits(Settings, frozen=True, forbid_unknown_fields=True, kw_only=True):
    rate: int = 5


def cube(name, **attributes):
    """A cube class of this kind."""
    defaults = {"kind": name, "inward": EVERYWHERE}
    return type(name.title(), (Cube,), defaults | attributes)


FORWARD = cube("forward", core=True, outward=frozenset({"pod"}))
FIND = cube("find", core=True, inward=frozenset({"pod", "host"}))
GUARD = cube("guard", outward=EVERYWHERE, settings_type=Limits)
COUNT = cube("count", outward=EVERYWHERE)
NEEDY = cube("needy", requires=("find",))
FOUND = {c.kind: c for c in (FORWARD, FIND, GUARD, COUNT, NEEDY)}


def chain(core=("find", "forward"), **stacks):
    return Chain(core=tuple(core), stacks={k: tuple(v) for k, v in stacks.items()})


def kinds(stages):
    return [(stage.cube.kind, stage.classes) for stage in stages]


def test_the_default_chain_is_the_documented_one():
    found = default_chain()
    assert found.core == ("bridge", "router")
    assert found.stacks["pod"] == ("lbrp", "nat", "firewall")
    assert found.stacks["uplink"] == ("nat", "lbrp")


def test_a_cube_on_several_stacks_stands_once_in_the_merged_order():
    made = compose(chain(pod=["guard", "count"], host=["count"], uplink=["guard"]), FOUND)
    assert kinds(made.stack_stages("inward")) == [
        ("guard", ("pod", "uplink")),
        ("count", ("pod", "host")),
    ]
    assert kinds(made.stack_stages("outward")) == [
        ("count", ("pod", "host")),
        ("guard", ("pod", "uplink")),
    ]


def test_stacks_that_contradict_each_other_keep_their_orders():
    made = compose(chain(pod=["guard", "count"], host=["count", "guard"]), FOUND)
    stages = made.stack_stages("inward")
    for name, order in (("pod", ["guard", "count"]), ("host", ["count", "guard"])):
        assert [s.cube.kind for s in stages if name in s.classes] == order


def test_the_core_runs_outward_in_reverse_and_only_where_declared():
    made = compose(chain(), FOUND)
    assert kinds(made.core_stages("inward")) == [
        ("find", ("pod", "host")),
        ("forward", PORT_CLASSES),
    ]
    assert kinds(made.core_stages("outward")) == [("forward", ("pod",))]


@pytest.mark.parametrize(
    ("wanted", "options", "message"),
    [
        (
            chain(pod=["nobody"]),
            {},
            "no working cube for nobody; remedy: pip install cubelet-nobody",
        ),
        (chain(["forward"], pod=["needy"]), {}, "needy needs find"),
        (chain([]), {}, "the core is empty"),
        (chain(["guard"]), {}, "guard stands in the core but is not a core cube"),
        (chain(pod=["find"]), {}, "find is a core cube and cannot stand on pod"),
        (
            chain(pod=["guard"]),
            {"settings": {"guard": {"rate": "x"}}},
            "settings of guard: Expected",
        ),
        (chain(pod=["guard"]), {"settings": {"guard": {"speed": 1}}}, "unknown field `speed`"),
    ],
)
def test_what_cannot_be_composed_is_named(wanted, options, message):
    with pytest.raises(CompositionError) as caught:
        compose(wanted, FOUND, **options)
    assert message in str(caught.value)


def test_an_optional_cube_may_be_missing():
    made = compose(chain(pod=["nobody", "guard"]), FOUND, optional=["nobody"])
    assert [c.kind for c in made.inward("pod")] == ["guard"]


def test_the_chain_of_tail_calls_visits_every_cube_in_order():
    made = compose(chain(pod=["guard", "count"]), FOUND, mode="tailcall")
    links = {link.slot: link for link in chain_links(made)}
    assert set(links) == set(range(FIRST_SLOT, FIRST_SLOT + len(links)))
    slot = next(s for s, link in links.items() if link.name == "cubelet_pod_in_guard0")
    walked = []
    while slot in links:
        walked.append(links[slot].function)
        slot = links[slot].next_slot
    assert walked == ["guard0_inward", "count0_inward", "find0_inward", "forward0_inward"]


def test_a_kind_may_stand_twice_with_settings_of_its_own():
    settings = {"guard": {"rate": 7}, "guard1": {"rate": 9}}
    made = compose(chain(pod=["guard", "guard1"], host=["guard1"]), FOUND, settings)
    assert [c.instance for c in made.cubes] == ["guard0", "guard1", "find0", "forward0"]
    assert [c.settings for c in made.cubes[:2]] == [Limits(rate=7), Limits(rate=9)]
    assert made.stacks["host"] == made.stacks["pod"][1:]


def test_a_cube_may_stand_for_one_direction_only():
    found = {**FOUND, "both": cube("both", outward=EVERYWHERE)}
    stacks = {"pod": ("both", "guard"), "host": ("both",)}
    one = Chain(core=("find", "forward"), stacks=stacks, directions={"pod": {"both0": "outward"}})
    made = compose(one, found)
    assert [c.kind for c in made.inward("pod")] == ["guard"]
    assert [c.kind for c in made.outward("pod")] == ["guard", "both"]
    assert [c.kind for c in made.inward("host")] == ["both"]


def test_what_has_nothing_to_do_is_left_out():
    made = compose(chain(pod=["guard", "count"], host=["count"]), FOUND)
    facts = Facts(defines={"count0": {"X": 1}}, needed={"guard0": (), "count0": ("pod",)})
    less = made.specialised(facts)
    assert [c.kind for c in less.cubes] == ["count", "find", "forward"]
    assert less.stacks["host"] == ()
    assert [c.kind for c in less.stacks["pod"]] == ["count"]
    assert less.reasons == made.reasons
    assert made.specialised(Facts()).stacks == made.stacks


def test_a_cube_that_cannot_say_its_facts_keeps_those_it_had():
    class Moody(Cube):
        kind = "moody"
        inward = EVERYWHERE
        settings_type = Limits

        def needed_on(self, view):
            if "odd" in view.nodes:
                raise ValueError("an odd node")
            return {"pod"}

        def defines(self, view):
            return {"NODES": len(view.nodes)}

    def made(**settings):
        found = {**FOUND, "moody": Moody}
        return compose(chain(pod=["moody"]), found, {"moody": settings} if settings else None)

    state, failures = State(), dict[str, str]()
    state.apply(Change.between(None, Node(name="a")))
    before = made().facts_of(state, failures=failures)
    state.apply(Change.between(None, Node(name="odd")))
    kept = made().facts_of(state, before, ["Node"], failures)
    assert (kept, failures) == (before, {"moody": "cube moody: ValueError('an odd node')"})
    assert made().facts_of(state, kept, None, failures) == before
    # Those of other settings are not its own, and without any it cannot be composed.
    for other, known in ((made(rate=2), before), (made(), None)):
        with pytest.raises(CompositionError, match="an odd node") as caught:
            other.facts_of(state, known)
        assert caught.value.kind == "moody"
    state.apply(Change.between(Node(name="odd"), None))
    assert made().facts_of(state, kept, ["Node"], failures) == before
    assert failures == {}


def test_facts_come_from_the_view():
    class Picky(Cube):
        kind = "picky"
        inward = EVERYWHERE

        def needed_on(self, view):
            return {"uplink", "pod"} if view.nodes else ()

        def defines(self, view):
            return {"NODES": len(view.nodes)}

    made = compose(chain(pod=["picky"]), {**FOUND, "picky": Picky})
    state = State()
    assert made.facts_of(state).needed == {"picky0": ()}
    state.apply(Change.between(None, Node(name="a")))
    facts = made.facts_of(state)
    assert facts.needed == {"picky0": ("pod", "uplink")}
    assert facts.defines == {"picky0": {"NODES": 1}, "find0": {}, "forward0": {}}
    assert msgspec.json.decode(msgspec.json.encode(facts), type=Facts) == facts


def test_reasons_have_numbers_of_their_own():
    cubes = [cube(f"kind{n}x", reasons=(Reason("a", ""), Reason("b", ""))) for n in range(20)]
    places = allot(c.kind for c in cubes)
    numbered = number_reasons(cubes, places)
    assert len({n for n, r in numbered.items() if r.name in ("a", "b")}) == 40
    for found in cubes:
        second = numbered[first_reason(places[found.kind]) + 1]
        assert (second.cube, second.name) == (found.kind, "b")


def test_reasons_that_no_installed_version_has_keep_their_cube():
    kept = cube("kept", reasons=(Reason("a", ""),))
    places = allot(["kept", "gone"])
    numbered = number_reasons([kept, cube("unplaced", reasons=(Reason("z", ""),))], places)
    first, other = first_reason(places["kept"]), first_reason(places["gone"])
    found = {n: (numbered[n].cube, numbered[n].name) for n in (first, first + 1, other + 7)}
    assert found == {
        first: ("kept", "a"),
        first + 1: ("kept", "reason-1"),
        other + 7: ("gone", "reason-7"),
    }
    assert "z" not in {each.name for each in numbered.values()}


def test_a_place_of_reasons_stays_a_kinds_own():
    many = [f"kind{n}x" for n in range(MAX_CUBES)]
    for fresh in many:
        before = allot(many[:8])
        after = allot([*many[:8], fresh, "another"], before)
        assert {kind: after[kind] for kind in before} == before
    assert set(allot(many, {"gone": 3})) == set(many)
    with pytest.raises(ValueError, match="at most 32"):
        allot([*many, "more"])
