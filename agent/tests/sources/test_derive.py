"""EndpointSlices derived from selectors."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

import msgspec
import pytest

from cubelet.sources.derive import EndpointDeriver
from cubelet.state.cluster import State
from cubelet_hooks.objects import (
    Change,
    ContainerPort,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    Node,
    Object,
    Pod,
    Service,
    ServicePort,
)


class Cluster:
    """A deriver whose output is applied to a state, as the agent does it."""

    def __init__(self) -> None:
        self.deriver = EndpointDeriver()
        self.state = State()

    def put(self, *objects: Object) -> list[Change]:
        return self._apply(*(Change.between(None, each) for each in objects))

    def remove(self, *objects: Object) -> list[Change]:
        return self._apply(*(Change.between(each, None) for each in objects))

    def _apply(self, *changes: Change) -> list[Change]:
        followed = (each for change in changes for each in self.deriver.apply(change))
        return [known for each in followed if (known := self.state.apply(each))]

    def slices(self) -> dict[str, EndpointSlice]:
        return dict(self.state.slices)

    def endpoints(self, slice_key: str = "shop/web-derived") -> list[Endpoint]:
        found = self.state.slices.get(slice_key)
        return list(found.endpoints) if found else []


def service(**other: Any) -> Service:
    fields: dict[str, Any] = {
        "ports": (ServicePort("http", "TCP", 80, 8080),),
        "cluster_ips": (ip_address("10.96.0.10"),),
        "selector": {"app": "web"},
    }
    return Service("shop", "web", **{**fields, **other})


def pod(number: int, **other: Any) -> Pod:
    fields: dict[str, Any] = {
        "labels": {"app": "web"},
        "node_name": "n1",
        "ips": (ip_address(f"10.1.1.{number + 10}"),),
        "phase": "Running",
        "ready": True,
    }
    return Pod("shop", f"web-{number}", **{**fields, **other})


@pytest.fixture
def cluster() -> Cluster:
    return Cluster()


def test_other_changes_pass_through(cluster: Cluster) -> None:
    change = Change.between(None, Node("n1"))
    assert cluster.deriver.apply(change) == [change]


@pytest.mark.parametrize("service_first", [True, False])
def test_ready_pods_become_endpoints(cluster: Cluster, service_first: bool) -> None:
    objects: list[Object] = [service(), pod(1), pod(0)]
    cluster.put(*(objects if service_first else reversed(objects)))
    assert cluster.slices() == {
        "shop/web-derived": EndpointSlice(
            namespace="shop",
            name="web-derived",
            service="web",
            address_type="IPv4",
            endpoints=(
                Endpoint((ip_address("10.1.1.10"),), node_name="n1", target="shop/web-0"),
                Endpoint((ip_address("10.1.1.11"),), node_name="n1", target="shop/web-1"),
            ),
            ports=(EndpointPort("http", "TCP", 8080),),
        )
    }


def test_only_what_changed_is_emitted(cluster: Cluster) -> None:
    cluster.put(service(), pod(0))
    assert [each.key for each in cluster.put(pod(1))] == ["shop/web-1", "shop/web-derived"]
    assert [each.key for each in cluster.put(pod(1, annotations={"a": "b"}))] == ["shop/web-1"]


def test_pods_of_others_are_not_selected(cluster: Cluster) -> None:
    cluster.put(service(selector={"app": "web", "tier": "front"}))
    cluster.put(pod(0), Pod("other", "web-1", labels={"app": "web", "tier": "front"}))
    assert not cluster.slices()


def test_pod_follows_its_labels(cluster: Cluster) -> None:
    cluster.put(service(), pod(0), pod(1))
    cluster.put(pod(0, labels={"app": "db"}))
    assert [each.target for each in cluster.endpoints()] == ["shop/web-1"]
    cluster.put(pod(0))
    assert [each.target for each in cluster.endpoints()] == ["shop/web-0", "shop/web-1"]


def test_last_pod_gone(cluster: Cluster) -> None:
    cluster.put(service(), pod(0))
    cluster.remove(pod(0))
    assert not cluster.slices()


@pytest.mark.parametrize(
    ("state", "publish", "ready", "serving", "terminating"),
    [
        ({}, False, True, True, False),
        ({"ready": False}, False, False, False, False),
        ({"terminating": True}, False, False, True, True),
        ({"ready": False, "terminating": True}, False, False, False, True),
        ({"ready": False}, True, True, False, False),
        ({"ready": False, "terminating": True}, True, True, False, True),
    ],
)
def test_endpoint_conditions(
    cluster: Cluster,
    state: dict[str, bool],
    publish: bool,
    ready: bool,
    serving: bool,
    terminating: bool,
) -> None:
    cluster.put(service(publish_not_ready=publish), pod(0, **state))
    (endpoint,) = cluster.endpoints()
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (ready, serving, terminating)


@pytest.mark.parametrize("state", [{"phase": "Failed"}, {"phase": "Succeeded"}, {"ips": ()}])
def test_pods_that_cannot_serve_are_left_out(cluster: Cluster, state: dict[str, Any]) -> None:
    cluster.put(service(), pod(0), pod(1, **state))
    assert [each.target for each in cluster.endpoints()] == ["shop/web-0"]


def test_host_network_pods_count(cluster: Cluster) -> None:
    cluster.put(service(), pod(0, host_network=True, ips=(ip_address("192.0.2.1"),)))
    (endpoint,) = cluster.endpoints()
    assert endpoint.addresses == (ip_address("192.0.2.1"),)


def test_named_target_ports(cluster: Cluster) -> None:
    named = service(
        ports=(
            ServicePort("http", "TCP", 80, "web"),
            ServicePort("dns", "UDP", 53, "web"),
        )
    )
    ports = (ContainerPort(9000, name="web"), ContainerPort(9053, "UDP", "web"))
    cluster.put(named, pod(0, ports=ports), pod(1))
    (found,) = cluster.slices().values()
    assert found.ports == (EndpointPort("http", "TCP", 9000), EndpointPort("dns", "UDP", 9053))
    assert [each.target for each in found.endpoints] == ["shop/web-0"]


def test_pods_with_other_numbers_for_a_name(cluster: Cluster) -> None:
    named = service(ports=(ServicePort("http", "TCP", 80, "web"),))
    old, new = ContainerPort(8080, name="web"), ContainerPort(8081, name="web")
    cluster.put(named, pod(0, ports=(old,)), pod(1, ports=(old,)))
    changes = cluster.put(pod(1, ports=(new,)))
    assert {
        key: ([each.target for each in found.endpoints], found.ports[0].port)
        for key, found in cluster.slices().items()
    } == {
        "shop/web-derived-8080": (["shop/web-0"], 8080),
        "shop/web-derived-8081": (["shop/web-1"], 8081),
    }
    assert [each.new is None for each in changes] == [False, False, False, True]
    cluster.put(pod(0, ports=(new,)))
    assert list(cluster.slices()) == ["shop/web-derived"]


def test_a_slice_for_each_family_of_the_service(cluster: Cluster) -> None:
    both = (ip_address("10.1.1.2"), ip_address("fd00:1::2"))
    vips = (ip_address("10.96.0.10"), ip_address("fd00:96::10"))
    cluster.put(service(cluster_ips=vips), pod(0, ips=both))
    assert {key: found.address_type for key, found in cluster.slices().items()} == {
        "shop/web-derived": "IPv4",
        "shop/web-derived-ipv6": "IPv6",
    }
    cluster.put(service(cluster_ips=vips[:1]))
    assert list(cluster.slices()) == ["shop/web-derived"]


@pytest.mark.parametrize("without", [{"selector": None}, {"selector": {}}])
def test_service_without_selector(cluster: Cluster, without: dict[str, Any]) -> None:
    cluster.put(service(**without), pod(0))
    assert not cluster.slices()


def test_service_changes_live(cluster: Cluster) -> None:
    cluster.put(service(), pod(0))
    cluster.put(service(type="ExternalName", cluster_ips=()))
    assert not cluster.slices()
    cluster.put(service(ports=(ServicePort("http", "TCP", 80, 9090),)))
    assert cluster.slices()["shop/web-derived"].ports == (EndpointPort("http", "TCP", 9090),)
    cluster.put(service(selector={"app": "db"}))
    assert not cluster.slices()
    cluster.put(service())
    cluster.remove(service())
    assert not cluster.slices()


@pytest.mark.parametrize("name", ["web-1", "web-derived"])
@pytest.mark.parametrize("own_first", [True, False])
def test_own_slice_takes_over(cluster: Cluster, name: str, own_first: bool) -> None:
    own = EndpointSlice("shop", name, service="web")
    objects: list[Object] = [own, service(), pod(0)]
    cluster.put(*(objects if own_first else reversed(objects)))
    assert cluster.slices() == {f"shop/{name}": own}
    cluster.remove(own)
    assert list(cluster.slices()) == ["shop/web-derived"]


def test_own_slice_given_to_another_service(cluster: Cluster) -> None:
    own = EndpointSlice("shop", "web-1", service="web")
    cluster.put(own, service(), pod(0))
    cluster.put(msgspec.structs.replace(own, service="other"))
    assert list(cluster.slices()) == ["shop/web-1", "shop/web-derived"]
