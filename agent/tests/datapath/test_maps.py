"""Maps of a composition: found again by their pins, copied when resized, never misread."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from cubelet.bpf.constants import MapType
from cubelet.bpf.fs import BPFFS
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.bpf.syscalls import BpfError
from cubelet.composer.layout import MapSpec
from cubelet.datapath.maps import close_maps, open_maps

HASH = MapLayout(MapType.HASH, 4, 8, 16)
KEY, VALUE = b"key1", b"12345678"


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder for pins."""
    path = BPFFS / f"cubelet-test-mapstore-{os.getpid()}"
    yield path
    shutil.rmtree(path, ignore_errors=True)


def spec(layout: MapLayout = HASH, identity: str = "v1", per_composition: bool = False) -> MapSpec:
    return MapSpec("lbrp0", "services", layout, identity, per_composition=per_composition)


def only(specs: list[MapSpec], folder: Path | None) -> BpfMap:
    (table,) = open_maps(specs, folder).values()
    return table


def test_a_pinned_map_is_found_again_with_what_it_holds(folder: Path) -> None:
    with only([spec()], folder) as first:
        first.update(KEY, VALUE)
        number = first.info.id
    with only([spec()], folder) as again:
        assert again.info.id == number
        assert dict(again.items()) == {KEY: VALUE}
    assert [pin.name for pin in folder.iterdir()] == ["lbrp0_services-v1"]


def test_maps_of_a_composition_or_of_no_folder_are_not_pinned(folder: Path) -> None:
    for specs, where in (([spec(per_composition=True)], folder), ([spec()], None)):
        ids = []
        for _ in range(2):
            with only(specs, where) as table:
                ids.append(table.info.id)
        assert ids[0] != ids[1]
    assert list(folder.iterdir()) == []


def test_another_layout_is_another_map(folder: Path) -> None:
    with only([spec()], folder) as old, only([spec(identity="v2")], folder) as new:
        old.update(KEY, VALUE)
        assert dict(new.items()) == {}
    assert {pin.name for pin in folder.iterdir()} == {"lbrp0_services-v1", "lbrp0_services-v2"}


@pytest.mark.parametrize("size", [4, 64])
def test_another_size_keeps_the_records(folder: Path, size: int) -> None:
    with only([spec()], folder) as old:
        old.update(KEY, VALUE)
    with only([spec(replace(HASH, max_entries=size))], folder) as table:
        assert table.layout.max_entries == size
        assert dict(table.items()) == {KEY: VALUE}
    with only([spec(replace(HASH, max_entries=size))], folder) as again:
        assert dict(again.items()) == {KEY: VALUE}


def test_a_size_that_is_too_small_is_not_taken(folder: Path) -> None:
    with only([spec()], folder) as old:
        for number in range(8):
            old.update(number.to_bytes(4), VALUE)
        identity = old.info.id
    with only([spec(replace(HASH, max_entries=4))], folder) as table:
        assert table.info.id == identity
        assert len(dict(table.items())) == 8


def test_a_ring_buffer_is_made_anew(folder: Path) -> None:
    ring = MapLayout(MapType.RINGBUF, 0, 0, 4096)
    only([spec(ring)], folder).close()
    with only([spec(replace(ring, max_entries=8192))], folder) as table:
        assert table.layout.max_entries == 8192
        number = table.info.id
    with only([spec(replace(ring, max_entries=8192))], folder) as again:
        assert again.info.id == number


def test_a_pin_of_another_shape_is_refused_and_stays(folder: Path) -> None:
    only([spec()], folder).close()
    wanted = replace(HASH, value_size=16)
    with pytest.raises(BpfError, match=r"lbrp0_services-v1.*value_size.*remove the pin"):
        open_maps([spec(wanted)], folder)
    with only([spec()], folder) as table:
        assert table.layout == HASH


def test_closing_leaves_the_pins(folder: Path) -> None:
    maps = open_maps([spec(), replace(spec(), name="backends")], folder)
    assert set(maps) == {"lbrp0_services", "lbrp0_backends"}
    close_maps(maps)
    assert len(list(folder.iterdir())) == 2
