"""Where instances keep their fields of a flow: kept, given to others, never confused."""

from __future__ import annotations

import pytest

from cubelet.composer.composition import Chain, CompositionError, compose
from cubelet.composer.slots import AREA, Slots, allot_slots, read_fields
from cubelet.state.last_known import Memory
from cubelet_hooks.cube import Cube, Settings
from cubelet_hooks.flows import Index
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.records import U8, U16, U32, U64, Record

NONE = Slots()


def record(*types):
    fields = {f"f{number}": kind for number, kind in enumerate(types)}
    return type("Fields", (Record,), {"__annotations__": fields})


def cube(name, *types):
    """An instance that keeps fields of these types."""
    fields = record(*types) if types else None
    kind = type(name.title(), (Cube,), {"kind": name.rstrip("0123456789"), "flow_fields": fields})
    return kind(name, Settings())


SMALL = cube("small0", U32)  # and a generation of two bytes: 8
LARGE = cube("large0", U64, U64, U64)  # 32
WIDE = cube("wide0", *(U64,) * 5)  # 48
FULL = cube("full0", *(U64,) * 7, U32)  # 72


def places(slots):
    return {name: (slot.offset, slot.size) for name, slot in slots.held.items()}


def disjoint(slots):
    """Nobody's bytes are another's, and all are within the area."""
    taken = [n for slot in slots.held.values() for n in range(slot.offset, slot.end)]
    return len(taken) == len(set(taken)) and all(0 <= n < AREA for n in taken)


@pytest.mark.parametrize(
    ("types", "size"),
    [((U8,), 8), ((U32,), 8), ((U32, U16), 16), ((U16, U16, U16), 8), ((U64,), 16)],
)
def test_a_slot_has_room_for_the_fields_and_their_generation(types, size):
    assert places(allot_slots([cube("a0", *types)], NONE)) == {"a0": (0, size)}


def test_who_keeps_nothing_has_no_slot():
    assert allot_slots([cube("a0")], NONE).held == {}


def test_slots_do_not_depend_on_the_order_of_the_cubes():
    one, other = allot_slots([SMALL, LARGE], NONE), allot_slots([LARGE, SMALL], NONE)
    assert one == other
    assert disjoint(one)


def test_a_slot_stays_while_others_come_and_go():
    first = allot_slots([SMALL], NONE)
    both = allot_slots([LARGE, SMALL], first)
    alone = allot_slots([SMALL], both)
    again = allot_slots([SMALL, LARGE], alone)
    assert first.held["small0"] == both.held["small0"] == again.held["small0"]
    assert both.held["large0"] == again.held["large0"]


def test_other_fields_are_another_generation():
    before = allot_slots([SMALL], NONE).held["small0"]
    changed = allot_slots([cube("small0", U16, U16)], Slots({"small0": before}, before.generation))
    after = changed.held["small0"]
    assert (after.offset, after.size) == (before.offset, before.size)
    assert after.generation != before.generation


def test_the_slot_of_one_that_is_gone_goes_to_others_when_room_is_needed():
    held = allot_slots([SMALL, LARGE], NONE)
    fresh = allot_slots([WIDE], held)
    assert disjoint(fresh)
    assert "large0" not in fresh.held
    assert fresh.held["wide0"].generation not in {s.generation for s in held.held.values()}
    back = allot_slots([LARGE], fresh)
    assert back.held["large0"].generation not in {
        held.held["large0"].generation,
        fresh.held["wide0"].generation,
    }


def test_what_is_composed_is_never_pushed_out_while_there_is_other_room():
    held = allot_slots([SMALL, LARGE], NONE)
    fresh = allot_slots([SMALL, cube("c0", U64, U64)], held)
    assert fresh.held["small0"] == held.held["small0"]
    assert disjoint(fresh)


def test_room_in_pieces_is_put_together_with_new_generations():
    a, b, c = (cube(f"{name}0", U64) for name in "abc")  # 16 bytes each
    held = allot_slots([a, b, c, SMALL], NONE)
    middle_gone = Slots({k: v for k, v in held.held.items() if k != "b0"}, held.generation)
    assert places(held)["c0"][0] == 32
    fresh = allot_slots([a, c, cube("d0", U64, U64, U32)], middle_gone)
    assert disjoint(fresh)
    assert set(fresh.held) >= {"a0", "c0", "d0"}
    before = {slot.generation for slot in held.held.values()}
    assert all(fresh.held[n].generation not in before for n in ("c0", "d0"))


def test_no_room_names_the_instances_and_their_sizes():
    with pytest.raises(ValueError, match=r"large0 \(32 bytes\), wide0 \(48 bytes\) need 80 bytes"):
        allot_slots([WIDE, LARGE], NONE)
    with pytest.raises(ValueError, match=r"full0 \(72 bytes\) need 72 bytes, .* has 64"):
        allot_slots([FULL], NONE)


def test_no_room_refuses_a_composition():
    given = {"kind": "wide", "inward": frozenset({"pod"}), "flow_fields": record(*(U64,) * 5)}
    wide = type("Wide", (Cube,), given)
    forward = type("Forward", (Cube,), {"kind": "forward", "core": True})
    chain = Chain(core=("forward",), stacks={"pod": ("wide", "wide1")})
    with pytest.raises(CompositionError, match=r"wide0 .* wide1 .* remedy: leave one of them out"):
        compose(chain, {"wide": wide, "forward": forward})


def test_a_name_of_the_composers_own_map_is_refused():
    ring = Map("event_ring", MapType.ARRAY, Index, Index, 1)
    given = {"kind": "loud", "core": True, "maps": (ring,), "event": record(U32)}
    loud = type("Loud", (Cube,), given)
    with pytest.raises(CompositionError, match="cube loud: event_ring is a map of the composer's"):
        compose(Chain(core=("loud",), stacks={}), {"loud": loud})


@pytest.mark.parametrize(
    ("name", "value", "text"),
    [
        (
            "events_per_second",
            "pace",
            "events_per_second is 'pace', which is no number",
        ),
        ("packet_bytes", -1, "packet_bytes is -1, not 0 to"),
        ("packets_per_second", 1 << 32, "packets_per_second is 4294967296, not 0 to"),
        ("every", "pace", "every is 'pace', which is no number"),
        ("every", 0.01, "every is 0.01, not 0 or 0.1 to 86,400 seconds"),
        ("every", float("nan"), "every is nan, not 0 or"),
    ],
)
def test_a_number_that_is_none_is_refused(name, value, text):
    loud = type("Loud", (Cube,), {"kind": "loud", "core": True, name: value})
    with pytest.raises(CompositionError, match=f"cube loud: {text}"):
        compose(Chain(core=("loud",), stacks={}), {"loud": loud})


def test_generations_never_are_zero_and_never_meet_when_they_begin_anew():
    slots = Slots(generation=32_766)
    for number in range(5):
        slots = allot_slots([SMALL, cube("other0", *(U16,) * (number + 1))], slots)
        generations = [slot.generation for slot in slots.held.values()]
        assert 0 not in generations
        assert len(set(generations)) == 2


def test_fields_of_another_generation_read_as_zero():
    slot = allot_slots([SMALL], NONE).held["small0"]
    area = bytearray(AREA)
    area[:4] = (7).to_bytes(4, "little")
    fields = SMALL.flow_fields
    assert read_fields(SMALL, slot, bytes(area)) == fields(0)
    area[4:6] = slot.generation.to_bytes(2, "little")
    assert read_fields(SMALL, slot, bytes(area)) == fields(7)


def test_slots_are_remembered_and_forgotten_ones_begin_elsewhere(tmp_path):
    path = tmp_path / "memory.json"
    memory = Memory(path)
    slots = allot_slots([SMALL, LARGE], memory.known.slots)
    memory.remember(slots=slots)
    assert Memory(path).known.slots == slots
    for foreign in ("{", '{"config": null}'):
        begun = set()
        for _ in range(20):
            path.write_text(foreign)
            begun.add(Memory(path).known.slots.generation)
        assert len(begun) > 1
