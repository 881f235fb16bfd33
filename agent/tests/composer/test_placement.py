"""Inserted cubes stand where they are wanted, or the whole circle of reasons is named."""

from __future__ import annotations

import pytest

from cubelet.composer.composition import CompositionError, default_chain
from cubelet.composer.placement import Insertion, insert
from cubelet_hooks.cube import PORT_CLASSES, Placement


def wish(instance, port_class="pod", strict=True, direction="both", before=(), after=()):
    place = Placement(port_class, direction, tuple(before), tuple(after))
    return Insertion(instance, place, f"insert {instance}", strict)


def pods(*wishes):
    return insert(default_chain(), wishes).stacks["pod"]


@pytest.mark.parametrize(
    ("wishes", "stack"),
    [
        ([wish("rate0")], "rate0 lbrp nat firewall"),
        ([wish("rate0", before=["nat"])], "lbrp rate0 nat firewall"),
        ([wish("rate0", after=["firewall"])], "lbrp nat firewall rate0"),
        ([wish("rate0", after=["lbrp"])], "lbrp rate0 nat firewall"),
        ([wish("rate0", after=["lbrp"], before=["firewall"])], "lbrp nat rate0 firewall"),
        ([wish("rate0"), wish("log0")], "rate0 log0 lbrp nat firewall"),
        ([wish("rate0", after=["log"]), wish("log0")], "log0 rate0 lbrp nat firewall"),
        (
            [wish("rate0", after=["log0"]), wish("log0", after=["nat"])],
            "lbrp nat log0 rate0 firewall",
        ),
        ([wish("rate0", before=["nobody"], strict=False)], "rate0 lbrp nat firewall"),
    ],
)
def test_a_cube_stands_as_near_as_it_can_to_what_it_names(wishes, stack):
    assert " ".join(pods(*wishes)) == stack


def test_other_stacks_and_the_core_are_left_alone():
    before = default_chain()
    after = insert(before, [wish("rate0", "uplink", direction="inward", after=["nat"])])
    assert after.core == before.core
    for name in PORT_CLASSES:
        expected = ("nat", "rate0", "lbrp") if name == "uplink" else before.stacks[name]
        assert after.stacks[name] == expected
    assert after.directions == {"uplink": {"rate0": "inward"}}


@pytest.mark.parametrize(
    ("wishes", "message"),
    [
        (
            [wish("rate0", before=["lbrp"], after=["firewall"])],
            "firewall before rate0 (insert rate0), rate0 before lbrp (insert rate0)",
        ),
        (
            [wish("rate0", before=["log0"]), wish("log0", before=["rate0"])],
            "rate0 before log0 (insert rate0), log0 before rate0 (insert log0)",
        ),
        (
            [wish("rate0", after=["nobody"])],
            "insert rate0: nobody is not on the stack of pod, which has lbrp, nat, firewall, rate0",
        ),
        ([wish("rate0", after=["rate"])], "insert rate0: rate cannot stand before or after itself"),
        ([wish("nat")], "insert nat: nat stands on pod already"),
        ([wish("rate0"), wish("rate0")], "rate0 stands on pod already"),
    ],
)
def test_what_contradicts_itself_is_refused_with_its_reasons(wishes, message):
    with pytest.raises(CompositionError) as caught:
        pods(*wishes)
    assert message in str(caught.value)


def test_a_circle_is_told_whole():
    wanted = wish("rate0", before=["lbrp"], after=["firewall"])
    with pytest.raises(CompositionError) as caught:
        pods(wanted)
    assert str(caught.value) == (
        "pod: no order is possible: lbrp before nat (the chain), nat before firewall (the chain), "
        "firewall before rate0 (insert rate0), rate0 before lbrp (insert rate0)"
    )
