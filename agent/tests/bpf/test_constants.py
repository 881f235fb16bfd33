"""What of the bpf layer needs no privileges: layouts, relocation, errors, clocks, ring records."""

from __future__ import annotations

import ctypes
import errno
import pickle
import struct
from pathlib import Path

import pytest

from cubelet.bpf import layout as layouts
from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.layout import MapInfo, MapLayout, join_cpus, same_layout, split_cpus
from cubelet.bpf.programs import VerifierError, relocate
from cubelet.bpf.ringbuf import drain
from cubelet.bpf.syscalls import BpfError, kernel_name
from cubelet.bpf.testrun import SkBuff, skb_context

HASH = MapLayout(MapType.HASH, 8, 16, 100)


def load_map(fd: int, source: int = 1) -> bytes:
    """r1 = map `fd`, the two-slot load; `source` 1 is BPF_PSEUDO_MAP_FD."""
    return struct.pack("=BBhiBBhi", 0x18, source << 4 | 1, 0, fd, 0, 0, 0, 0)


EXIT = struct.pack("=BBhi", 0x95, 0, 0, 0)


def test_relocate_replaces_map_references_only() -> None:
    code = load_map(7) + load_map(7, source=0) + load_map(8) + EXIT
    moved = relocate(code, {7: 100, 8: 101})
    assert moved == load_map(100) + load_map(7, source=0) + load_map(101) + EXIT


def test_relocate_skips_the_second_slot_of_a_wide_load() -> None:
    # The upper half of a constant whose bytes look like another wide load.
    constant = struct.pack("=BBhi", 0x18, 1, 0, 5) + struct.pack("=BBhi", 0x18, 0x11, 0, 7)
    assert relocate(constant + EXIT, {7: 100}) == constant + EXIT


def test_relocate_refuses_an_unknown_map() -> None:
    with pytest.raises(ValueError, match="instruction 2 refers to map 9"):
        relocate(load_map(7) + load_map(9), {7: 100})


def test_relocate_refuses_half_an_instruction() -> None:
    with pytest.raises(ValueError, match="12 bytes"):
        relocate(bytes(12), {})


@pytest.mark.parametrize(
    ("other", "differs"),
    [
        (MapLayout(MapType.HASH, 8, 16, 100), ()),
        (MapLayout(MapType.HASH, 8, 16, 100, MapFlags.RDONLY), ()),
        (MapLayout(MapType.HASH, 8, 16, 200), ("max_entries",)),
        (MapLayout(MapType.LRU_HASH, 8, 16, 100), ("type",)),
        (MapLayout(MapType.HASH, 4, 20, 100), ("key_size", "value_size")),
        (MapLayout(MapType.HASH, 8, 16, 100, MapFlags.NO_PREALLOC), ("flags",)),
    ],
)
def test_layouts_differ_by_what_programs_see(other: MapLayout, differs: tuple[str, ...]) -> None:
    assert HASH.differences(other) == differs
    assert same_layout(MapInfo(1, "m", HASH), other) == (not differs)


def test_lru_lists_per_cpu_round_the_size_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "possible_cpus", lambda: 4)
    made = MapLayout(MapType.LRU_HASH, 8, 16, 104, MapFlags.NO_COMMON_LRU)
    asked = MapLayout(MapType.LRU_HASH, 8, 16, 101, MapFlags.NO_COMMON_LRU)
    assert made.differences(asked) == ()


def test_possible_cpus_counts_ranges(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    listed = tmp_path / "possible"
    listed.write_text("0-3,6,8-9\n")
    monkeypatch.setattr(layouts, "_POSSIBLE", listed)
    assert layouts.possible_cpus.__wrapped__() == 7


def test_per_cpu_values_are_padded_to_eight_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layouts, "possible_cpus", lambda: 3)
    counters = MapLayout(MapType.PERCPU_HASH, 4, 12, 10)
    assert counters.value_stride == 48
    values = (b"a" * 12, b"b" * 12, b"c" * 12)
    joined = join_cpus(values, counters)
    assert joined == b"".join(value + bytes(4) for value in values)
    assert split_cpus(joined, counters) == values


def test_errors_name_action_subject_and_remedy_and_cross_processes() -> None:
    error = BpfError(errno.EPERM, "create", "map lbrp_services", "run as root")
    text = "cannot create map lbrp_services: Operation not permitted (run as root)"
    for copy in (error, pickle.loads(pickle.dumps(error))):
        assert str(copy) == text
        assert (type(copy), copy.errno, copy.subject) == (BpfError, errno.EPERM, error.subject)


def test_verifier_errors_keep_their_log_across_processes() -> None:
    error = VerifierError(errno.EACCES, "load", "program pod", "", "0: (95) exit\nR0 !read_ok")
    copy = pickle.loads(pickle.dumps(error))
    assert isinstance(copy, VerifierError)
    assert copy.log == error.log
    assert str(copy) == "cannot load program pod: Permission denied\n0: (95) exit\nR0 !read_ok"


def test_kernel_names_are_cut_and_cleaned() -> None:
    assert kernel_name("lbrp0-services/ü_and_more") == b"lbrp0_services_"
    assert kernel_name("nat.ports") == b"nat.ports"


def test_skb_context_follows_the_kernels_layout() -> None:
    assert ctypes.sizeof(SkBuff) == 192
    at = {name: getattr(SkBuff, name).offset for name in ("cb", "tstamp", "gso_size", "hwtstamp")}
    assert at == {"cb": 48, "tstamp": 152, "gso_size": 176, "hwtstamp": 184}
    context = SkBuff.from_buffer_copy(skb_context(mark=5, cb=(1, 2), gso_segs=3))
    assert (context.mark, list(context.cb), context.gso_segs) == (5, [1, 2, 0, 0, 0], 3)


class Ring:
    """A ring of 64 bytes as its consumer sees it, the data twice in a row."""

    def __init__(self, position: int) -> None:
        self.consumed = memoryview(bytearray(struct.pack("=Q", position))).cast("Q")
        self.produced = memoryview(bytearray(struct.pack("=Q", position))).cast("Q")
        self.data = memoryview(bytearray(128))

    def put(self, record: bytes, bits: int = 0) -> None:
        raw = struct.pack("=II", len(record) | bits, 0) + record
        for offset, byte in enumerate(raw):
            at = (self.produced[0] + offset) % 64
            self.data[at] = self.data[at + 64] = byte
        self.produced[0] += -(-len(raw) // 8) * 8

    def drain(self) -> list[bytes]:
        return list(drain(self.consumed, self.produced, self.data.cast("I"), self.data))


def test_ring_records_come_whole_across_the_end() -> None:
    ring = Ring(position=64 * 5 + 48)
    ring.put(b"first")
    ring.put(b"wrapped around")
    assert ring.drain() == [b"first", b"wrapped around"]
    assert ring.consumed[0] == ring.produced[0]


def test_discarded_ring_records_are_passed_over() -> None:
    ring = Ring(position=0)
    ring.put(b"gone", bits=1 << 30)
    ring.put(b"here")
    assert ring.drain() == [b"here"]
    ring.put(b"gone", bits=1 << 30)
    assert ring.drain() == []
    assert ring.consumed[0] == ring.produced[0]


def test_a_busy_ring_record_holds_back_those_behind_it() -> None:
    ring = Ring(position=0)
    ring.put(b"one")
    ring.put(b"two", bits=1 << 31)
    ring.put(b"three")
    assert ring.drain() == [b"one"]
    assert ring.consumed[0] == 16
    ring.data.cast("I")[4] = len(b"two")
    assert ring.drain() == [b"two", b"three"]
