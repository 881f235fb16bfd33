"""The fast readers read what the slow ones read, and leave to them what they cannot."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cubelet.sources.api.reader import Reader
from cubelet.sources.api.resources import Resource, resources
from cubelet.sources.api.typed import PodReader, Pool, read_slice
from cubelet.sources.decode import ObjectError, decode_object
from cubelet_hooks.objects import Object

OWN = "node1"
RESOURCES = {each.kind: each for each in resources("kube-system/cubelet")}

# Values that are right, wrong, empty, absent: what is wrong in one place is right in another.
names = st.sampled_from(["a", "web-1", "A", "", None, 7, "a.b", "a\n", "x" * 300])
texts = st.sampled_from(["", "http", "node1", "Ready", "True", "Running", "Failed", None, 1])
numbers = st.sampled_from([0, 1, 80, 65535, 65536, -1, "80", None, True])
flags = st.sampled_from([True, False, None, "true"])
addresses = st.sampled_from(
    ["10.0.0.1", "fd00::1", "10.0.0.01", "fe80::1%eth0", "", "x", None, "::ffff:10.0.0.1"]
)
protocols = st.sampled_from(["TCP", "UDP", "SCTP", "", None, "tcp", 6])
labels: st.SearchStrategy[Any] = st.sampled_from(
    [None, {}, {"app": "a"}, {"a": None}, {"a": 1}, [], {"kubernetes.io/service-name": "web"}]
)


def some(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A mapping with any of the fields; sometimes something else."""
    whole = st.fixed_dictionaries({}, optional={**fields, "unknown": st.just([1])})
    return st.one_of(whole, whole, whole, st.sampled_from([None, [], "x"]))


def few(item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.one_of(st.lists(item, max_size=2), st.none())


def document(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    metadata = st.fixed_dictionaries(
        {"name": st.one_of(st.just("web"), names)},
        optional={
            "namespace": st.one_of(st.just("default"), names),
            "labels": labels,
            # Right ones only: of other nodes' pods the fast reader does not look at them.
            "annotations": st.sampled_from([None, {}, {"a": "b"}]),
            "uid": st.sampled_from(["", "u", None]),
            "deletionTimestamp": st.sampled_from([None, "2026-01-01T00:00:00Z"]),
        },
    )
    return st.fixed_dictionaries({"metadata": metadata}, optional=dict(fields))


endpoint = some(
    addresses=few(addresses),
    conditions=some(ready=flags, serving=flags, terminating=flags),
    nodeName=texts,
    zone=texts,
    targetRef=some(kind=st.sampled_from(["Pod", "Node", None]), name=texts, namespace=texts),
)
slices = document(
    addressType=st.sampled_from(["IPv4", "IPv4", "IPv4", "IPv6", "FQDN", "", None]),
    endpoints=few(endpoint),
    ports=few(some(name=texts, protocol=protocols, port=numbers)),
)
container = some(
    restartPolicy=st.sampled_from(["Always", None, "Never"]),
    ports=few(
        some(
            containerPort=numbers,
            protocol=protocols,
            name=st.sampled_from(["http", "", None, "HTTP", "80", "a" * 16]),
            hostPort=numbers,
            hostIP=addresses,
        )
    ),
)
pods = document(
    spec=some(
        nodeName=texts,
        hostNetwork=flags,
        containers=few(container),
        initContainers=few(container),
    ),
    status=some(
        phase=texts,
        podIP=addresses,
        podIPs=few(some(ip=addresses)),
        conditions=few(some(type=texts, status=texts)),
    ),
)


def slowly(resource: Resource, manifest: dict[str, Any]) -> Object | str | None:
    """What the readers of manifests make of it, trimmed; of a mistake, its text."""
    full = {**manifest, "kind": resource.kind, "apiVersion": resource.api_version}
    try:
        found = decode_object(full)
    except ObjectError as error:
        return str(error)
    return resource.trim(found, OWN) if resource.trim else found


def read(resource: Resource, manifest: dict[str, Any]) -> Object | str | None:
    try:
        return Reader(resource, OWN).read(msgspec.json.encode(manifest))[1]
    except ObjectError as error:
        return str(error)


@given(slices)
def test_slices(manifest: dict[str, Any]) -> None:
    resource = RESOURCES["EndpointSlice"]
    assert read(resource, manifest) == slowly(resource, manifest)


@given(pods)
def test_pods(manifest: dict[str, Any]) -> None:
    resource = RESOURCES["Pod"]
    assert read(resource, manifest) == slowly(resource, manifest)


SLICE = {
    "metadata": {"name": "web-x", "namespace": "b", "labels": {"kubernetes.io/service-name": "w"}},
    "addressType": "IPv6",
    "endpoints": [
        {
            "addresses": ["fd00::1"],
            "conditions": {"ready": False, "serving": True, "terminating": True},
            "nodeName": "node1",
            "zone": "z",
            "targetRef": {"kind": "Pod", "namespace": "b", "name": "p"},
        }
    ],
    "ports": [{"name": "http", "protocol": "TCP", "port": 80}, {"name": "any"}],
}
POD = {
    "metadata": {"name": "p", "namespace": "b", "labels": {"a": "b"}, "uid": "u"},
    "spec": {
        "nodeName": "node1",
        "containers": [{"ports": [{"containerPort": 80, "name": "http", "hostPort": 8080}]}],
        "initContainers": [
            {"ports": [{"containerPort": 81}]},
            {"restartPolicy": "Always", "ports": [{"containerPort": 82}]},
        ],
    },
    "status": {
        "phase": "Running",
        "podIPs": [{"ip": "10.1.0.2"}, {"ip": "fd00::2"}],
        "conditions": [{"type": "Ready", "status": "True"}],
    },
}


def test_ordinary_objects_take_the_fast_way() -> None:
    raw = msgspec.json.encode
    assert read_slice(raw(SLICE)) == slowly(RESOURCES["EndpointSlice"], SLICE)
    assert PodReader(OWN).read(raw(POD)) == slowly(RESOURCES["Pod"], POD)


def test_equal_values_are_one() -> None:
    reader = PodReader("other")
    one, two = (reader.read(msgspec.json.encode(POD)) for _ in range(2))
    assert one.labels is two.labels
    assert one.ports is two.ports
    assert one.node_name is two.node_name


def test_a_pool_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cubelet.sources.api.typed._POOLED", 2)
    pool = Pool[str]()
    for key in "abc":
        assert pool.add(key, key) == key
    assert [pool.get(key) for key in "abc"] == [None, None, "c"]
