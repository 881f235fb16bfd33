"""Which endpoints are chosen, as KEP-1669 and the traffic policies have it."""

from __future__ import annotations

from ipaddress import ip_address

import msgspec
import pytest

from cubelet_hooks.objects import Endpoint, EndpointPort, EndpointSlice, ServicePort
from cubelet_hooks.records import Family
from cubelet_lbrp.endpoints import BackendSet, Candidate, Here, Served, select

HTTP = ServicePort("http", "TCP", 80, "web")


def candidates(
    slices: list[EndpointSlice], port: ServicePort, family: Family
) -> tuple[Candidate, ...]:
    served = Served(slices, family)
    return served.candidates(served.numbers(port))


def endpoint(last: int, state: str = "ready", node: str = "n1") -> Endpoint:
    ready, serving, terminating = {
        "ready": (True, True, False),
        "starting": (False, False, False),
        "draining": (False, True, True),
        "dying": (False, False, True),
    }[state]
    address = ip_address(f"10.1.0.{last}")
    return Endpoint((address,), ready, serving, terminating, node_name=node)


def slice_of(
    *endpoints: Endpoint, name: str = "web-1", ports: tuple[EndpointPort, ...] = ()
) -> EndpointSlice:
    ports = ports or (EndpointPort("http", "TCP", 8080),)
    return EndpointSlice("default", name, service="web", endpoints=endpoints, ports=ports)


def lasts(backends: BackendSet) -> list[int]:
    """Last bytes of the addresses that are chosen."""
    return [candidate.address.packed[-1] for candidate in backends.chosen]


@pytest.mark.parametrize(
    ("endpoints", "node", "chosen", "elsewhere"),
    [
        pytest.param([], None, [], False, id="none"),
        pytest.param([(2, "ready"), (1, "ready")], None, [1, 2], False, id="in order"),
        pytest.param([(1, "ready"), (2, "draining")], None, [1], False, id="ready first"),
        pytest.param([(1, "starting"), (2, "draining")], None, [2], False, id="fall back"),
        pytest.param([(1, "starting"), (2, "dying")], None, [], False, id="none serves"),
        pytest.param([(1, "ready"), (2, "ready", "n2")], "n1", [1], False, id="local"),
        pytest.param([(2, "ready", "n2")], "n1", [], True, id="none is local"),
        pytest.param([(2, "draining", "n2")], "n1", [], True, id="draining elsewhere"),
        pytest.param([(2, "dying", "n2")], "n1", [], False, id="none anywhere"),
        pytest.param(
            [(1, "draining"), (2, "ready", "n2")], "n1", [1], False, id="local falls back"
        ),
        pytest.param([(1, "ready", "")], "n1", [], True, id="on no known node"),
    ],
)
def test_selects(
    endpoints: list[tuple[int, ...]],
    node: str | None,
    chosen: list[int],
    elsewhere: bool,
) -> None:
    item = slice_of(*(endpoint(*which) for which in endpoints))  # type: ignore[arg-type]
    backends = select(candidates([item], HTTP, 4), node)
    assert lasts(backends) == chosen
    assert backends.elsewhere is elsewhere


def test_slices_are_merged_by_the_ports_name_and_protocol() -> None:
    slices = [
        slice_of(endpoint(1), name="web-1"),
        slice_of(endpoint(1), name="web-2", ports=(EndpointPort("http", "TCP", 9090),)),
        slice_of(endpoint(2), name="web-3", ports=(EndpointPort("http", "UDP", 1),)),
        slice_of(endpoint(3), name="web-4", ports=(EndpointPort("admin", "TCP", 2),)),
    ]
    found = candidates(slices, HTTP, 4)
    assert [(str(c.address), c.port) for c in found] == [("10.1.0.1", 8080), ("10.1.0.1", 9090)]


@pytest.mark.parametrize("states", [("draining", "ready"), ("ready", "draining")])
def test_an_endpoint_in_two_slices_counts_once_in_its_better_condition(
    states: tuple[str, str],
) -> None:
    slices = [slice_of(endpoint(1, state), name=state) for state in states]
    assert lasts(select(candidates(slices, HTTP, 4))) == [1]


def test_only_an_endpoints_first_address_is_used() -> None:
    both = Endpoint((ip_address("10.1.0.1"), ip_address("10.1.0.2")))
    assert lasts(select(candidates([slice_of(both)], HTTP, 4))) == [1]


def test_slices_of_the_other_family_are_left_to_its_instance() -> None:
    six = EndpointSlice(
        "default",
        "web-6",
        service="web",
        address_type="IPv6",
        endpoints=(Endpoint((ip_address("fd00::1"),)),),
        ports=(EndpointPort("http", "TCP", 8080),),
    )
    slices = [slice_of(endpoint(1)), six]
    assert [str(c.address) for c in candidates(slices, HTTP, 4)] == ["10.1.0.1"]
    assert [str(c.address) for c in candidates(slices, HTTP, 6)] == ["fd00::1"]


def test_an_address_of_another_family_than_its_slices_is_no_backend() -> None:
    mixed = slice_of(endpoint(1), Endpoint((ip_address("fd00::1"), ip_address("10.1.0.2"))))
    assert [str(c.address) for c in candidates([mixed], HTTP, 4)] == ["10.1.0.1"]


def chosen_id(*endpoints: Endpoint, node: str | None = None) -> int:
    return select(candidates([slice_of(*endpoints)], HTTP, 4), node).id


def test_equal_sets_have_one_id_and_others_another() -> None:
    first, second = endpoint(1), endpoint(2)
    assert chosen_id(first, second) == chosen_id(second, first)
    assert chosen_id(first, second) == chosen_id(first, second, node="n1")
    assert chosen_id(first, endpoint(2, "draining")) == chosen_id(first)
    ids = {chosen_id(), chosen_id(first), chosen_id(second), chosen_id(first, second)}
    assert len(ids) == 4
    assert all(0 <= number < 1 << 64 for number in ids)


Hints = tuple[str, tuple[str, ...], tuple[str, ...]]
"""An endpoint's state, and the zones and nodes that its hints name."""


@pytest.mark.parametrize(
    ("endpoints", "chosen"),
    [
        pytest.param([("ready", ("a",), ()), ("ready", ("b",), ())], [1], id="zone"),
        pytest.param([("ready", ("b", "a"), ()), ("ready", ("a",), ())], [1, 2], id="both"),
        pytest.param([("ready", ("a",), ()), ("ready", (), ())], [1, 2], id="one has none"),
        pytest.param([("ready", ("b",), ()), ("ready", ("c",), ())], [1, 2], id="none for here"),
        pytest.param(
            [("ready", ("a",), ()), ("ready", ("b",), ()), ("starting", (), ())],
            [1],
            id="not ready, not asked",
        ),
        pytest.param([("draining", ("a",), ()), ("draining", ("b",), ())], [1, 2], id="draining"),
        pytest.param([("ready", ("a",), ("n1",)), ("ready", ("a",), ("n2",))], [1], id="node"),
        pytest.param(
            [("ready", ("a",), ("n2",)), ("ready", ("b",), ("n3",))], [1], id="no node: zone"
        ),
        pytest.param([("ready", ("a",), ("n1",)), ("ready", ("a",), ())], [1, 2], id="some nodes"),
    ],
)
def test_hints_keep_traffic_near(endpoints: list[Hints], chosen: list[int]) -> None:
    """As kube-proxy has it: all ready endpoints must have hints, and one must be for here."""
    found = [
        msgspec.structs.replace(endpoint(i, state), hint_zones=zones, hint_nodes=nodes)
        for i, (state, zones, nodes) in enumerate(endpoints, 1)
    ]
    ordered = candidates([slice_of(*found)], HTTP, 4)
    here = Here("n1", "a")
    assert lasts(select(ordered, here=here)) == chosen


def test_a_local_policy_and_a_node_without_a_zone_know_no_hints() -> None:
    hinted = msgspec.structs.replace(endpoint(1), hint_zones=("a",))
    other = msgspec.structs.replace(endpoint(2), hint_zones=("b",))
    found = candidates([slice_of(hinted, other)], HTTP, 4)
    assert lasts(select(found, "n1", Here("n1", "a"))) == [1, 2]
    assert lasts(select(found, here=Here("n1", ""))) == [1, 2]
    assert lasts(select(found)) == [1, 2]
