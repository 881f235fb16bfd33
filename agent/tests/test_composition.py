"""Chains become compositions, or errors that name the cube and the remedy."""

from __future__ import annotations

import pytest

from cubelet.composer.chain import FIRST_SLOT, chain_links
from cubelet.composer.composition import Chain, CompositionError, compose, default_chain
from cubelet.composer.reasons import number_reasons, reason_ranges
from cubelet_hooks.cube import PORT_CLASSES, Cube, Reason, Settings

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


def test_reasons_have_numbers_of_their_own():
    cubes = [cube(f"kind{n}", reasons=(Reason("a", ""), Reason("b", ""))) for n in range(20)]
    numbered = number_reasons(cubes)
    assert len({n for n, r in numbered.items() if r.cube != "core"}) == 40
    alone = reason_ranges(cubes[:1])[cubes[0]]
    assert numbered[alone + 1].name == "b" or len(cubes) > 1
