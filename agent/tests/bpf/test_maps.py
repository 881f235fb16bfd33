"""Maps, their pins and their sizes, on real maps of the running kernel (needs root)."""

from __future__ import annotations

import errno
import os
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from cubelet.bpf import batch, fs, rcu
from cubelet.bpf.constants import Cmd, MapFlags, MapType, UpdateMode
from cubelet.bpf.layout import MapLayout, join_cpus, possible_cpus, same_layout
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.programs import BpfProgram, load
from cubelet.bpf.resize import resize
from cubelet.bpf.syscalls import BpfError
from cubelet.bpf.tcx import RETURN_ZERO

HASH = MapLayout(MapType.HASH, 4, 8, 64)
LPM = MapLayout(MapType.LPM_TRIE, 8, 4, 64, MapFlags.NO_PREALLOC)


def u32(number: int) -> bytes:
    return struct.pack("=I", number)


def u64(number: int) -> bytes:
    return struct.pack("=Q", number)


def prefix(length: int, *address: int) -> bytes:
    return u32(length) + bytes(address)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = fs.ensure_bpffs(fs.BPFFS / f"cubelet-test-maps-{os.getpid()}")
    yield path
    fs.unlink_tree(path)


@pytest.fixture
def table() -> Iterator[BpfMap]:
    with BpfMap.create("test_hash", HASH) as created:
        yield created


def test_records_are_written_read_and_deleted(table: BpfMap) -> None:
    assert table.lookup(u32(1)) is None
    table.update(u32(1), u64(10))
    table.update(u32(1), u64(11), UpdateMode.EXIST)
    assert table.lookup(u32(1)) == u64(11)
    assert table.delete(u32(1)) is True
    assert table.delete(u32(1)) is False


def test_update_modes_are_kept(table: BpfMap) -> None:
    with pytest.raises(BpfError) as absent:
        table.update(u32(1), u64(1), UpdateMode.EXIST)
    assert absent.value.errno == errno.ENOENT
    table.update(u32(1), u64(1), UpdateMode.NOEXIST)
    with pytest.raises(BpfError) as present:
        table.update(u32(1), u64(2), UpdateMode.NOEXIST)
    assert present.value.errno == errno.EEXIST
    assert table.lookup(u32(1)) == u64(1)


def test_wrong_lengths_never_reach_the_kernel(table: BpfMap) -> None:
    for call in (
        lambda: table.lookup(b"abc"),
        lambda: table.delete(b"abcde"),
        lambda: table.update(u32(1), b"short"),
        lambda: table.update_batch([(u32(1), u64(1)), (u32(2), b"short")]),
        lambda: table.delete_batch([b"abc"]),
    ):
        with pytest.raises(ValueError, match=r"map test_hash: .* bytes, not"):
            call()
    assert list(table.items()) == []


def test_a_full_map_says_what_to_do() -> None:
    with BpfMap.create("tiny", MapLayout(MapType.HASH, 4, 8, 2)) as tiny:
        with pytest.raises(BpfError, match=r"records of map tiny: .*raise its size") as full:
            tiny.update_batch((u32(i), u64(i)) for i in range(3))
        assert full.value.errno == errno.E2BIG


def test_a_closed_map_is_no_other_descriptor(table: BpfMap) -> None:
    table.close()
    table.close()
    with pytest.raises(ValueError, match="map test_hash is closed"):
        table.lookup(u32(1))


def test_info_tells_the_layout_and_the_cut_name() -> None:
    with BpfMap.create("a_name_longer_than_the_kernels", LPM) as table:
        assert (table.info.layout, table.info.name) == (LPM, "a_name_longer_t")
        assert table.info.id > 0
        assert same_layout(table.info, LPM)


@pytest.mark.parametrize(
    "kind",
    [MapType.HASH, MapType.LRU_HASH, MapType.PERCPU_HASH, MapType.LRU_PERCPU_HASH],
    ids=lambda kind: kind.name,
)
def test_thousands_of_hash_records_in_batches(kind: MapType) -> None:
    layout = MapLayout(kind, 4, 8, 20_000)
    value = {i: u64(i) * (layout.value_stride // 8) for i in range(9_000)}
    wanted = {u32(i): value[i] for i in value}
    with BpfMap.create("big", layout) as table:
        table.update_batch(wanted.items())
        assert sorted(table.items()) == sorted(wanted.items())
        table.delete_batch(list(wanted)[1:])
        assert list(table.items()) == [(u32(0), value[0])]


def test_arrays_list_every_index() -> None:
    with BpfMap.create("array", MapLayout(MapType.ARRAY, 4, 4, 5000)) as table:
        table.update(u32(4999), u32(7))
        found = list(table.items())
    assert [key for key, _ in found] == [u32(i) for i in range(5000)]
    assert (found[4998][1], found[4999][1]) == (u32(0), u32(7))


def test_a_bucket_fuller_than_the_batch_is_read(
    table: BpfMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch, "_BATCH_RECORDS", 1)
    wanted = {u32(i): u64(i) for i in range(64)}
    table.update_batch(wanted.items())
    assert sorted(table.items()) == sorted(wanted.items())


def test_deleting_absent_keys_deletes_the_rest(table: BpfMap) -> None:
    table.update_batch((u32(i), u64(i)) for i in range(10))
    table.delete_batch([u32(99), u32(0), u32(1), u32(98), u32(97), u32(9), u32(96)])
    assert sorted(key for key, _ in table.items()) == [u32(i) for i in range(2, 9)]


def test_kernels_without_batches_do_it_one_by_one(
    table: BpfMap, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(cmd: Cmd, attr: object, action: str, subject: str) -> int:
        raise BpfError(errno.EINVAL, action, subject)

    monkeypatch.setattr(batch, "bpf", refuse)
    wanted = {u32(i): u64(i) for i in range(20)}
    table.update_batch(wanted.items())
    assert sorted(table.items()) == sorted(wanted.items())
    table.delete_batch([u32(50), *list(wanted)[1:]])
    assert list(table.items()) == [(u32(0), u64(0))]


def test_tries_match_the_longest_prefix_and_list_each_once() -> None:
    wide, narrow = prefix(8, 10, 0, 0, 0), prefix(24, 10, 1, 2, 0)
    with BpfMap.create("routes", LPM) as routes:
        routes.update_batch([(wide, u32(1)), (narrow, u32(2))])
        assert routes.lookup(prefix(32, 10, 1, 2, 3)) == u32(2)
        assert routes.lookup(prefix(32, 10, 9, 9, 9)) == u32(1)
        assert routes.lookup(prefix(32, 11, 0, 0, 1)) is None
        assert dict(routes.items()) == {wide: u32(1), narrow: u32(2)}
        routes.delete_batch([narrow, prefix(16, 10, 1, 0, 0)])
        assert dict(routes.items()) == {wide: u32(1)}


def test_a_walk_survives_deletion_of_the_key_it_stands_on() -> None:
    wanted = [prefix(32, 10, 0, 0, i) for i in range(50)]
    with BpfMap.create("routes", LPM) as routes:
        routes.update_batch((key, u32(1)) for key in wanted)
        found = []
        for key, _ in routes.items():  # noqa: PERF102 - a map is walked by its items
            found.append(key)
            routes.delete(key)
    assert sorted(found) == sorted(wanted)


def test_per_cpu_values_are_read_for_every_cpu() -> None:
    layout = MapLayout(MapType.PERCPU_ARRAY, 4, 12, 2)
    values = tuple(bytes([cpu]) * 12 for cpu in range(possible_cpus()))
    with BpfMap.create("counters", layout) as counters:
        counters.update(u32(1), join_cpus(values, layout))
        assert counters.lookup_cpus(u32(1)) == values
        assert counters.lookup_cpus(u32(2)) is None


def test_a_map_of_maps_takes_maps_of_the_models_layout() -> None:
    outer_layout = MapLayout(MapType.HASH_OF_MAPS, 4, 4, 8)
    with (
        BpfMap.create("inner", HASH) as inner,
        BpfMap.create("outer", outer_layout, inner=inner) as outer,
        BpfMap.create("odd", MapLayout(MapType.HASH, 4, 16, 64)) as odd,
    ):
        outer.update(u32(1), u32(inner.fd))
        assert outer.lookup(u32(1)) == u32(inner.info.id)
        with pytest.raises(BpfError) as refused:
            outer.update(u32(2), u32(odd.fd))
        assert refused.value.errno == errno.EINVAL


def test_pins_outlive_descriptors_and_are_listed(table: BpfMap, folder: Path) -> None:
    table.update(u32(1), u64(10))
    table.pin(folder / "services")
    with BpfMap.open(folder / "services") as again:
        assert (again.info.id, again.lookup(u32(1))) == (table.info.id, u64(10))
    (folder / "below").mkdir()
    table.pin(folder / "below" / "services")
    assert fs.pins(folder) == (folder / "below" / "services", folder / "services")
    assert fs.unlink(folder / "services") is True
    assert fs.unlink(folder / "services") is False
    fs.unlink_tree(folder / "below")
    assert fs.pins(folder) == ()


def test_pins_are_replaced_only_on_demand(table: BpfMap, folder: Path) -> None:
    table.pin(folder / "services")
    with BpfMap.create("second", HASH) as second:
        with pytest.raises(BpfError) as taken:
            second.pin(folder / "services")
        assert taken.value.errno == errno.EEXIST
        second.pin(folder / "services", replace=True)
        with BpfMap.open(folder / "services") as pinned:
            assert pinned.info.id == second.info.id
    assert fs.pins(folder) == (folder / "services",)


def test_what_is_pinned_must_be_of_the_kind(table: BpfMap, folder: Path) -> None:
    table.pin(folder / "a_map")
    with pytest.raises(BpfError, match=r"open the program pinned at .*a map is pinned there"):
        BpfProgram.open(folder / "a_map")
    with load(RETURN_ZERO, "zero") as program:
        program.pin(folder / "a_program")
    with pytest.raises(BpfError, match=r"open the map pinned at .*a program is pinned there"):
        BpfMap.open(folder / "a_program")


def test_pin_errors_name_path_and_remedy(table: BpfMap, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BpfError, match=f"{folder}/none.*nothing is pinned there"):
        BpfMap.open(folder / "none")
    with pytest.raises(BpfError, match="create the folder first"):
        table.pin(folder / "none" / "services")
    with pytest.raises(BpfError, match=r"may not contain a '\.'"):
        table.pin(folder / "10.0.0.1")
    with pytest.raises(BpfError, match="bpffs"):
        table.pin(tmp_path / "services")


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LRU_PERCPU_HASH], ids=lambda k: k.name)
def test_resizing_keeps_records_and_pin(kind: MapType, folder: Path) -> None:
    layout = MapLayout(kind, 4, 8, 64)
    wanted = {u32(i): u64(i) * (layout.value_stride // 8) for i in range(40)}
    with BpfMap.create("services", layout) as old:
        old.update_batch(wanted.items())
        old.pin(folder / "services")
    with resize(folder / "services", MapLayout(kind, 4, 8, 500)) as new:
        assert new.layout.max_entries == 500
        assert dict(new.items()) == wanted
        with BpfMap.open(folder / "services") as pinned:
            assert pinned.info.id == new.info.id


def test_resizing_never_drops_a_record(folder: Path) -> None:
    with BpfMap.create("services", HASH) as old:
        old.update_batch((u32(i), u64(i)) for i in range(40))
        old.pin(folder / "services")
        with pytest.raises(BpfError, match="do not fit into 39"):
            resize(folder / "services", MapLayout(MapType.HASH, 4, 8, 39))
        with pytest.raises(ValueError, match="more than size"):
            resize(folder / "services", MapLayout(MapType.HASH, 4, 16, 64))
        with BpfMap.open(folder / "services") as pinned:
            assert pinned.info.id == old.info.id
    assert fs.pins(folder) == (folder / "services",)


def test_an_array_shrinks_as_far_as_it_is_zero(folder: Path) -> None:
    with BpfMap.create("epochs", MapLayout(MapType.ARRAY, 4, 4, 16)) as old:
        old.update(u32(7), u32(1))
        old.pin(folder / "epochs")
    with pytest.raises(BpfError, match="do not fit into 7"):
        resize(folder / "epochs", MapLayout(MapType.ARRAY, 4, 4, 7))
    with resize(folder / "epochs", MapLayout(MapType.ARRAY, 4, 4, 8)) as new:
        assert new.lookup(u32(7)) == u32(1)


def test_maps_of_descriptors_are_not_copied(folder: Path) -> None:
    layout = MapLayout(MapType.PROG_ARRAY, 4, 4, 4)
    with BpfMap.create("jumps", layout) as jumps:
        jumps.pin(folder / "jumps")
    with pytest.raises(ValueError, match="a PROG_ARRAY map cannot be copied"):
        resize(folder / "jumps", MapLayout(MapType.PROG_ARRAY, 4, 4, 8))


def create_as_nobody() -> None:
    os.setresuid(65534, 65534, 65534)
    BpfMap.create("test_hash", HASH)


def test_without_privileges_the_error_says_which_are_missing() -> None:
    with (
        ProcessPoolExecutor(1, mp_context=get_context("fork")) as child,
        pytest.raises(BpfError, match=r"create map test_hash \(HASH, key 4, .*CAP_BPF") as refused,
    ):
        child.submit(create_as_nobody).result()
    assert refused.value.errno == errno.EPERM


def test_bpffs_is_told_from_other_filesystems(folder: Path, tmp_path: Path) -> None:
    assert fs.is_bpffs(folder)
    assert not fs.is_bpffs(tmp_path)
    assert not fs.is_bpffs(folder / "none")
    with pytest.raises(BpfError, match="mount -t bpf bpf"):
        fs.ensure_bpffs(tmp_path / "pins")
    with pytest.raises(ValueError, match="not on a bpf filesystem"):
        fs.unlink_tree(tmp_path)
    fs.unlink_tree(folder / "none")


def test_bpffs_is_mounted_where_it_is_missing() -> None:
    script = (
        "import subprocess\n"
        "from cubelet.bpf import fs\n"
        "subprocess.run(['umount', '-l', str(fs.BPFFS)], check=True)\n"
        "assert not fs.is_bpffs(fs.BPFFS)\n"
        "path = fs.ensure_bpffs(fs.BPFFS / 'cubelet' / 'node')\n"
        "assert path.is_dir() and fs.is_bpffs(path)\n"
        "assert fs.ensure_bpffs(path) == path\n"
    )
    alone = ["unshare", "--mount", "--propagation", "private", sys.executable, "-c", script]
    done = subprocess.run(alone, check=False, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


def test_synchronize_waits_by_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    rcu.synchronize()
    assert slept == []
    monkeypatch.setattr(rcu, "_MEMBARRIER_CMD_GLOBAL", 1 << 30)
    rcu.synchronize()
    assert slept == [rcu._LONG_ENOUGH]
