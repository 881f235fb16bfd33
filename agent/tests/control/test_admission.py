"""Who has room in maps that are too small for all: as counts, and as plans of a cube."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain

import pytest

from cubelet.control.admission import FLOOR, Admission, Room, Wish
from cubelet.control.planner import Planner
from cubelet.state.cluster import State
from cubelet_hooks.cube import Complaint, Condition, Cube, Entry, Part, Settings, Unit
from cubelet_hooks.maps import Map, MapType
from cubelet_hooks.objects import Change, Custom, Port
from cubelet_hooks.records import U32, U64, Record
from cubelet_hooks.resources import Resource
from cubelet_hooks.view import View

SIZE = 8 * FLOOR
PORT = Port(
    namespace="x",
    name="pod",
    container_id="c",
    ifname="eth0",
    netns="",
    host_ifname="cbl0",
    ifindex=9,
    mac="02:00:00:00:00:07",
    host_mac="06:00:00:00:00:07",
    addresses=(),
    mtu=1450,
)


def wish(namespace: str, count: int, name: str = "a") -> Wish:
    owned = ("cube0", (f"{namespace}/{name}",))
    return Wish(owned, owned, namespace, name, counts=(("m", count),))


def admission(size: int = SIZE) -> Admission:
    return Admission({"m": Room(size, "max_entries")})


def test_a_namespace_has_half_of_what_others_leave() -> None:
    made = admission()
    assert "needs 2,049 entries of m, where namespace x has room for 2,048 more" in made.ask(
        wish("x", SIZE // 2 + 1)
    )
    assert made.ask(wish("x", SIZE // 2)) == ""
    assert "has room for 0 more" in made.ask(wish("x", 1, "b"))
    assert made.ask(wish("y", SIZE // 4 + 1))
    assert made.ask(wish("y", SIZE // 4)) == ""
    assert made.ask(wish("z", FLOOR)) == ""


def test_who_was_admitted_stays_and_may_shrink_but_not_grow_beyond_the_share() -> None:
    made = admission()
    assert made.ask(wish("x", SIZE // 2)) == ""
    assert made.ask(wish("y", SIZE // 4)) == ""
    assert made.ask(wish("x", SIZE // 2)) == "", "others have come, but it does not grow"
    assert made.ask(wish("x", SIZE // 2 - 1)) == ""
    assert made.ask(wish("x", SIZE // 2))


def test_what_is_no_namespaces_own_has_all_the_room() -> None:
    made = admission()
    assert made.ask(wish("", SIZE)) == ""
    told = "needs 1 entry of m, where there is room for 0 more of 4,096; make it smaller, or raise"
    assert told in made.ask(wish("", 1, "b"))


def test_a_small_map_has_no_shares() -> None:
    made = admission(FLOOR)
    assert made.ask(wish("x", FLOOR)) == ""


@pytest.mark.parametrize("seed", range(20))
def test_never_more_than_fits_and_nobody_is_put_out(seed: int) -> None:
    chance = random.Random(seed)
    made, had = admission(), dict[tuple[str, str], int]()
    for _ in range(400):
        key = (chance.choice("vwxyz"), chance.choice("abc"))
        if chance.random() < 0.2:
            made.release(wish(*key[:1], 0, key[1]).owned)
            had.pop(key, None)
            continue
        asked = chance.choice((1, FLOOR // 3, SIZE // 5, SIZE // 2))
        known = wish(key[0], asked, key[1])
        if made.ask(known):
            made.refuse(known, "no", ())
            assert asked > had.pop(key, 0)
        else:
            had[key] = asked
        assert sum(had.values()) <= SIZE
        assert sum(count for (owner, _), count in had.items() if owner == key[0]) <= SIZE // 2


class Key(Record):
    number: U64


class Value(Record):
    number: U32


class Lister(Cube):
    """Wants the numbers of each List's key ``main``, and others as parts: a filter."""

    kind = "lister"
    essential = True
    maps = (
        Map("closed", MapType.HASH, Key, Value, 4),
        Map("numbers", MapType.HASH, Key, Value, 2 * FLOOR),
    )

    def units(self, change: Change, view: View) -> Iterable[Unit]:
        return [("list", change.key)]

    def plan(self, unit: Unit, view: View) -> Iterable[Entry | Complaint | Condition]:
        yield from _entries(view, unit, "main")

    def parts(self, unit: Unit, view: View) -> Iterable[Part]:
        for name, text in sorted(_lists(view, unit).items()):
            if name != "main":
                given = _entries(view, unit, name)
                yield Part(f"{name} {text}", given, fixed=True, title=f"the part {name}")

    def refused(self, unit: Unit, view: View) -> Iterable[Entry]:
        yield Entry("closed", Key(hash(unit) & 0xFFFF), Value(1))


asked: list[str] = []
"""Which lists were asked for."""


def _lists(view: View, unit: Unit) -> Mapping[str, str]:
    found = view.custom("List").get(unit[1])
    return found.spec if found else {}


def _entries(view: View, unit: Unit, name: str) -> Iterable[Entry]:
    found = _lists(view, unit)
    asked.append(name)
    if name in found:
        first, count = map(int, found[name].split("+"))
        for number in range(first, first + count):
            yield Entry("numbers", Key(number), Value(1))


class Teller(Lister):
    """Its units are named for objects of a kind that it watches, and its parts may be for others.

    A list ``wrong`` is complained about, and ``ranked`` is another list of the plan, of rank 1.
    """

    watches = (Resource("List", "example.com/v1", "lists"),)

    def plan(self, unit: Unit, view: View) -> Iterable[Entry | Complaint | Condition]:
        if text := _lists(view, unit).get("wrong"):
            yield Complaint("List", unit[1], "Wrong", text)
        yield from super().plan(unit, view)
        for each in _entries(view, unit, "ranked"):
            yield replace(each, value=Value(9), rank=(1,))

    def parts(self, unit: Unit, view: View) -> Iterable[Part]:
        for part in super().parts(unit, view):
            name = part.name.partition(" ")[0]
            if name not in ("wrong", "ranked"):
                about = ("Pod", "x/p") if name == "pods" else None
                yield replace(part, entries=chain([_complaint(name)], part.entries), about=about)


class Reporter(Lister):
    """Says of each list how many lists of numbers it has."""

    watches = (Resource("List", "example.com/v1", "lists", status=True),)

    def plan(self, unit: Unit, view: View) -> Iterable[Entry | Complaint | Condition]:
        if lists := _lists(view, unit):
            kind = lists.get("about", "List")
            yield Condition(kind, unit[1], "Held", True, "Counted", f"{len(lists)} lists")
        yield from super().plan(unit, view)


def _complaint(part: str) -> Complaint:
    return Complaint("Pod", "x/p", "Wrong", f"in the part {part}")


class Bench:
    def __init__(self, cube: type[Lister] = Lister) -> None:
        self.state = State()
        self.planner = Planner([cube("lister0", Settings())])
        self.held: dict[str, dict[bytes, bytes]] = {"lister0_closed": {}, "lister0_numbers": {}}

    def put(self, key: str, **lists: str) -> None:
        namespace, _, name = key.partition("/")
        self.take_in(Change.between(None, Custom("List", namespace, name, spec=lists)))

    def remove(self, key: str) -> None:
        self.take_in(Change.between(self.state.custom("List")[key], None))

    def take_in(self, *changes: Change) -> None:
        taken = [c for c in map(self.state.apply, changes) if c]
        units = self.planner.units(taken, self.state)
        for name, found in self.planner.replan(units, self.state).items():
            self.follow(name, found)
        assert self.planner.contents() == self.held
        assert self.planner.failures == {}

    def follow(self, name: str, changes: dict[bytes, bytes | None]) -> None:
        for key, value in changes.items():
            if value is None:
                self.held[name].pop(key, None)
            else:
                self.held[name][key] = value

    @property
    def numbers(self) -> int:
        return len(self.held["lister0_numbers"])

    @property
    def closed(self) -> int:
        return len(self.held["lister0_closed"])


def test_a_unit_that_does_not_fit_is_refused_alone_closed_and_taken_in_by_itself() -> None:
    bench = Bench()
    bench.put("x/big", main="1+500")
    bench.put("y/other", main="1000+500")
    assert (bench.numbers, bench.closed, bench.planner.rejected()) == (1000, 0, [])
    bench.put("z/late", main="2000+100")
    assert (bench.numbers, bench.closed) == (1000, 1)
    [told] = bench.planner.rejected()
    assert told.startswith("lister0: list z/late: refused: it needs 100 entries of")
    bench.put("z/small", main="3000+20")
    assert bench.numbers == 1020
    bench.remove("x/big")
    assert (bench.numbers, bench.closed, bench.planner.rejected()) == (620, 0, [])


def test_what_is_given_back_in_the_same_pass_is_there_for_others() -> None:
    bench = Bench()
    for namespace, count in (("x", 500), ("y", 500), ("z", 24)):
        bench.put(f"{namespace}/list", main=f"{1000 * ord(namespace)}+{count}")
    assert bench.numbers == 1024
    lists = {"v": "1+1", "x": "200000+400"}
    changes = [Custom("List", name, "list", spec={"main": each}) for name, each in lists.items()]
    bench.take_in(*(Change.between(None, each) for each in changes))
    assert (bench.numbers, bench.planner.rejected()) == (925, [])


def test_a_unit_that_grows_too_large_gives_back_what_it_had() -> None:
    bench = Bench()
    bench.put("x/big", main="1+500")
    bench.put("x/big", main="1+600")
    assert (bench.numbers, bench.closed) == (0, 1)
    bench.put("x/big", main="1+400")
    assert (bench.numbers, bench.closed, bench.planner.rejected()) == (400, 0, [])


def test_the_smaller_come_first_whatever_the_order() -> None:
    objects = [
        Custom("List", f"n{n}", "list", spec={"main": f"{1000 * n}+{count}"})
        for n, count in enumerate((500, 200, 500, 10))
    ]
    found = set()
    for seed in range(5):
        random.Random(seed).shuffle(objects)
        bench = Bench()
        bench.take_in(*(Change.between(None, each) for each in objects))
        found.add((bench.numbers, tuple(bench.planner.rejected())))
    assert len(found) == 1
    assert found.pop()[0] == 710


def test_a_part_is_refused_without_the_rest_and_not_asked_for_again() -> None:
    bench = Bench()
    bench.put("x/list", main="1+10", large="1000+5000", small="20000+10")
    assert (bench.numbers, bench.closed) == (20, 0)
    [told] = bench.planner.rejected()
    assert "the part large: refused: it needs more than the 512 entries of lister0_numbers" in told
    asked.clear()
    bench.put("x/list", main="2+10", large="1000+5000", small="20000+10")
    assert asked == ["main"]
    bench.put("x/list", main="2+10", large="1000+50", small="20000+10")
    assert (bench.numbers, bench.planner.rejected()) == (70, [])
    bench.remove("x/list")
    assert bench.numbers == 0


def test_no_more_is_asked_for_than_could_be_admitted(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    def endless(view: View, unit: Unit, name: str) -> Iterable[Entry]:
        while True:
            made.append(1)
            yield Entry("numbers", Key(len(made)), Value(1))

    monkeypatch.setattr(f"{__name__}._entries", endless)
    bench = Bench()
    bench.put("x/list", main="")
    assert len(made) == FLOOR + 1
    assert (bench.numbers, bench.closed) == (0, 1)


def test_what_the_kernel_refuses_is_the_units_alone() -> None:
    bench = Bench()
    bench.put("x/list", main="1+10")
    bench.put("y/list", main="100+10")
    refused = {"lister0_numbers": [Key(3).pack()]}
    for name, found in bench.planner.refuse(refused, "out of memory", bench.state).items():
        bench.follow(name, found)
    assert (bench.numbers, bench.closed) == (10, 1)
    assert bench.planner.contents() == bench.held
    assert bench.planner.rejected() == ["lister0: list x/list: refused: out of memory"]
    assert bench.planner.holds_up("x", "x/pod") == ""
    units = bench.planner.forgiven()
    assert units == {("lister0", ("list", "x/list"))}
    for name, found in bench.planner.replan(units, bench.state).items():
        bench.follow(name, found)
    assert (bench.numbers, bench.closed, bench.planner.rejected()) == (20, 0, [])


def test_who_cannot_even_be_closed_is_told_and_blocks_their_own_namespace() -> None:
    bench = Bench()
    for n in range(5):
        bench.put(f"n{n}/list", main=f"{10_000 * n}+1000")
    assert bench.closed == 4
    assert "refused and NOT closed" in bench.planner.holds_up("n4", "n4/pod")
    assert bench.planner.holds_up("n3", "n3/pod") == bench.planner.holds_up("o", "o/pod") == ""
    bench.remove("n0/list")
    assert (bench.closed, bench.planner.holds_up("n4", "n4/pod")) == (4, "")


def test_who_is_refused_is_told_on_the_object_that_the_unit_is_named_for() -> None:
    bench = Bench(Teller)
    bench.put("x/big", main="1+500")
    bench.put("y/other", main="1000+500")
    assert bench.planner.complaints() == frozenset()
    bench.put("z/late", main="2000+100", wrong="no")
    text = (
        "lister0: refused: it needs 100 entries of lister0_numbers, where namespace z has room for "
        "24 more of 1,024; make it smaller"
    )
    assert bench.planner.complaints() == {
        Complaint("List", "z/late", "NoRoom", text),
        Complaint("List", "z/late", "Wrong", "no"),
    }
    assert bench.planner.rejected() == []
    bench.remove("x/big")
    assert bench.planner.complaints() == {Complaint("List", "z/late", "Wrong", "no")}
    bench.remove("z/late")
    assert bench.planner.complaints() == frozenset()


def test_what_becomes_of_an_object_is_said_while_its_unit_is_admitted() -> None:
    bench = Bench(Reporter)
    bench.put("x/list", main="1+500")
    held = Condition("List", "x/list", "Held", True, "Counted", "1 lists")
    assert bench.planner.conditions() == {held}
    bench.put("x/list", main="1+500", wide="1000+1")
    assert bench.planner.conditions() == {replace(held, message="2 lists")}
    bench.put("x/list", main="1+5000")
    assert bench.planner.conditions() == frozenset(), "it does not hold: it is refused"
    bench.put("x/list", main="1+5")
    bench.remove("x/list")
    assert bench.planner.conditions() == frozenset()


def test_a_cube_says_nothing_of_others_objects() -> None:
    bench = Bench(Reporter)
    change = Change.between(None, Custom("List", "x", "list", spec={"about": "Pod"}))
    bench.state.apply(change)
    bench.planner.replan(bench.planner.units([change], bench.state), bench.state)
    (failure,) = bench.planner.failures.values()
    assert "a condition of a Pod; kinds in watches with status: List" in failure
    assert bench.planner.conditions() == frozenset()


def test_what_is_complained_about_before_a_plan_is_too_large_is_told() -> None:
    bench = Bench(Teller)
    bench.put("x/list", main="1+5000", wrong="no")
    assert {each.reason for each in bench.planner.complaints()} == {"NoRoom", "Wrong"}
    assert (bench.numbers, bench.closed) == (0, 1)


def test_parts_are_told_by_their_titles_on_their_own_objects() -> None:
    bench = Bench(Teller)
    bench.put("x/list", large="1+600", pods="1000+600", small="9000+5")
    told = {(each.key, each.message.partition(": it")[0]) for each in bench.planner.complaints()}
    assert told == {
        ("x/list", "lister0: the part large: refused"),
        ("x/p", "lister0: the part pods: refused"),
        *(("x/p", f"in the part {name}") for name in ("large", "pods", "small")),
    }
    assert bench.planner.rejected() == []
    bench.put("x/list", small="9000+5")
    assert bench.planner.complaints() == {_complaint("small")}
    bench.put("x/list", main="1+1")
    assert bench.planner.complaints() == frozenset()


def test_an_entry_of_two_ranks_is_counted_once_and_the_better_rank_has_the_key() -> None:
    bench = Bench(Teller)
    bench.put("x/list", ranked="1+512", main="1+512")
    assert (bench.numbers, bench.closed) == (FLOOR, 0)
    assert set(bench.held["lister0_numbers"].values()) == {Value(1).pack()}
    bench.put("a/list", ranked="1+20")
    assert set(bench.held["lister0_numbers"].values()) == {Value(1).pack()}
    bench.put("x/list", main="100+1")
    assert bench.numbers == 21
    assert bench.held["lister0_numbers"][Key(1).pack()] == Value(9).pack()


def test_what_the_kernel_refuses_of_several_who_want_it_is_each_ones() -> None:
    bench = Bench(Teller)
    bench.put("x/list", main="1+10", wrong="no")
    bench.put("y/list", ranked="5+10", small="100+5")
    refused = {"lister0_numbers": [Key(7).pack(), Key(102).pack()]}
    for name, found in bench.planner.refuse(refused, "out of memory", bench.state).items():
        bench.follow(name, found)
    assert bench.planner.contents() == bench.held
    assert (bench.numbers, bench.closed) == (0, 2)
    assert {str(each) for each in bench.planner.complaints() if each.reason == "NoRoom"} == {
        "List x/list: lister0: refused: out of memory",
        "List y/list: lister0: refused: out of memory",
        "List y/list: lister0: list y/list small 100+5: refused: out of memory",
    }
    for name, found in bench.planner.replan(bench.planner.forgiven(), bench.state).items():
        bench.follow(name, found)
    assert bench.planner.contents() == bench.held
    assert bench.numbers == 14 + 5
    assert {each.reason for each in bench.planner.complaints()} == {"Wrong"}


class Picky(Lister):
    """It does not stand objects whose list ``odd`` is there, and has nothing in place of some."""

    watches = Teller.watches

    def parts(self, unit: Unit, view: View) -> Iterable[Part]:
        yield from (p for p in super().parts(unit, view) if not p.name.startswith(("odd", "bare")))
        if "odd" in _lists(view, unit):
            raise ValueError("an odd list")

    def refused(self, unit: Unit, view: View) -> Iterable[Entry]:
        return () if "bare" in _lists(view, unit) else super().refused(unit, view)


def strange(bench: Bench, key: str, **lists: str) -> None:
    """Put what the cube cannot plan."""
    namespace, _, name = key.partition("/")
    change = bench.state.apply(Change.between(None, Custom("List", namespace, name, spec=lists)))
    assert change is not None
    units = bench.planner.units([change], bench.state)
    for table, found in bench.planner.replan(units, bench.state).items():
        bench.follow(table, found)
    assert bench.planner.contents() == bench.held


def test_a_unit_that_cannot_be_planned_is_closed_alone_and_told_on_its_object() -> None:
    bench = Bench(Picky)
    bench.put("x/list", main="1+10", small="100+10")
    bench.put("y/list", main="200+10")
    strange(bench, "x/list", main="1+10", small="100+10", odd="")
    assert (bench.numbers, bench.closed) == (10, 1)
    assert bench.planner.complaints() == {
        Complaint(
            "List",
            "x/list",
            "NotPlanned",
            "lister0: not planned and closed: ValueError('an odd list')",
        )
    }
    assert bench.planner.failures == {("lister0", ("list", "x/list")): "ValueError('an odd list')"}
    assert bench.planner.unsure == set()
    assert bench.planner.holds_up("x", "x/pod") == bench.planner.holds_up("y", "y/pod") == ""
    assert bench.planner.forgiven() == {("lister0", ("list", "x/list"))}
    bench.put("x/list", main="1+10", small="100+10")
    assert (bench.numbers, bench.closed, bench.planner.complaints()) == (30, 0, frozenset())


def test_a_unit_that_nothing_closes_stays_as_it_was_and_holds_up_its_namespace() -> None:
    bench = Bench(Picky)
    bench.put("x/list", main="1+10", small="100+10")
    strange(bench, "x/list", main="1+20", odd="", bare="")
    assert (bench.numbers, bench.closed) == (20, 0)
    [told] = bench.planner.complaints()
    assert told.message == "lister0: not planned, left as it was: ValueError('an odd list')"
    assert bench.planner.unsure == {"lister0"}
    assert "an odd list" in bench.planner.holds_up("x", "x/pod")
    assert bench.planner.holds_up("y", "y/pod") == ""
    bench.put("x/list", main="1+10", small="100+10")
    assert (bench.numbers, bench.planner.holds_up("x", "x/pod")) == (20, "")
    assert bench.planner.complaints() == frozenset()


def test_a_unit_without_room_to_close_it_is_not_left_with_what_it_had() -> None:
    bench = Bench(Picky)
    for n in range(5):
        bench.put(f"n{n}/list", main=f"{1000 * n}+10")
    for n in range(5):
        strange(bench, f"n{n}/list", main="1+1", odd="")
    assert (bench.numbers, bench.closed) == (0, 4)
    assert "an odd list" in bench.planner.holds_up("n4", "n4/pod")


def test_a_pod_does_not_start_without_what_is_wanted_for_itself() -> None:
    """But it does without what another object of the same name wants."""
    bench = Bench()
    bench.put("x/pod", main="1+1000")
    bench.put("x/list", main="1+1000")
    assert bench.planner.holds_up("x", "x/pod") == ""
    bench.take_in(Change.between(None, PORT))
    assert "list x/pod: refused" in bench.planner.holds_up("x", "x/pod")
    bench.take_in(Change.between(PORT, None))
    assert bench.planner.holds_up("x", "x/pod") == ""


def test_of_many_refused_some_are_named() -> None:
    bench = Bench()
    bench.put("y/list", main="0+1000")
    for n in range(30):
        bench.put(f"x/l{n}", main="0+1000")
    told = bench.planner.rejected()
    assert len(told) == 12
    assert "lister0: 20 more of namespace x: refused" in told


def test_of_many_refused_objects_some_are_told() -> None:
    bench = Bench(Teller)
    for n in range(30):
        bench.put(f"x/l{n}", main="0+1000")
    assert len(bench.planner.complaints()) == 10
    assert bench.planner.rejected() == ["lister0: 20 more of namespace x: refused"]
