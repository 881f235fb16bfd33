"""The objects' identities, selectors and derived properties."""

from __future__ import annotations

from ipaddress import IPv4Address

import msgspec
import pytest

from cubelet.testkit.samples import local_node
from cubelet_hooks.objects import (
    Change,
    EndpointSlice,
    LabelSelector,
    Namespace,
    NetworkPolicy,
    Node,
    Pod,
    Port,
    Requirement,
    Service,
)

VIP = IPv4Address("10.96.0.10")


def port() -> Port:
    return Port(
        namespace="shop",
        name="web-0",
        container_id="c1",
        ifname="eth0",
        netns="/run/netns/c1",
        host_ifname="cub1",
        ifindex=7,
        mac="02:00:00:00:00:07",
        host_mac="02:00:00:00:00:08",
        addresses=(IPv4Address("10.1.1.2"),),
        mtu=1450,
    )


@pytest.mark.parametrize(
    ("found", "kind", "key"),
    [
        (Node("n1"), "Node", "n1"),
        (Namespace("shop"), "Namespace", "shop"),
        (local_node(), "LocalNode", "node1"),
        (Pod("shop", "web-0"), "Pod", "shop/web-0"),
        (Service("shop", "web"), "Service", "shop/web"),
        (EndpointSlice("shop", "web-1"), "EndpointSlice", "shop/web-1"),
        (NetworkPolicy("shop", "deny"), "NetworkPolicy", "shop/deny"),
        (port(), "Port", "shop/web-0"),
    ],
)
def test_kind_and_key(found: Pod, kind: str, key: str) -> None:
    assert (found.kind, found.key) == (kind, key)


def test_objects_are_values() -> None:
    pod = Pod("shop", "web-0", labels={"app": "web"})
    assert pod == Pod("shop", "web-0", labels={"app": "web"})
    assert pod != Pod("shop", "web-0", labels={"app": "db"})
    with pytest.raises(AttributeError):
        pod.phase = "Running"  # type: ignore[misc]


def test_same_fields_of_another_kind_are_not_equal() -> None:
    found: list[Node | Namespace] = [Node("a")]
    assert Namespace("a") not in found


@pytest.mark.parametrize(
    ("service", "headless"),
    [
        (Service("shop", "web", cluster_ips=(VIP,)), False),
        (Service("shop", "web"), True),
        (Service("shop", "web", type="ExternalName"), False),
    ],
)
def test_headless(service: Service, headless: bool) -> None:
    assert service.headless is headless


def test_slice_names_its_service() -> None:
    assert EndpointSlice("shop", "web-1", service="web").service_key == "shop/web"
    assert not EndpointSlice("shop", "web-1").service_key


@pytest.mark.parametrize("phase", ["Pending", "Running", "Unknown"])
def test_pod_is_not_finished(phase: str) -> None:
    assert not Pod("shop", "web-0", phase=phase).finished


@pytest.mark.parametrize("phase", ["Succeeded", "Failed"])
def test_pod_is_finished(phase: str) -> None:
    assert Pod("shop", "web-0", phase=phase).finished


def test_empty_selector_selects_everything() -> None:
    assert LabelSelector().matches({})
    assert LabelSelector().matches({"app": "web"})


def test_all_match_labels_must_match() -> None:
    selector = LabelSelector({"app": "web", "tier": "front"})
    assert selector.matches({"app": "web", "tier": "front", "more": ""})
    assert not selector.matches({"app": "web"})
    assert not selector.matches({"app": "web", "tier": "back"})


@pytest.mark.parametrize(
    ("requirement", "web", "db", "without"),
    [
        (Requirement("app", "In", ("web", "api")), True, False, False),
        (Requirement("app", "NotIn", ("web", "api")), False, True, True),
        (Requirement("app", "Exists"), True, True, False),
        (Requirement("app", "DoesNotExist"), False, False, True),
    ],
)
def test_match_expressions(requirement: Requirement, web: bool, db: bool, without: bool) -> None:
    selector = LabelSelector(match_expressions=(requirement,))
    assert selector.matches({"app": "web"}) is web
    assert selector.matches({"app": "db"}) is db
    assert selector.matches({"other": "web"}) is without


def test_labels_and_expressions_must_both_match() -> None:
    selector = LabelSelector({"app": "web"}, (Requirement("tier", "Exists"),))
    assert selector.matches({"app": "web", "tier": "front"})
    assert not selector.matches({"app": "web"})
    assert not selector.matches({"tier": "front"})


def test_change_between_takes_identity_from_either_side() -> None:
    node = Node("n1")
    assert Change.between(None, node) == Change("Node", "n1", None, node)
    assert Change.between(node, None) == Change("Node", "n1", node, None)
    with pytest.raises(ValueError, match="before or after"):
        Change.between(None, None)


def test_what_is_gone_is_removed_or_another_of_its_name():
    pod = Pod("default", "a", uid="1")
    attached = port()
    assert Change.between(pod, None).gone is pod
    assert Change.between(None, pod).gone is None
    assert Change.between(pod, msgspec.structs.replace(pod, ready=True)).gone is None
    assert Change.between(pod, msgspec.structs.replace(pod, uid="2")).gone is pod
    assert Change.between(attached, msgspec.structs.replace(attached, uid="2")).gone is None
    assert Change.between(attached, msgspec.structs.replace(attached, ifindex=8)).gone is attached
