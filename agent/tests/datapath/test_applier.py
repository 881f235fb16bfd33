"""What is wanted, written into real maps: differences only, in a safe order, then the epochs."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import closing
from dataclasses import replace
from ipaddress import IPv4Address, ip_address

import pytest

from cubelet.bpf.layout import join_cpus, possible_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.rcu import synchronize
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.layout import MapSpec, map_specs
from cubelet.datapath.applier import Applier, Delta
from cubelet.datapath.epochs import Epochs
from cubelet.datapath.maps import close_maps, open_maps
from cubelet.testkit.samples import view
from cubelet_hooks.cube import Cube, Settings
from cubelet_hooks.flows import EPOCH_BUCKETS, Index, epoch_bucket
from cubelet_hooks.maps import EVERYTHING, Map, MapType
from cubelet_hooks.records import U32, Addr, Record

SIZE = 4
A, B, C = (ip_address(f"10.1.0.{n}") for n in (2, 3, 4))


class Key(Record):
    """An address."""

    address: Addr


class Value(Record):
    """A number."""

    number: U32


class Sampler(Cube):
    """A cube with a planned map of each sort and one that is the datapath's."""

    kind = "sampler"
    maps = (
        Map("backends", MapType.HASH, Key, Value, SIZE),
        Map("services", MapType.HASH, Key, Value, SIZE, concerns=lambda key, _: key.address),
        Map("slots", MapType.ARRAY, Index, Value, SIZE, concerns=lambda _key, _value: EVERYTHING),
        Map("seen", MapType.HASH, Key, Value, SIZE, planned=False),
        Map("counts", MapType.LRU_HASH, Key, Value, 64, planned=False, follows="services"),
        Map("each", MapType.PERCPU_ARRAY, Index, Value, SIZE, planned=False, follows="slots"),
    )


class Bench:
    """The maps of a composition of one cube, and the applier that fills them."""

    def __init__(self) -> None:
        cube = Sampler("sampler0", Settings())
        self.specs: list[MapSpec] = map_specs(
            Core("cubelet", CoreSettings(event_bytes=4096)), [cube]
        )
        self.specs = [s for s in self.specs if s.owner == "sampler0" or s.name == "epochs"]
        self.maps = open_maps(self.specs, None)
        self._epochs = Epochs(self.maps["cubelet_epochs"], view())
        self.waited: Callable[[], None] = synchronize
        self.applier = Applier(self.specs, self.maps, self._epochs, 4, self._wait)

    def _wait(self) -> None:
        self.waited()

    def close(self) -> None:
        """Let go of everything."""
        self._epochs.close()
        close_maps(self.maps)

    def __getitem__(self, name: str) -> BpfMap:
        return self.maps[f"sampler0_{name}"]

    def numbers(self, name: str) -> dict[object, int]:
        """A map's records, those of an array that are not zero."""
        key = Index if name == "slots" else Key
        found = {
            next(iter(vars(key.unpack(k, 4)).values())): Value.unpack(v, 4).number
            for k, v in self[name].items()
        }
        return {k: v for k, v in found.items() if v or name != "slots"}

    def epochs(self) -> dict[int, int]:
        """The counters that are not zero: 0 the global one, then buckets by number, from 2 on."""
        raw = self.maps["cubelet_epochs"].lookup(bytes(4)) or b""
        values = struct.unpack(f"={EPOCH_BUCKETS + 2}I", raw)
        return {number: value for number, value in enumerate(values) if value}


@pytest.fixture
def bench() -> Iterator[Bench]:
    """Empty maps."""
    made = Bench()
    yield made
    made.close()


def key(address: object) -> bytes:
    return Key(IPv4Address(str(address))).pack()


def value(number: int) -> bytes:
    return Value(number).pack()


def slot(number: int) -> bytes:
    return Index(number).pack()


def bucket(address: object) -> int:
    return 2 + epoch_bucket(IPv4Address(str(address)))


def odd(_key: object, _value: object) -> None:
    raise ValueError("no idea")


def test_where_a_cube_cannot_say_whom_an_entry_concerns_it_is_everyone(bench: Bench) -> None:
    for number, spec in enumerate(bench.specs):
        if spec.name == "services":
            assert spec.declared is not None
            bench.specs[number] = replace(spec, declared=replace(spec.declared, concerns=odd))
    with closing(Epochs(bench.maps["cubelet_epochs"], view())) as epochs:
        applier = Applier(bench.specs, bench.maps, epochs, 4)
        outcome = applier.apply({"sampler0_services": {key(A): value(1)}})
    assert (outcome.written, outcome.failures) == (1, {})
    assert bench.epochs() == {0: 1}


def test_a_difference_is_written_and_removed(bench: Bench) -> None:
    outcome = bench.applier.apply({"sampler0_backends": {key(A): value(1), key(B): value(2)}})
    assert (outcome.written, outcome.removed, outcome.failures) == (2, 0, {})
    outcome = bench.applier.apply({"sampler0_backends": {key(A): value(3), key(B): None}})
    assert (outcome.written, outcome.removed) == (1, 1)
    assert bench.numbers("backends") == {A: 3}


def test_a_sync_converges_from_whatever_is_there(bench: Bench) -> None:
    for address, number in ((A, 1), (B, 9), (C, 3)):
        bench["services"].update(key(address), value(number))
    bench["slots"].update(slot(3), value(7))
    bench["seen"].update(key(A), value(5))
    wanted = {
        "sampler0_services": {key(A): value(1), key(B): value(2)},
        "sampler0_slots": {slot(0): value(4)},
    }
    outcome = bench.applier.sync(wanted)
    assert bench.numbers("services") == {A: 1, B: 2}
    assert bench.numbers("slots") == {0: 4}
    assert (outcome.written, outcome.removed) == (2, 2)  # A was right already
    assert bench.numbers("seen") == {A: 5}  # the datapath's own
    assert (again := bench.applier.sync(wanted)).written == again.removed == 0


def test_a_sync_may_leave_what_nobody_wants(bench: Bench) -> None:
    bench["services"].update(key(A), value(1))
    bench["services"].update(key(B), value(9))
    bench.applier.sync({"sampler0_services": {key(B): value(2)}}, remove=False)
    assert bench.numbers("services") == {A: 1, B: 2}


def test_epochs_are_raised_for_what_a_change_concerns(bench: Bench) -> None:
    bench.applier.apply({"sampler0_backends": {key(A): value(1)}})
    assert bench.epochs() == {}  # no verdict depends on it
    bench.applier.apply({"sampler0_services": {key(A): value(1), key(B): value(1)}})
    assert bench.epochs() == {bucket(A): 1, bucket(B): 1}
    bench.applier.apply({"sampler0_services": {key(A): None, key(B): value(2)}})
    assert bench.epochs() == {bucket(A): 2, bucket(B): 2}
    bench.applier.apply({"sampler0_slots": {slot(0): value(1)}, "sampler0_services": {}})
    assert bench.epochs() == {0: 1, bucket(A): 2, bucket(B): 2}
    bench.applier.sync(
        {"sampler0_services": {key(B): value(2)}, "sampler0_slots": {slot(0): value(1)}}
    )
    assert bench.epochs() == {0: 1, bucket(A): 2, bucket(B): 2}  # nothing differed


def test_a_counter_goes_round(bench: Bench) -> None:
    raw = bytearray(bench.maps["cubelet_epochs"].lookup(bytes(4)) or b"")
    struct.pack_into("=I", raw, 0, 0xFFFFFFFF)
    bench.maps["cubelet_epochs"].update(bytes(4), bytes(raw))
    bench.applier.apply({"sampler0_slots": {slot(0): value(1)}})
    assert 0 not in bench.epochs()


class Recorder:
    """The maps' writes and the epochs' rises in their order."""

    def __init__(self, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
        self.calls: list[str] = []
        for name in ("update_batch", "delete_batch"):
            monkeypatch.setattr(BpfMap, name, self._wrap(name, getattr(BpfMap, name)))
        monkeypatch.setattr(
            Epochs, "raise_for", lambda _self, _concerns: self.calls.append("epochs")
        )
        bench.waited = lambda: self.calls.append("wait")

    def _wrap(self, what: str, real: object) -> object:
        def call(table: BpfMap, records: object) -> object:
            self.calls.append(f"{what} {table.name.removeprefix('sampler0_')}")
            return real(table, records)  # type: ignore[operator]

        return call


def test_what_refers_comes_after_and_goes_before(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Epochs last, so that no verdict of an old record carries a new epoch."""
    bench.applier.apply(
        {"sampler0_backends": {key(A): value(1)}, "sampler0_services": {key(A): value(1)}}
    )
    recorder = Recorder(bench, monkeypatch)
    bench.applier.apply(
        {
            "sampler0_services": {key(A): None, key(B): value(2)},
            "sampler0_backends": {key(A): None, key(B): value(2)},
        }
    )
    assert recorder.calls == [
        "update_batch backends",
        "update_batch services",
        "wait",
        "delete_batch services",
        "delete_batch backends",
        "wait",
        "delete_batch counts",
        "epochs",
    ]


def test_what_a_full_map_refuses_is_told_and_tried_again(bench: Bench) -> None:
    addresses = [f"10.1.1.{n}" for n in range(SIZE + 1)]
    outcome = bench.applier.apply({"sampler0_services": {key(a): value(1) for a in addresses}})
    assert set(outcome.failures) == {"sampler0_services"}
    assert len(bench.numbers("services")) <= SIZE
    assert set(bench.applier.apply({}).failures) == {"sampler0_services"}
    # As soon as all that is wanted fits, it is there, whatever the map was full of.
    outcome = bench.applier.apply({"sampler0_services": {key(addresses[0]): None}})
    assert outcome.failures == {}
    assert set(bench.numbers("services")) == {ip_address(a) for a in addresses[1:]}
    assert bench.applier.apply({}).written == 0


def test_a_full_map_is_exchanged_for_another_that_fits(bench: Bench) -> None:
    old, new = ([f"10.1.{net}.{n}" for n in range(SIZE)] for net in (1, 2))
    bench.applier.sync({"sampler0_services": {key(a): value(1) for a in old}})
    outcome = bench.applier.sync({"sampler0_services": {key(a): value(2) for a in new}})
    assert outcome.failures == {}
    assert bench.numbers("services") == {ip_address(a): 2 for a in new}
    assert bench.epochs() == {bucket(a): 2 for a in old} | {bucket(a): 1 for a in new}


def test_while_a_map_refuses_entries_the_old_content_stays_whole(bench: Bench) -> None:
    """What should be written points at what there is no room for; what points at the old stays."""
    bench.applier.sync(
        {"sampler0_backends": {key(A): value(1)}, "sampler0_services": {key(A): value(1)}}
    )
    backends = {key(f"10.1.1.{n}"): value(2) for n in range(SIZE + 1)}
    outcome = bench.applier.sync(
        {"sampler0_backends": backends, "sampler0_services": {key(A): value(2)}}
    )
    assert set(outcome.failures) == {"sampler0_backends"}
    assert bench.numbers("backends")[A] == 1
    assert bench.numbers("services") == {A: 1}
    backends.popitem()
    wanted = {"sampler0_backends": backends, "sampler0_services": {key(A): value(2)}}
    assert bench.applier.sync(wanted).failures == {}
    assert bench.numbers("services") == {A: 2}
    assert len(bench.numbers("backends")) == SIZE


def test_of_what_the_kernel_does_not_take_others_say_what_is_wanted_instead(bench: Bench) -> None:
    """Whoever else wants something in the same maps has it, and nothing points at the refused."""
    bench.applier.sync({"sampler0_services": {key(A): value(1)}})
    backends = {key(f"10.1.1.{n}"): value(2) for n in range(SIZE + 1)}
    asked = []

    def refuse(keys: Mapping[str, Collection[bytes]], reason: str) -> Delta:
        asked.append((keys, reason))
        return {
            "sampler0_backends": {key("10.1.1.0"): None, key("10.1.1.4"): None},
            "sampler0_services": {key(A): value(3)},
        }

    wanted: Delta = {
        "sampler0_backends": {**backends},
        "sampler0_services": {key(A): value(2)},
        "sampler0_slots": {slot(1): value(1)},
    }
    outcome = bench.applier.apply(wanted, refuse)
    assert outcome.failures == {}
    [(keys, reason)] = asked
    assert keys == {"sampler0_backends": [key("10.1.1.4")]}
    assert "write" in reason
    assert set(bench.numbers("backends")) == {ip_address(f"10.1.1.{n}") for n in (1, 2, 3)}
    assert bench.numbers("services") == {A: 3}
    assert bench.numbers("slots") == {1: 1}
    assert bench.applier.apply({}).written == 0


def test_removing_what_is_gone_is_no_error(bench: Bench) -> None:
    outcome = bench.applier.apply(
        {"sampler0_services": {key(A): None}, "sampler0_slots": {slot(1): None}}
    )
    assert outcome.failures == {}
    assert bench.numbers("services") == bench.numbers("slots") == {}


def test_what_follows_an_entry_goes_with_it(bench: Bench) -> None:
    bench.applier.apply(
        {
            "sampler0_services": {key(A): value(1), key(B): value(2)},
            "sampler0_slots": {slot(1): value(1), slot(2): value(2)},
        }
    )
    for each in (A, B):
        bench["counts"].update(key(each), value(9))
    counted = join_cpus((value(9),) * possible_cpus(), bench["each"].layout)
    for number in (1, 2):
        bench["each"].update(slot(number), counted)
    bench.applier.apply({"sampler0_services": {key(A): value(3)}})
    assert bench.numbers("counts") == {A: 9, B: 9}, "another value is no end"
    gone: Delta = {"sampler0_services": {key(A): None}, "sampler0_slots": {slot(2): None}}
    bench.applier.apply(gone)
    assert bench.numbers("counts") == {B: 9}
    assert bench["each"].lookup(slot(1)) == counted
    assert bench["each"].lookup(slot(2)) == bytes(len(counted))


def test_a_sync_finds_what_followed_entries_that_went_unseen(bench: Bench) -> None:
    for each in (A, B, C):
        bench["counts"].update(key(each), value(9))
    bench["services"].update(key(B), value(2))
    wanted = {"sampler0_services": {key(A): value(1)}}
    bench.applier.sync(wanted, remove=False)
    bench.applier.sync(wanted, spared=("sampler0",))
    assert set(bench.numbers("counts")) == {A, B, C}, "its entry may only be unknown yet"
    bench.applier.sync(wanted)
    assert bench.numbers("counts") == {A: 9}


def test_what_follows_an_entry_that_stays_stays(bench: Bench) -> None:
    """The entry could not be written, so the old ones are still in force."""
    bench.applier.apply({"sampler0_services": {key(A): value(1)}})
    bench["counts"].update(key(A), value(9))
    many = {key(f"10.2.0.{number}"): value(number) for number in range(SIZE + 1)}
    outcome = bench.applier.apply({"sampler0_services": {key(A): None, **many}})
    assert "sampler0_services" in outcome.failures
    assert bench.numbers("counts") == {A: 9}
