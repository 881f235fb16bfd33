"""The sweep of fragments that wait for their first, on real maps (needs root)."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

import pytest

from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.layout import MapLayout
from cubelet.composer.core import Keeper, KeeperKey, KeptFragment, KeptKey
from cubelet.datapath.fragments import FragmentSweeper
from cubelet_hooks.flows import FragmentKey

from ..helpers.tables import StandingClock, Table

HZ, NOW = 250, 100 * 250
LATE, WAITING = NOW - 32 * HZ, NOW - 29 * HZ


@pytest.fixture
def maps() -> Iterator[dict[str, Table]]:
    kept, keepers = KeptFragment.layout().size, Keeper.layout().size
    layouts = {
        "cubelet_kept": MapLayout(MapType.HASH, 8, kept, 64, MapFlags.NO_PREALLOC),
        "cubelet_keepers": MapLayout(MapType.HASH, 4, keepers, 64, MapFlags.NO_PREALLOC),
    }
    made = {name: Table.create(name, layout) for name, layout in layouts.items()}
    yield {name: each for name, each in made.items() if isinstance(each, Table)}
    for each in made.values():
        each.close()


def fragment(seen: int) -> bytes:
    address = ipaddress.IPv4Address("10.1.0.2")
    datagram = FragmentKey(src=address, dst=address, id=1, protocol=17)
    return KeptFragment(
        datagram=datagram,
        remote=0,
        seen=seen % (1 << 32),
        stamp=0,
        length=60,
        passed=0,
        frame=bytes(1920),
    ).pack()


def slot(number: int) -> bytes:
    return KeptKey(owner=7, slot=number).pack()


def test_what_is_late_goes_and_what_waits_stays(maps: dict[str, Table]) -> None:
    for number, seen in enumerate((LATE, WAITING, NOW, NOW + HZ)):
        maps["cubelet_kept"].update(slot(number), fragment(seen))
        keeper = Keeper(seen=seen, next=0, datagrams=0).pack()
        maps["cubelet_keepers"].update(KeeperKey(owner=number).pack(), keeper)
    sweeper = FragmentSweeper(maps, StandingClock(NOW, HZ))
    assert sweeper.sweep() == 2
    assert {key for key, _ in maps["cubelet_kept"].items()} == {slot(1), slot(2), slot(3)}
    assert len(dict(maps["cubelet_keepers"].items())) == 3
    assert sweeper.sweep() == 0


def test_jiffies_wrap(maps: dict[str, Table]) -> None:
    maps["cubelet_keepers"].update(
        KeeperKey(owner=7).pack(), Keeper(seen=5, next=0, datagrams=0).pack()
    )
    maps["cubelet_kept"].update(slot(0), fragment(-5 * HZ))
    maps["cubelet_kept"].update(slot(1), fragment(-40 * HZ))
    FragmentSweeper(maps, StandingClock(5, HZ)).sweep()
    assert [key for key, _ in maps["cubelet_kept"].items()] == [slot(0)]


def test_a_place_that_was_given_away_meanwhile_is_kept(maps: dict[str, Table]) -> None:
    table = maps["cubelet_kept"]
    maps["cubelet_keepers"].update(
        KeeperKey(owner=7).pack(), Keeper(seen=NOW, next=0, datagrams=0).pack()
    )
    table.update(slot(0), fragment(LATE))
    table.refreshed = {slot(0): fragment(NOW)}
    assert FragmentSweeper(maps, StandingClock(NOW, HZ)).sweep() == 0
    assert table.lookup(slot(0)) == fragment(NOW)
