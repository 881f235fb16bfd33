"""The agent's state: what it holds, and that its indexes follow every change."""

from __future__ import annotations

from ipaddress import IPv4Address

import pytest

from cubelet.state.cluster import State
from cubelet_hooks.objects import (
    Change,
    EndpointSlice,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    Service,
)
from cubelet_hooks.view import View

A, B = IPv4Address("10.1.1.2"), IPv4Address("10.1.1.3")


def having(*objects: Object) -> State:
    state = State()
    for each in objects:
        state.apply(Change.between(None, each))
    return state


def put(state: State, new: Object) -> Change | None:
    return state.apply(Change.between(None, new))


def remove(state: State, old: Object) -> Change | None:
    return state.apply(Change.between(old, None))


def test_is_a_view() -> None:
    view: View = State()
    assert view.local is None
    assert dict(view.pods) == {}


def test_apply_tells_what_was_there() -> None:
    state = State()
    first, second = Node("n1"), Node("n1", labels={"zone": "a"})
    assert put(state, first) == Change("Node", "n1", None, first)
    assert put(state, second) == Change("Node", "n1", first, second)
    assert remove(state, first) == Change("Node", "n1", second, None)
    assert dict(state.nodes) == {}


def test_nothing_new_is_no_change() -> None:
    state = having(Node("n1", labels={"zone": "a"}))
    assert put(state, Node("n1", labels={"zone": "a"})) is None
    assert remove(state, Node("n2")) is None


def test_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="Gadget"):
        State().apply(Change("Gadget", "a/b"))


def test_mappings_cannot_be_written() -> None:
    state = having(Node("n1"))
    with pytest.raises(TypeError):
        state.nodes["n2"] = Node("n2")  # type: ignore[index]


def test_iterates_over_everything() -> None:
    objects: list[Object] = [
        Node("n1"),
        Namespace("shop"),
        Pod("shop", "web-0"),
        Service("shop", "web"),
        EndpointSlice("shop", "web-1", service="web"),
        NetworkPolicy("shop", "deny"),
    ]
    found = list(having(*objects))
    assert len(found) == len(objects)
    assert all(each in found for each in objects)


def test_slices_of_a_service() -> None:
    late = EndpointSlice("shop", "web-2", service="web")
    early = EndpointSlice("shop", "web-1", service="web")
    state = having(
        late,
        early,
        EndpointSlice("shop", "db-1", service="db"),
        EndpointSlice("other", "web-1", service="web"),
        EndpointSlice("shop", "loose"),
    )
    assert state.slices_of("shop/web") == (early, late)
    assert not state.slices_of("shop/none")
    remove(state, late)
    assert state.slices_of("shop/web") == (early,)


def test_slice_that_changes_its_service_moves() -> None:
    state = having(EndpointSlice("shop", "s", service="web"))
    moved = EndpointSlice("shop", "s", service="db")
    put(state, moved)
    assert not state.slices_of("shop/web")
    assert state.slices_of("shop/db") == (moved,)


def test_pods_by_namespace() -> None:
    web, api = Pod("shop", "web-0"), Pod("shop", "api-0")
    state = having(web, api, Pod("other", "web-0"))
    assert {pod.key for pod in state.pods_in("shop")} == {"shop/web-0", "shop/api-0"}
    remove(state, web)
    assert list(state.pods_in("shop")) == [api]
    remove(state, api)
    assert list(state.pods_in("shop")) == []


def test_pods_by_ip_follow_the_address() -> None:
    web = Pod("shop", "web-0", ips=(A,))
    state = having(web, Pod("shop", "none"))
    assert state.pods_by_ip(A) == (web,)
    moved = Pod("shop", "web-0", ips=(B,))
    put(state, moved)
    assert not state.pods_by_ip(A)
    assert state.pods_by_ip(B) == (moved,)


def test_several_pods_with_one_address() -> None:
    second = Pod("shop", "b", host_network=True, ips=(A,))
    first = Pod("shop", "a", host_network=True, ips=(A,))
    state = having(second, first)
    assert state.pods_by_ip(A) == (first, second)
    remove(state, first)
    assert state.pods_by_ip(A) == (second,)


def test_policies_by_namespace() -> None:
    deny, allow = NetworkPolicy("shop", "deny"), NetworkPolicy("shop", "allow", egress=())
    state = having(deny, NetworkPolicy("other", "deny"))
    put(state, allow)
    assert {policy.name for policy in state.policies_in("shop")} == {"deny", "allow"}
    remove(state, deny)
    assert list(state.policies_in("shop")) == [allow]
