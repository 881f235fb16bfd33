"""Entries of a map of an earlier layout that go on in today's (needs root)."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import structlog

from cubelet.bpf.fs import BPFFS
from cubelet.bpf.layout import join_cpus, possible_cpus, split_cpus
from cubelet.bpf.maps import BpfMap
from cubelet.composer.core import Core, CoreSettings
from cubelet.composer.layout import map_specs
from cubelet.datapath.maps import close_maps, open_maps
from cubelet_hooks.cube import Cube, Settings
from cubelet_hooks.flows import Index
from cubelet_hooks.maps import Earlier, Map, MapType
from cubelet_hooks.records import U32, U64, Record


class Before(Record):
    """Packets, as they were counted once."""

    packets: U32


class Now(Record):
    """Packets and bytes."""

    packets: U64
    bytes: U64


def grown(key: Index, value: Before) -> tuple[Index, Now]:
    return key, Now(value.packets, 100 * value.packets)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for pins."""
    path = BPFFS / f"cubelet-test-migration-{os.getpid()}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


@contextmanager
def opened(folder: Path, kind: MapType, value: type[Record], **more: Any) -> Iterator[BpfMap]:
    """The one map of a cube, pinned."""
    size = more.pop("size", 8)
    declared = Map("counts", kind, Index, value, size, planned=False, **more)
    cube = type("Meter", (Cube,), {"kind": "meter", "maps": (declared,)})
    specs = map_specs(Core("cubelet", CoreSettings()), [cube("meter0", Settings())])
    maps = open_maps([each for each in specs if each.owner == "meter0"], folder)
    try:
        yield maps["meter0_counts"]
    finally:
        close_maps(maps)


def earlier(migrate: Callable[..., Any] = grown, kind: MapType | None = None) -> tuple[Earlier]:
    return (Earlier(Index, Before, migrate, kind),)


def fill(folder: Path, kind: MapType, *numbers: int) -> None:
    with opened(folder, kind, Before) as old:
        old.update_batch((Index(each).pack(), Before(each).pack()) for each in numbers)


def held(table: BpfMap) -> dict[int, Now]:
    found = {Index.unpack(key).index: Now.unpack(value) for key, value in table.items()}
    return {index: now for index, now in found.items() if now.packets}


@pytest.mark.parametrize("kind", [MapType.HASH, MapType.LRU_HASH, MapType.ARRAY])
def test_entries_go_on_once(folder: Path, kind: MapType) -> None:
    fill(folder, kind, 1, 2)
    with opened(folder, kind, Now, earlier=earlier()) as table:
        assert held(table) == {1: Now(1, 100), 2: Now(2, 200)}
        table.update(Index(1).pack(), Now(7, 7).pack())
    with opened(folder, kind, Now, earlier=earlier()) as again:
        assert held(again)[1] == Now(7, 7), "what has gone on is not overwritten"


def test_without_a_word_another_layout_begins_empty(folder: Path) -> None:
    fill(folder, MapType.HASH, 1)
    with opened(folder, MapType.HASH, Now) as table:
        assert held(table) == {}


def test_a_map_of_another_type_goes_on(folder: Path) -> None:
    fill(folder, MapType.HASH, 1)
    with opened(folder, MapType.ARRAY, Now, earlier=earlier(kind=MapType.HASH)) as table:
        assert held(table) == {1: Now(1, 100)}


def test_each_cpus_value_goes_on(folder: Path) -> None:
    cpus = range(possible_cpus())
    with opened(folder, MapType.PERCPU_HASH, Before) as old:
        values = tuple(Before(1 + cpu).pack() for cpu in cpus)
        old.update(Index(3).pack(), join_cpus(values, old.layout))
    with opened(folder, MapType.PERCPU_HASH, Now, earlier=earlier()) as table:
        raw = table.lookup(Index(3).pack())
        assert raw is not None
        found = [Now.unpack(each) for each in split_cpus(raw, table.layout)]
        assert found == [Now(1 + cpu, 100 + 100 * cpu) for cpu in cpus]


def some(key: Index, value: Before) -> object:
    if key.index == 1:
        raise ValueError("never seen such a thing")
    if key.index == 2:
        return None
    if key.index == 3:
        return key, value  # of the layout before
    return grown(key, value)


def test_what_cannot_go_on_is_left_out_and_told(folder: Path) -> None:
    fill(folder, MapType.HASH, 1, 2, 3, 4)
    with (
        structlog.testing.capture_logs() as logs,
        opened(folder, MapType.HASH, Now, earlier=earlier(some)) as table,
    ):
        assert held(table) == {4: Now(4, 400)}
    (said,) = [line for line in logs if line["event"] == "entries carried over"]
    assert (said["carried"], said["lost"]) == (1, 2)


def test_what_finds_no_room_is_left_out(folder: Path) -> None:
    fill(folder, MapType.HASH, 1, 2, 3, 4)
    with (
        structlog.testing.capture_logs() as logs,
        opened(folder, MapType.HASH, Now, earlier=earlier(), size=2) as table,
    ):
        assert len(held(table)) == 2
    (said,) = [line for line in logs if line["event"] == "entries carried over"]
    assert (said["carried"], said["lost"]) == (2, 2)
