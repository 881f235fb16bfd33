"""The large cluster that an agent is measured with is one that a real server could hold."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import fleet, sync
from bench.__main__ import main
from bench.fleet import Fleet
from cubelet.lab.apiserver.resources import named
from cubelet.lab.apiserver.store import fresh
from cubelet.sources.decode import decode_object
from cubelet_hooks.objects import EndpointSlice, Object, Pod, Service

SIZE = Fleet(nodes=7, services=10, endpoints=50, pods=50)


def objects() -> Iterator[Object]:
    for plural, manifests in (
        ("namespaces", fleet.namespaces()),
        ("nodes", fleet.nodes(SIZE)),
        ("services", fleet.services(SIZE)),
        ("endpointslices", fleet.slices(SIZE)),
        ("pods", fleet.pods(SIZE)),
    ):
        for manifest in manifests:
            yield decode_object(fresh(named(plural), manifest))


def test_its_objects_fit_together() -> None:
    found = list(objects())
    services = {each.key: each for each in found if isinstance(each, Service)}
    pods = {each.key: each for each in found if isinstance(each, Pod)}
    slices = [each for each in found if isinstance(each, EndpointSlice)]
    assert len(services) == len(slices) == 10
    assert {each.service_key for each in slices} == services.keys()
    endpoints = [endpoint for each in slices for endpoint in each.endpoints]
    assert {each.target for each in endpoints} == pods.keys()
    assert all(pods[each.target].ips == each.addresses for each in endpoints)
    assert len({each.addresses for each in endpoints}) == 50


def test_a_move_changes_one_address() -> None:
    one, two = (decode_object(fleet.endpoint_slice(SIZE, 3, move)) for move in (0, 1))
    assert isinstance(one, EndpointSlice)
    assert isinstance(two, EndpointSlice)
    assert one.endpoints[:-1] == two.endpoints[:-1]
    assert one.endpoints[-1].addresses != two.endpoints[-1].addresses


@pytest.mark.skipif(os.geteuid() != 0, reason="a lab needs root")
def test_the_benchmark_measures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "LARGE", sync.SMALL)
    monkeypatch.setattr(sync, "WITH_PODS", sync.SMALL)
    monkeypatch.setattr(sync, "SYNCS", 1)
    monkeypatch.setattr(sync, "MOVES", 5)
    monkeypatch.setattr(sync, "_CHURN_SECONDS", 1.0)
    assert main(["sync", "--json", str(tmp_path / "rows.json")]) == 0
    rows = json.loads((tmp_path / "rows.json").read_text())
    found = {(row["case"], row["variant"]): row["median"] for row in rows}
    assert len(found) == 15
    assert all(value > 0 for value in found.values())
