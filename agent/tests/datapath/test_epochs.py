"""Whose verdicts are stale after a change: one address, several, a network, a namespace, all."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from cubelet.bpf.constants import MapFlags, MapType
from cubelet.bpf.layout import MapLayout
from cubelet.bpf.maps import BpfMap
from cubelet.composer.core import VALUE_MAPS
from cubelet.datapath.epochs import Epochs
from cubelet.testkit.samples import view
from cubelet_hooks import maps
from cubelet_hooks.flows import Count, Index, epoch_bucket
from cubelet_hooks.maps import EVERYTHING, Concerned, Map, PodsOf
from cubelet_hooks.objects import Pod

A, B, C = (ip_address(f"10.1.0.{n}") for n in (2, 3, 4))
STATE = view(
    Pod("shop", "a", ips=(A,)),
    Pod("shop", "b", ips=(B, ip_address("fd00::3"))),
    Pod("bank", "c", ips=(C,)),
)


class Bench:
    """Epochs, and which of them were raised."""

    def __init__(self) -> None:
        (words,) = (each.size for each in VALUE_MAPS if each.name == "epochs")
        layout = MapLayout(MapType.ARRAY, 4, words, 1, MapFlags.MMAPABLE)
        self.table = BpfMap.create("epochs", layout)
        self.epochs = Epochs(self.table, STATE)
        self._format = f"={words // 4}I"

    def raised(self, *concerned: Concerned) -> set[int]:
        """The numbers of buckets that this raises; -1: everything."""
        before = self._values()
        self.epochs.raise_for(concerned)
        changed = zip(before, self._values(), strict=True)
        return {n - 2 if n else -1 for n, (old, new) in enumerate(changed) if new == old + 1}

    def _values(self) -> tuple[int, ...]:
        return struct.unpack(self._format, self.table.lookup(bytes(4)) or b"")


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.epochs.close()
    made.table.close()


def buckets(addresses: Iterable[object]) -> set[int]:
    return {epoch_bucket(ip_address(str(each))) for each in addresses}


def test_a_network_is_its_addresses(bench: Bench) -> None:
    network = ip_network("10.1.7.0/24")
    assert bench.raised(network) == buckets(network)
    assert bench.raised(A, ip_network(f"{B}/32")) == buckets((A, B))
    assert bench.raised() == set()


def test_a_namespace_is_its_pods(bench: Bench) -> None:
    assert bench.raised(PodsOf("shop")) == buckets((A, B, "fd00::3"))
    assert bench.raised(PodsOf("nobody")) == set()


@pytest.mark.parametrize(
    "concerned",
    [
        (EVERYTHING, A),
        (ip_network("10.0.0.0/8"),),
        (ip_network("::/0"),),
        tuple(ip_network(f"10.1.{n}.0/24") for n in range(5)),
    ],
    ids=["said so", "large", "huge", "many"],
)
def test_too_many_are_everything(bench: Bench, concerned: tuple[Concerned, ...]) -> None:
    assert bench.raised(*concerned) == {-1}


@pytest.mark.parametrize(
    ("said", "meant"),
    [
        (None, set()),
        (A, {A}),
        (ip_network("10.1.0.0/24"), {ip_network("10.1.0.0/24")}),
        (EVERYTHING, {EVERYTHING}),
        (PodsOf("shop"), {PodsOf("shop")}),
        ((A, PodsOf("shop")), {A, PodsOf("shop")}),
        ([], set()),
        (7, {EVERYTHING}),
        (["10.1.0.1"], {EVERYTHING}),
    ],
)
def test_an_entry_may_concern_one_or_several(said: Any, meant: set[object]) -> None:
    declared = Map("m", maps.MapType.HASH, Index, Count, 1, concerns=lambda key, value: said)
    assert declared.concerned(Index(1), Count(2)) == meant
