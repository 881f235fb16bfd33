"""Whatever an object's JSON holds, it is read or refused with a reason; nothing else happens."""

from __future__ import annotations

import copy
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubelet.sources.api.reader import Reader
from cubelet.sources.api.resources import resources
from cubelet.sources.api.store import Malformed, Store
from cubelet_hooks.objects import Change

from .following import endpoints, node, pod, service

RESOURCES = {each.kind: each for each in resources("kube-system/cubelet")}
POLICY = {
    "metadata": {"name": "a"},
    "spec": {
        "podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}],
        "egress": [{"to": [{"namespaceSelector": {}}], "ports": [{"port": 80, "endPort": 90}]}],
    },
}
VALID: dict[str, dict[str, Any]] = {
    "Node": node("a"),
    "Namespace": {"metadata": {"name": "a", "labels": {"a": "b"}}},
    "Pod": pod("a"),
    "Service": service("a"),
    "EndpointSlice": endpoints("a", "10.1.0.2"),
    "NetworkPolicy": POLICY,
    "ConfigMap": {"metadata": {"name": "a"}, "data": {"a": "b"}},
}
ODD: list[Any] = [None, True, 0, -1, 2**70, 1.5, "", "x", "\0", "\U0001f600", "1" * 5000, []]
ODD += [{}, [None], [[]], [{}], {"a": None}, {"": ""}, {"a": {"b": []}}]


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The paths to all parts of a document, itself included."""
    below: list[tuple[Any, Any]] = []
    if isinstance(value, dict | list):
        below = list(value.items() if isinstance(value, dict) else enumerate(value))
    return [path, *(place for step, each in below for place in places(each, (*path, step)))]


def replaced(document: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    changed = copy.deepcopy(document)
    part = changed
    for step in path[:-1]:
        part = part[step]
    part[path[-1]] = value
    return changed


def store(kind: str) -> tuple[Store, list[Change], list[Malformed]]:
    changes: list[Change] = []
    refused: list[Malformed] = []
    reader = Reader(RESOURCES[kind], "node1")
    return Store(reader, changes.append, refused.append, lambda: None), changes, refused


@pytest.mark.parametrize("kind", VALID)
@given(data=st.data())
def test_any_part_may_be_anything(kind: str, data: st.DataObject) -> None:
    path = data.draw(st.sampled_from(places(VALID[kind])))
    odd = replaced(VALID[kind], path, data.draw(st.sampled_from(ODD)))
    known, changes, refused = store(kind)
    key = known.put(msgspec.json.encode(odd))
    assert len(changes) + len(refused) == 1
    if key is not None:
        known.remove(key)
        assert not known.problems()


@pytest.mark.parametrize("kind", VALID)
def test_what_is_right_is_taken(kind: str) -> None:
    known, changes, refused = store(kind)
    assert known.put(msgspec.json.encode(VALID[kind])) == changes[0].key
    assert not refused


@pytest.mark.parametrize("raw", [b"", b"{", b"null", b'"\xff"', b"[" * 100_000, b"nonsense"])
def test_bytes_that_are_no_object(raw: bytes) -> None:
    known, changes, refused = store("Pod")
    assert known.put(raw) is None
    assert not changes
    assert len(refused) == 1
    assert refused[0].name == ""
