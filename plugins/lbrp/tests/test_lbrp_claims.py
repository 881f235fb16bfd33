"""Who may have an address and a port of it: what is planned, and what is said to the others."""

from __future__ import annotations

import itertools
from ipaddress import IPv4Network, ip_address, ip_network
from typing import Any

import msgspec
import pytest

from cubelet.control.planner import Planner
from cubelet.state.cluster import State
from cubelet.testkit import complaints, entries, local_node, view
from cubelet_hooks.objects import (
    Change,
    Endpoint,
    EndpointPort,
    EndpointSlice,
    HostPort,
    Node,
    Object,
    Port,
    Service,
    ServicePort,
)
from cubelet_lbrp.cube import Lbrp, Settings
from cubelet_lbrp.records import Backend, BackendKey, Frontend, FrontendKey, Scope, Shared

LOCAL = local_node(
    IPv4Network("10.1.1.0/24"),
    name="n1",
    addresses=(ip_address("172.18.0.11"),),
    held=(ip_address("172.18.0.11"), ip_address("172.18.0.200")),
    onlink=(ip_network("172.18.0.0/24"),),
)
NODES = (
    Node("n1", addresses=LOCAL.addresses, pod_cidrs=(LOCAL.pod_cidr,)),
    Node("n2", addresses=(ip_address("172.18.0.12"),), pod_cidrs=(ip_network("10.1.2.0/24"),)),
)
OWN = IPv4Network("10.97.0.0/16")
HTTP = ServicePort("http", "TCP", 80, 8080)


def service(name: str, *external: str, namespace: str = "shop", **fields: Any) -> Service:
    """A Service whose ClusterIP is nobody else's, unless one is given."""
    asked = tuple(map(ip_address, external))
    own = OWN[1 + sum(f"{namespace}/{name}".encode())]
    wanted = {"ports": (HTTP,), "external_ips": asked, "cluster_ips": (own,), **fields}
    return Service(namespace, name, **wanted)


def backend(name: str, address: str, namespace: str = "shop") -> EndpointSlice:
    return EndpointSlice(
        namespace,
        f"{name}-1",
        service=name,
        endpoints=(Endpoint((ip_address(address),)),),
        ports=(EndpointPort("http", "TCP", 8080),),
    )


def planned(*objects: Object) -> Planner:
    planner, state = Planner([Lbrp("lbrp0", Settings())]), State()
    for each in (LOCAL, *NODES, *objects):
        change = state.apply(Change.between(None, each))
        assert change is not None
        planner.replan(planner.units([change], state), state)
    assert not planner.failures
    return planner


def table(planner: Planner, name: str, key: Any, value: Any) -> dict[Any, Any]:
    found = planner.contents()[f"lbrp0_{name}"]
    return {key.unpack(k): value.unpack(v) for k, v in found.items()}


def frontends(planner: Planner) -> dict[tuple[str, int], str]:
    """Who is asked from inside, by address and port; port 0 says that others are refused.

    Services' own ClusterIPs are left out.
    """
    backends = table(planner, "backends", BackendKey, Backend)
    return {
        (str(key.address), key.port): str(
            backends[BackendKey(value.set_id, 0)].address if value.count else ""
        )
        for key, value in table(planner, "services", FrontendKey, Frontend).items()
        if key.scope == Scope.INSIDE and key.address not in OWN
    }


ASKED = service("web", "203.0.113.5", "172.18.0.12", "172.18.0.200", "172.18.0.77")


def test_an_address_that_somebody_has_is_served_by_port_alone() -> None:
    planner = planned(ASKED, backend("web", "10.1.1.5"))
    assert frontends(planner) == {
        ("203.0.113.5", 80): "10.1.1.5",
        ("203.0.113.5", 0): "",
        ("172.18.0.12", 80): "10.1.1.5",
        ("172.18.0.200", 80): "10.1.1.5",
        ("172.18.0.77", 80): "10.1.1.5",
    }
    assert planner.complaints() == frozenset()


def test_a_port_of_this_nodes_may_be_a_clients_of_the_nodes_own() -> None:
    """Of an external IP, which its author names, what listens there is left alone, too."""
    held = "172.18.0.200"
    balanced = service("edge", load_balancer_ips=(LOCAL.addresses[0],))
    services = table(planned(ASKED, balanced), "services", FrontendKey, Frontend)
    shared = {str(key.address): value.shared for key, value in services.items() if value.shared}
    assert shared == {held: Shared.YIELDS, "172.18.0.11": Shared.CLIENTS}


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("10.1.2.6", "in the podCIDR of node n2"),
        ("10.96.0.1", "the ClusterIP of Service kube/kubernetes"),
        ("127.0.0.1", "a loopback address"),
    ],
)
def test_an_address_that_is_anothers_alone_is_not_served(address: str, why: str) -> None:
    api = service("kubernetes", namespace="kube", cluster_ips=(ip_address("10.96.0.1"),))
    planner = planned(api, service("web", address), backend("web", "10.1.1.5"))
    assert set(frontends(planner)) == {("10.96.0.1", 80), ("10.96.0.1", 0)}
    [told] = planner.complaints()
    assert (told.kind, told.key, told.reason) == ("Service", "shop/web", "AddressRefused")
    assert told.message == (
        f"not served: spec.externalIPs: {address} is {why}; remedy: name addresses that nobody has"
    )


def test_it_is_served_once_it_is_nobodys_and_no_more_once_it_is_somebodys() -> None:
    planner, state = Planner([Lbrp("lbrp0", Settings())]), State()

    def tell(old: Object | None, new: Object | None) -> None:
        change = state.apply(Change.between(old, new))
        assert change is not None
        planner.replan(planner.units([change], state), state)

    asked = "10.1.2.6"
    for each in (LOCAL, service("web", asked), backend("web", "10.1.1.5")):
        tell(None, each)
    assert set(frontends(planner)) == {(asked, 80), (asked, 0)}
    tell(None, NODES[1])
    assert frontends(planner) == {}
    assert len(planner.complaints()) == 1
    tell(NODES[1], None)
    assert set(frontends(planner)) == {(asked, 80), (asked, 0)}
    assert planner.complaints() == frozenset()
    onlink = msgspec.structs.replace(LOCAL, onlink=(ip_network("10.1.2.0/24"),))
    tell(LOCAL, onlink)
    assert set(frontends(planner)) == {(asked, 80)}


def test_a_nodes_ports_that_the_cluster_needs_are_not_given_away() -> None:
    local = msgspec.structs.replace(LOCAL, api_servers=((ip_address("172.18.0.12"), 6443),))
    ports = (
        ServicePort("api", "TCP", 6443, 1),
        ServicePort("vxlan", "UDP", 4789, 1),
        ServicePort("web", "TCP", 443, 1),
    )
    state = view(local, *NODES, service("web", "172.18.0.12", ports=ports))
    made = list(Lbrp("lbrp0", Settings()).plan(("service", "shop/web"), state))
    keys = [each.key for each in entries(made) if isinstance(each.key, FrontendKey)]
    assert {key.port for key in keys if key.address not in OWN} == {443}
    told = complaints(made)
    assert [each.reason for each in told] == ["PortRefused"]
    assert told[0].message == (
        "not served: spec.externalIPs: port 6443/TCP of 172.18.0.12 is for the API server, "
        "spec.externalIPs: port 4789/UDP of 172.18.0.12 is for the overlay between nodes; "
        "remedy: ask for other ports or addresses"
    )


def test_many_mistakes_of_one_object_are_one_complaint() -> None:
    asked = service("web", *(f"10.1.2.{n}" for n in range(2, 12)))
    [told] = planned(asked).complaints()
    assert "10.1.2.6 is in the podCIDR of node n2 and 5 more; remedy" in told.message


CLUSTER = service("cluster", cluster_ips=(ip_address("198.51.100.1"),), created=9)
BALANCER = service("balancer", load_balancer_ips=(ip_address("198.51.100.1"),), created=8)
FIRST = service("z-first", "198.51.100.1", created=1)
SECOND = service("y-second", "198.51.100.1", created=2)
UNDATED = service("a-undated", "198.51.100.1")


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_of_external_addresses_the_older_service_has_the_port(order: tuple[int, ...]) -> None:
    """Whatever their names, and in whatever order an agent learns of them."""
    asking = [(FIRST, "10.1.1.1"), (SECOND, "10.1.1.2"), (UNDATED, "10.1.1.3")]
    objects = [o for n in order for o in (asking[n][0], backend(asking[n][0].name, asking[n][1]))]
    planner = planned(*objects)
    assert frontends(planner)["198.51.100.1", 80] == "10.1.1.1"
    assert {each.key for each in planner.complaints()} == {"shop/y-second", "shop/a-undated"}
    assert all("held by Service shop/z-first" in each.message for each in planner.complaints())


def test_of_services_without_a_date_the_first_by_name_has_the_port() -> None:
    other = service("b-undated", "198.51.100.1")
    planner = planned(
        other, UNDATED, backend("b-undated", "10.1.1.1"), backend("a-undated", "10.1.1.2")
    )
    assert frontends(planner)["198.51.100.1", 80] == "10.1.1.2"


def test_a_load_balancers_address_goes_before_an_external_one() -> None:
    planner = planned(
        FIRST, BALANCER, backend("z-first", "10.1.1.1"), backend("balancer", "10.1.1.2")
    )
    assert frontends(planner)["198.51.100.1", 80] == "10.1.1.2"


@pytest.mark.parametrize("thief", ["aaa", "zzz"])
def test_a_cluster_ip_is_its_services_whatever_the_thief_is_called(thief: str) -> None:
    planner = planned(
        service("mitm", "198.51.100.1", namespace=thief, created=1),
        CLUSTER,
        backend("mitm", "10.1.1.66", thief),
        backend("cluster", "10.1.1.1"),
    )
    assert frontends(planner) == {("198.51.100.1", 80): "10.1.1.1", ("198.51.100.1", 0): ""}


def test_a_node_port_goes_before_whatever_else_is_asked_for_at_the_node() -> None:
    node_port = (ServicePort("http", "TCP", 80, 8080, node_port=30080),)
    taken = (ServicePort("http", "TCP", 30080, 8080),)
    pod = Port(
        namespace="shop",
        name="pod",
        container_id="pod",
        ifname="eth0",
        netns="",
        host_ifname="pod",
        ifindex=7,
        mac="",
        host_mac="",
        addresses=(ip_address("10.1.1.7"),),
        mtu=1500,
        host_ports=(HostPort(30080, 1), HostPort(8443, 1)),
    )
    planner = planned(
        pod,
        service("a-thief", "172.18.0.11", ports=taken, created=1),
        service("z-right", ports=node_port, cluster_ips=(ip_address("10.96.0.9"),), created=2),
        backend("a-thief", "10.1.1.66"),
        backend("z-right", "10.1.1.1"),
    )
    assert frontends(planner)["172.18.0.11", 30080] == "10.1.1.1"
    assert frontends(planner)["172.18.0.11", 8443] == "10.1.1.7"
    assert {(each.kind, each.key) for each in planner.complaints()} == {
        ("Service", "shop/a-thief"),
        ("Pod", "shop/pod"),
    }


def test_endpoints_that_are_no_hosts_addresses_are_no_backends() -> None:
    odd = ("127.0.0.1", "169.254.169.254", "224.0.0.1", "0.0.0.0", "10.1.1.5")
    found = EndpointSlice(
        "shop",
        "web-1",
        service="web",
        endpoints=tuple(Endpoint((ip_address(each),)) for each in odd),
        ports=(EndpointPort("http", "TCP", 8080),),
    )
    state = view(LOCAL, service("web", cluster_ips=(ip_address("10.96.0.9"),)), found)
    made = list(Lbrp("lbrp0", Settings()).plan(("service", "shop/web"), state))
    backends = [each.value for each in entries(made) if isinstance(each.value, Backend)]
    assert [str(each.address) for each in backends] == ["10.1.1.5"]
    [told] = complaints(made)
    assert (told.kind, told.key, told.reason) == ("EndpointSlice", "shop/web-1", "EndpointRefused")
    assert "127.0.0.1 is a loopback address, 169.254.169.254 is a link-local" in told.message
