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


class Values:
    """Strategies for parts of a document: what is right, and, if it is ``wild``, what is not."""

    def __init__(self, *, wild: bool) -> None:
        self._wild = wild

    def pick(self, right: list[Any], wrong: list[Any]) -> st.SearchStrategy[Any]:
        return st.sampled_from(right + wrong if self._wild else right)

    def some(self, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        """A mapping with any of the fields."""
        whole = st.fixed_dictionaries({}, optional={**fields, "unknown": st.just([1])})
        return st.one_of(whole, whole, whole, self.pick([None], [[], "x"]))

    def few(self, item: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
        items = item if self._wild else item.filter(lambda each: each is not None)
        return st.one_of(st.lists(items, max_size=2), self.pick([None], [{}]))

    def names(self) -> st.SearchStrategy[Any]:
        return self.pick(["web", "web-1"], ["A", "", None, 7, "a.b", "a\n", "x" * 300])

    def texts(self) -> st.SearchStrategy[Any]:
        return self.pick(["http", "node1", "Ready", "True", "Running", "Failed", "", None], [1])

    def numbers(self) -> st.SearchStrategy[Any]:
        return self.pick([1, 80, 65535], [0, 65536, -1, "80", None, True])

    def flags(self) -> st.SearchStrategy[Any]:
        return self.pick([True, False, None], ["true"])

    def addresses(self, *right: str) -> st.SearchStrategy[Any]:
        wrong = ["10.0.0.01", "fe80::1%eth0", "", "x", None, "10.0.0.1", "fd00::1"]
        return self.pick([*right], wrong)

    def protocols(self) -> st.SearchStrategy[Any]:
        return self.pick(["TCP", "UDP", "SCTP", None], ["", "tcp", 6])

    def document(self, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
        service = {"kubernetes.io/service-name": "web"}
        metadata = st.fixed_dictionaries(
            {"name": self.names()},
            optional={
                "namespace": self.names(),
                "labels": self.pick([None, {}, {"a": "b"}, service], [{"a": None}, {"a": 1}, []]),
                # Right ones only: of other nodes' pods the fast reader does not look at them.
                "annotations": st.sampled_from([None, {}, {"a": "b"}]),
                "uid": st.sampled_from(["", "u", None]),
                "deletionTimestamp": st.sampled_from([None, "2026-01-01T00:00:00Z"]),
            },
        )
        return st.fixed_dictionaries({"metadata": metadata}, optional=dict(fields))

    def slices(self) -> st.SearchStrategy[dict[str, Any]]:
        flags, texts = self.flags(), self.texts()
        target = st.fixed_dictionaries(
            {"name": self.names()},
            optional={"kind": self.pick(["Pod", "Node", None], [1]), "namespace": texts},
        )
        endpoint = st.fixed_dictionaries(
            {"addresses": st.lists(self.addresses("10.0.0.1", "10.0.0.2"), min_size=1)},
            optional={
                "conditions": self.some(ready=flags, serving=flags, terminating=flags),
                "nodeName": texts,
                "zone": texts,
                "targetRef": st.one_of(target, self.pick([None], [[], {"kind": "Pod"}])),
            },
        )
        port = self.some(name=texts, protocol=self.protocols(), port=self.numbers())
        return self.document(endpoints=self.few(endpoint), ports=self.few(port)).flatmap(
            lambda rest: st.fixed_dictionaries(
                {"addressType": self.pick(["IPv4"], ["IPv6", "FQDN", "", None])}
            ).map(lambda first: {**rest, **first})
        )

    def pods(self) -> st.SearchStrategy[dict[str, Any]]:
        port = st.fixed_dictionaries(
            {"containerPort": self.numbers()},
            optional={
                "protocol": self.protocols(),
                "name": self.pick(["http", "web-1"], ["", None, "HTTP", "80", "a" * 16]),
                "hostPort": self.pick([0, 8080, None], [65536, -1, "80"]),
                "hostIP": self.addresses("127.0.0.1", "::1"),
            },
        )
        restart = self.pick(["Always", None], ["Never", 1])
        containers = self.few(self.some(restartPolicy=restart, ports=self.few(port)))
        address, texts = self.addresses("10.1.0.2", "fd00::2"), self.texts()
        return self.document(
            spec=self.some(
                nodeName=texts,
                hostNetwork=self.flags(),
                containers=containers,
                initContainers=containers,
            ),
            status=self.some(
                phase=texts,
                podIP=address,
                podIPs=self.few(st.fixed_dictionaries({"ip": address})),
                conditions=self.few(self.some(type=texts, status=texts)),
            ),
        )


tame, wild = Values(wild=False), Values(wild=True)


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


@given(st.one_of(tame.slices(), wild.slices()))
def test_slices(manifest: dict[str, Any]) -> None:
    resource = RESOURCES["EndpointSlice"]
    assert read(resource, manifest) == slowly(resource, manifest)


@given(st.one_of(tame.pods(), wild.pods()))
def test_pods(manifest: dict[str, Any]) -> None:
    resource = RESOURCES["Pod"]
    assert read(resource, manifest) == slowly(resource, manifest)


@given(tame.slices(), tame.pods())
def test_what_is_right_takes_the_fast_way(one: dict[str, Any], other: dict[str, Any]) -> None:
    """So that the comparison above compares two readers."""
    read_slice(msgspec.json.encode(one))
    PodReader(OWN).read(msgspec.json.encode(other))


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
