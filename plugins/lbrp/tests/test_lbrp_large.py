"""Services that are large, and those that are too large for the maps."""

from __future__ import annotations

import time
from collections import Counter
from ipaddress import ip_address, ip_network

import msgspec
import pytest

from cubelet.control.planner import Planner
from cubelet.testkit import entries, local_node, view
from cubelet_hooks.cube import Complaint
from cubelet_hooks.objects import (
    Change,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    HostPort,
    Network,
    Object,
    Port,
    Service,
    ServicePort,
)
from cubelet_lbrp import frontends
from cubelet_lbrp.cube import Lbrp, Settings
from cubelet_lbrp.records import Frontend, FrontendKey

PORTS = 18_000
"""As many as fit into an object that etcd takes."""
VIP = ip_address("10.96.0.9")
UNIT = ("service", "default/web")


def service(name: str = "web", ports: int = PORTS, address: str = str(VIP)) -> Service:
    declared = tuple(ServicePort(f"p{n}", "TCP", n, 80) for n in range(1, ports + 1))
    return Service("default", name, cluster_ips=(ip_address(address),), ports=declared)


def slices(endpoints: int, *numbers: int, service: str = "web") -> list[Object]:
    """Two slices, in which every port of the Service leads to one of the numbers."""
    ports = tuple(
        EndpointPort(f"p{n}", "TCP", numbers[n % len(numbers)]) for n in range(1, PORTS + 1)
    )
    addresses = [ip_address("10.1.0.0") + n for n in range(endpoints)]
    return [
        EndpointSlice(
            "default",
            f"{service}-{half}",
            service=service,
            address_type="IPv4",
            endpoints=tuple(Endpoint((address,)) for address in addresses[half::2]),
            ports=ports,
        )
        for half in (0, 1)
    ]


def test_ports_that_lead_to_the_same_endpoints_share_a_set() -> None:
    """What is yielded is what the maps hold, not the ports times the endpoints."""
    seen = view(local_node(), service(), *slices(250, 80, 81))
    made = Counter(entry.map for entry in entries(Lbrp("lbrp0", Settings()).plan(UNIT, seen)))
    assert made == {"services": PORTS + 1, "backends": 500, "members": 500}


def test_a_service_that_does_not_fit_answers_nowhere_and_the_next_one_does() -> None:
    state = view(local_node())
    planner = Planner([Lbrp("lbrp0", Settings(max_frontends=2048))])

    def put(*objects: Object) -> dict[FrontendKey, Frontend]:
        changes = [c for o in objects if (c := state.apply(Change.between(None, o)))]
        planner.replan(planner.units(changes, state), state)
        found = planner.contents()["lbrp0_services"]
        return {FrontendKey.unpack(key): Frontend.unpack(value) for key, value in found.items()}

    small = service("small", 3, "10.96.0.10")
    held = put(service(), small, *slices(2, 80), *slices(2, 80, service="small"))
    assert {(key.address, key.port) for key in held} == {
        (VIP, 0),
        *((small.cluster_ips[0], port) for port in range(4)),
    }
    text = (
        "lbrp0: refused: it needs more than the 1,024 entries of lbrp0_services that one namespace "
        "can have, of 2,048; make it smaller, or raise the setting max_frontends"
    )
    assert planner.complaints() == {Complaint("Service", "default/web", "NoRoom", text)}
    held = put(service(ports=1000))
    assert len(held) == 1001 + 4
    assert planner.complaints() == frozenset()
    assert planner.rejected() == []


def test_a_pod_whose_host_ports_do_not_fit_is_told_on_the_pod() -> None:
    port = Port(
        namespace="default",
        name="web",
        container_id="c",
        ifname="eth0",
        netns="",
        host_ifname="pod0",
        ifindex=7,
        mac="02:00:00:00:01:01",
        host_mac="02:00:00:00:02:01",
        addresses=(ip_address("10.1.0.2"),),
        mtu=1500,
        host_ports=tuple(HostPort(n, n) for n in range(1, 800)),
    )
    state = view(local_node(), port)
    planner = Planner([Lbrp("lbrp0", Settings(max_frontends=1024))])
    changes = [Change.between(None, port)]
    planner.replan(planner.units(changes, state), state)
    [told] = planner.complaints()
    assert (told.kind, told.key, told.reason) == ("Pod", port.key, "NoRoom")


def test_a_services_addresses_times_its_ports_are_not_looked_through() -> None:
    """If nobody may have them they are 18,000 times nothing; if all may, they are far too many."""
    here = local_node()
    pods, nobodys = ip_address("10.1.0.0"), ip_address("203.0.0.0")
    taken = tuple(pods + n for n in range(1, 251))
    free = tuple(nobodys + n for n in range(2_000))
    for addresses, reason in ((taken, "AddressRefused"), (free, "NoRoom")):
        asked = msgspec.structs.replace(service(), external_ips=addresses)
        seen = view(here, asked, *slices(2, 80))
        began = time.process_time()
        planner = Planner([Lbrp("lbrp0", Settings())])
        planner.replan([("lbrp0", UNIT)], seen)
        seconds = time.process_time() - began
        assert planner.failures == {}
        assert {each.reason for each in planner.complaints()} == {reason}
        assert planner.counts()["lbrp0_services"] == (PORTS + 1 if addresses is taken else 8)
        assert seconds < 10


def test_the_number_of_source_ranges_is_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    number_of = frontends._number_of

    def counted(networks: tuple[Network, ...]) -> int:
        made.append(networks)
        return number_of(networks)

    monkeypatch.setattr(frontends, "_number_of", counted)
    ranges = tuple(ip_network(f"198.51.{n}.0/24") for n in range(200))
    asked = msgspec.structs.replace(
        service(ports=100), load_balancer_ips=(ip_address("203.0.113.9"),), source_ranges=ranges
    )
    planned = entries(Lbrp("lbrp0", Settings()).plan(UNIT, view(local_node(), asked)))
    assert sum(entry.map == "sources" for entry in planned) == 200
    assert len(made) == 2
