"""Which routes the host is given, and what is said of those that it is not."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from types import SimpleNamespace
from typing import Any

import pytest

from cubelet.composer.core import CoreSettings
from cubelet.config.node import parse
from cubelet.control import host
from cubelet.control.host import HostNetwork, concerns
from cubelet.control.problems import Problems
from cubelet.net.routes import Refused, RouteReport
from cubelet.state.last_known import Memory
from cubelet.testkit import local_node, view
from cubelet_hooks.objects import Change, EndpointSlice, LocalNode, Node, Object, Pod, Service

LOCAL = local_node(
    onlink=(ip_network("172.18.0.0/16"),),
    next_hops=(ip_address("172.18.0.1"),),
    service_cidrs=(ip_network("10.96.0.0/12"),),
)
NODES = (
    Node("node1", addresses=LOCAL.addresses, pod_cidrs=(LOCAL.pod_cidr,)),
    Node("node2", addresses=(ip_address("172.18.0.3"),), pod_cidrs=(ip_network("10.2.0.0/24"),)),
)
ALWAYS = {"10.1.0.0/24", "10.2.0.0/24", "10.96.0.0/12", "169.254.1.2/32"}
SETUP: Any = SimpleNamespace(
    core=SimpleNamespace(family=4, settings=CoreSettings()),
    service_cidrs=(ip_network("10.96.0.0/12"),),
)


def service(name: str, *external: str, cluster_ip: str = "10.96.0.9") -> Service:
    asked = tuple(map(ip_address, external))
    return Service("shop", name, cluster_ips=(ip_address(cluster_ip),), external_ips=asked)


class Rig:
    """A host's network whose kernel refuses what it is told to."""

    def __init__(self, folder: Any, monkeypatch: pytest.MonkeyPatch, *objects: Object) -> None:
        self.refuses: dict[str, str] = {}
        self.wanted: set[str] = set()
        self.spared: set[str] = set()
        self.removed: bool | None = None
        self.problems = Problems()
        state = view(*NODES, *objects)
        memory = Memory(folder / "memory.json")
        self.network = HostNetwork(parse({"node_name": "node1"}), state, memory, self.problems)
        monkeypatch.setattr(host, "sync_routes", self._sync)

    def _sync(self, wanted: Any, local: Any, remove: bool, spared: Any) -> RouteReport:
        wanted = tuple(wanted)
        self.wanted, self.removed = set(map(str, wanted)), remove
        self.spared = set(map(str, spared))
        found = [
            Refused(each, self.refuses[str(each)]) for each in wanted if str(each) in self.refuses
        ]
        return RouteReport(refused=tuple(found))

    def route(self) -> None:
        self.network.route(SETUP, LOCAL, remove=True)


def test_only_what_is_nobodys_has_a_route(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = ("172.18.0.3", "172.18.0.77", "172.18.0.1", "10.2.0.7", "10.96.0.1", "127.0.0.1")
    both = service("web", "203.0.113.9", *taken)
    rig = Rig(tmp_path, monkeypatch, LOCAL, both)
    rig.route()
    assert rig.wanted == ALWAYS | {"203.0.113.9/32"}
    assert rig.spared == {"172.18.0.1"}
    assert rig.network.complaints == frozenset()
    assert rig.problems == {}


def test_an_address_that_somebody_else_routes_is_told_of_on_the_services(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = (service("a", "203.0.113.9"), service("b", "203.0.113.9"))
    rig = Rig(tmp_path, monkeypatch, LOCAL, *both)
    rig.refuses = {"203.0.113.9/32": "another route to it exists", "10.2.0.0/24": "so too"}
    rig.route()
    told = rig.network.complaints
    assert {(each.kind, each.key, each.reason) for each in told} == {
        ("Service", "shop/a", "RouteRefused"),
        ("Service", "shop/b", "RouteRefused"),
    }
    assert all("203.0.113.9" in each.message and "remedy" in each.message for each in told)
    assert rig.problems == {"routes": "10.2.0.0/24: so too"}
    rig.refuses = {}
    rig.route()
    assert rig.network.complaints == frozenset()
    assert rig.problems == {}


@pytest.mark.parametrize(
    ("server", "objects", "spared"),
    [
        ("192.0.2.6", (), True),
        ("10.96.0.1", (), False),
        (
            "10.96.0.1",
            (Service("default", "kubernetes", cluster_ips=(ip_address("10.96.0.1"),)),),
            False,
        ),
        (
            "10.96.0.7",
            (Service("default", "kubernetes", cluster_ips=(ip_address("10.96.0.1"),)),),
            True,
        ),
    ],
    ids=["its own", "likely a ClusterIP", "a ClusterIP", "no ClusterIP though in their range"],
)
def test_no_route_is_to_lead_away_from_the_api_server(
    tmp_path: Any,
    monkeypatch: pytest.MonkeyPatch,
    server: str,
    objects: tuple[Object, ...],
    spared: bool,
) -> None:
    """Unless it is reached by a Service, which is through us."""
    rig = Rig(tmp_path, monkeypatch, *objects)
    local = local_node(api_servers=((ip_address(server), 6443),))
    rig.network.route(SETUP, local, remove=False)
    assert rig.spared == ({server} if spared else set())


def test_devices_are_set_up_for_where_the_api_server_is(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = Memory(tmp_path / "memory.json")
    state = view(*NODES)
    network = HostNetwork(parse({"node_name": "node1"}), state, memory, Problems())
    monkeypatch.setattr(host, "ensure", lambda settings, before: LOCAL)
    monkeypatch.setattr(host, "remember", lambda settings, local: None)
    seen = [network.outdated]
    memory.remember(api_servers=(("192.0.2.6", 6443),))
    seen.append(network.outdated)
    network.ensure_devices(None, complete=True)
    seen.append(network.outdated)
    assert seen == [False, True, False]
    (local,) = (each for each in state if isinstance(each, LocalNode))
    assert local.api_servers == ((ip_address("192.0.2.6"), 6443),)


def test_what_concerns_the_host() -> None:
    def told(found: Object) -> bool:
        return concerns(Change.between(None, found))

    assert told(NODES[0])
    assert told(service("a"))
    assert told(EndpointSlice("default", "kubernetes"))
    assert not told(EndpointSlice("shop", "kubernetes"))
    assert not told(Pod("shop", "a"))
