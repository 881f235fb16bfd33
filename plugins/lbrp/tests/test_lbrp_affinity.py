"""Session affinity: a client's flows to a Service go to one backend."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from ipaddress import ip_address
from typing import Any, cast

import pytest

from cubelet.bpf.jiffies import Clock
from cubelet.state.cluster import State
from cubelet.testkit import Datapath, entries, local_node, network
from cubelet_hooks.objects import Change, Service
from cubelet_lbrp.cube import Lbrp, Settings
from cubelet_lbrp.records import Frontend, FrontendKey

from .frames import (
    NODE,
    NODE_PORTS,
    POD,
    backend,
    data,
    datagram,
    draining,
    frame,
    ready,
    service,
    slice_of,
    syn,
)

VIP, OTHER = "10.96.0.1", "10.96.0.2"
BACKENDS = [f"10.1.7.{number}" for number in range(1, 9)]
MORE = [f"10.1.7.{number}" for number in range(9, 25)]
TIMEOUT = 100
CLIENTS = [f"203.0.113.{number}" for number in range(1, 41)]


def sticky(name: str = "web", vip: str = VIP, **fields: Any) -> Service:
    fields = {"session_affinity": "ClientIP", "affinity_timeout": TIMEOUT, **fields}
    return service(name, vip, type="NodePort", ports=NODE_PORTS, **fields)


@pytest.fixture(params=["fused", "tailcall"])
def path(
    cubelet_network: network.TestNetwork, request: pytest.FixtureRequest
) -> Iterator[Datapath]:
    made = Datapath(
        cubelet_network,
        stacks={"pod": [Lbrp], "host": [Lbrp], "uplink": [Lbrp]},
        settings={"outlet": {"leaves": "uplink"}},
        objects=(sticky(), slice_of("web", *map(ready, BACKENDS))),
        mode=request.param,
    )
    yield made
    made.close()


def frontends(asked: Service) -> dict[FrontendKey, Frontend]:
    """What is planned for each place of a Service."""
    state = State()
    for each in (local_node(), asked):
        state.apply(Change.between(None, each))
    planned = entries(Lbrp("lbrp0", Settings()).plan(("service", asked.key), state))
    found = {each.key: each.value for each in planned if each.map == "services"}
    places = cast("dict[FrontendKey, Frontend]", found)
    return {key: value for key, value in places.items() if key.port}


def groups(asked: Service) -> dict[int, set[int]]:
    """By port the groups under which clients are remembered; node ports count as their ports."""
    found: dict[int, set[int]] = {}
    for key, value in frontends(asked).items():
        assert value.sticky == TIMEOUT
        found.setdefault(key.port % 30000, set()).add(value.group)
    return found


def test_a_ports_places_are_one_group_and_no_other_ports() -> None:
    found = groups(sticky(external_ips=(ip_address("198.51.100.9"),)))
    others = groups(sticky("other", OTHER))
    assert [len(each) for each in found.values()] == [1, 1]
    distinct = {group for each in (found, others) for some in each.values() for group in some}
    assert len(distinct - {0}) == 4


def test_without_it_nothing_is_remembered() -> None:
    planned = frontends(sticky(session_affinity="None"))
    assert {(each.group, each.sticky) for each in planned.values()} == {(0, 0)}


@pytest.mark.parametrize(
    ("fields", "compiled_in"),
    [({}, 1), ({"session_affinity": "None"}, 0), ({"cluster_ips": ()}, 0)],
)
def test_it_is_compiled_in_while_a_service_asks_for_it(
    fields: dict[str, Any], compiled_in: int
) -> None:
    state = State()
    state.apply(Change.between(None, sticky(**fields)))
    assert Lbrp("lbrp0", Settings()).defines(state)["AFFINITY"] == compiled_in


def ask(path: Datapath, sport: int, dst: str = VIP, port: int = 80, src: str = POD) -> str:
    """The backend that a new connection leads to."""
    enters = "pod" if src == POD else "uplink"
    return backend(path.send(frame(syn(sport, port), dst, src, enters), enters=enters))[0]


def age(path: Datapath, seconds: float) -> None:
    """Let so much time pass for what is remembered."""
    affinities = path.maps["lbrp0_affinities"]
    with Clock() as clock:
        for key, value in path.table("lbrp", "affinities").items():
            seen = (value.seen - int(seconds * clock.hz)) % (1 << 32)
            affinities.update(key.pack(4), replace(value, seen=seen).pack(4))


def test_every_connection_of_a_client_has_the_same_backend(path: Datapath) -> None:
    assert len({ask(path, port) for port in range(2000, 2040)}) == 1


def test_clients_spread_over_the_backends(path: Datapath) -> None:
    chosen = {src: ask(path, 2000, NODE, 30080, src) for src in CLIENTS}
    assert len(set(chosen.values())) > len(BACKENDS) / 2
    assert {src: ask(path, 2001, NODE, 30080, src) for src in CLIENTS} == chosen


def test_it_is_the_same_at_every_address_of_the_service(path: Datapath) -> None:
    assert ask(path, 2000) == ask(path, 2001, NODE, 30080)


def test_ports_are_apart(path: Datapath) -> None:
    ask(path, 2000)
    backend(path.send(frame(datagram(2000, 53), VIP)))
    assert len(path.table("lbrp", "affinities")) == 2


def test_a_backend_is_remembered_from_the_last_connection_on(path: Datapath) -> None:
    def everyone(sport: int) -> list[str]:
        return [ask(path, sport, NODE, 30080, src) for src in CLIENTS]

    chosen = everyone(2000)
    # Who chooses now has others to choose from.
    path.apply(slice_of("web", *map(ready, BACKENDS + MORE)))
    for sport in (2001, 2002):
        age(path, TIMEOUT - 10)
        assert everyone(sport) == chosen
    age(path, TIMEOUT + 10)
    anew = everyone(2003)
    assert sum(a == b for a, b in zip(chosen, anew, strict=True)) < len(CLIENTS) / 2
    age(path, TIMEOUT + 10)
    assert sum(a == b for a, b in zip(anew, everyone(2004), strict=True)) < len(CLIENTS) / 2


def test_a_backend_that_has_gone_is_not_gone_to(path: Datapath) -> None:
    first = ask(path, 2000)
    path.apply(slice_of("web", *(ready(each) for each in BACKENDS if each != first)))
    second = ask(path, 2001)
    assert second != first
    path.apply(slice_of("web", *map(ready, BACKENDS)))
    assert ask(path, 2002) == second


def test_a_backend_that_ends_keeps_its_connections_and_gets_no_new_ones(path: Datapath) -> None:
    first = ask(path, 2000)
    others = [ready(each) for each in BACKENDS if each != first]
    path.apply(slice_of("web", draining(first), *others))
    assert ask(path, 2001) != first
    assert backend(path.send(frame(data(2000, 80), VIP)))[0] == first


def test_it_can_be_switched_off_and_on(path: Datapath) -> None:
    first = ask(path, 2000)
    path.apply(sticky(session_affinity="None"))
    assert len({ask(path, port) for port in range(2001, 2040)}) > 1
    path.apply(sticky())
    assert {ask(path, port) for port in range(2040, 2060)} == {first}
