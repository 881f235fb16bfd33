"""The demo's checks: what each expects, where it runs, and how its result is worded."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from ipaddress import ip_network
from typing import Any, Final

import msgspec

from cubelet.lab import netns, traffic
from cubelet.lab.kinds import Key, Manifest
from cubelet.lab.layout import OUTSIDE_ADDRESS, OUTSIDE_PORT, LabSpec, Layout
from cubelet.lab.netns import Call
from cubelet.lab.store import Store
from cubelet.net.node import gateway_of

NAMESPACE: Final = "demo"
_DATAGRAM: Final = 64_000  # bytes: 44 fragments at an MTU of 1,500
_TRANSFER: Final = 100_000_000  # bytes
_ASKED: Final = 24  # connections to a Service: all reach one of two backends 1 in 8 million times
_AT_ONCE: Final = 0.5  # seconds: far below any timeout, far above a busy machine's delays
_PORT: Final = 8080
_DATABASE_PORT: Final = 5432
_NODE_PORT: Final = 30080


@dataclass(frozen=True)
class Check:
    """One line of the table: it holds if `look(*args)`, run in `netns`, says what is expected."""

    name: str
    expected: str
    netns: str
    look: Callable[..., str]
    args: tuple[Any, ...]
    heavy: bool = False  # loads the machine: not at the same time as those that wait for answers


class Row(msgspec.Struct, frozen=True):
    """One line of the demo's table."""

    check: str
    expected: str
    seen: str
    ok: bool
    seconds: float


def run(checks: list[Check]) -> list[Row]:
    """Run all checks, the light ones together and then the heavy ones; rows in the given order."""
    rows: dict[str, Row] = {}
    for heavy in (False, True):
        some = [check for check in checks if check.heavy is heavy]
        calls = [Call(check.netns, _timed, (check,)) for check in some]
        for check, row in zip(some, netns.run_all(calls, timeout=90), strict=True):
            rows[check.name] = row
    return [rows[check.name] for check in checks]


def _timed(check: Check) -> Row:
    began = time.monotonic()
    seen = check.look(*check.args)
    seconds = time.monotonic() - began
    return Row(check.name, check.expected, seen, seen == check.expected, round(seconds, 4))


class Topology:
    """The places of the demo's pods, nodes and Services, and the checks between them."""

    def __init__(self, layout: Layout, spec: LabSpec) -> None:
        self._layout = layout
        self._store = Store(layout)
        self._nodes = {node.name: node.address for node in spec.nodes}
        self._routers = [gateway_of(ip_network(node.pod_cidr)) for node in spec.nodes]

    def checks(self) -> list[Check]:
        """All checks, in the order of the table."""
        return [
            *self._between_pods("same node", "web-1"),
            *self._between_pods("across nodes", "web-2"),
            *self._services(),
            *self._borders(),
            *self._policy(),
        ]

    def _between_pods(self, way: str, server: str) -> Iterator[Check]:
        client, address = self._netns("client"), self._pod(server)
        name = f"{NAMESPACE}/{server}"
        yield Check(f"pod to pod, {way}: TCP", name, client, _who, (address, _PORT, "TCP"))
        yield Check(f"pod to pod, {way}: UDP", name, client, _who, (address, _PORT, "UDP"))
        yield Check(f"pod to pod, {way}: ping", "answered", client, _ping, (address,))
        yield Check(
            f"pod to pod, {way}: 64 kB UDP in fragments",
            "echoed intact",
            client,
            _datagram,
            (address, _PORT),
        )
        yield Check(
            f"pod to pod, {way}: 100 MB over TCP",
            "same SHA-256",
            client,
            _transfer,
            (address, _PORT),
            heavy=True,
        )

    def _services(self) -> Iterator[Check]:
        client, web = self._netns("client"), self._service("web")
        backends = f"{NAMESPACE}/web-1 {NAMESPACE}/web-2"
        seen = f"{backends}, seeing {self._pod('client')}"
        yield Check("pod to ClusterIP, backends on both nodes", seen, client, _backends, (web, 80))
        node = self._layout.node_netns("node1")
        yield Check("host to ClusterIP", backends, node, _backend_names, (web, 80))
        yield Check(
            "outside client to NodePort, node without the backend",
            f"{NAMESPACE}/shop",
            self._layout.outside_netns,
            _who,
            (self._nodes["node1"], _NODE_PORT, "TCP"),
        )
        empty = self._service("empty")
        expected = f"refused within {_AT_ONCE:g} s"
        yield Check("Service without endpoints", expected, client, _refusal, (empty, 80))

    def _borders(self) -> Iterator[Check]:
        client, node = self._netns("client"), self._layout.node_netns("node1")
        outside = f"server sees {self._nodes['node1']}"
        target = (OUTSIDE_ADDRESS, OUTSIDE_PORT)
        yield Check("pod to outside server, as its node", outside, client, _seen_as, target)
        for server, way in (("web-1", "own pod"), ("web-2", "pod of another node")):
            name = f"{NAMESPACE}/{server}"
            args = (self._pod(server), _PORT, "TCP")
            yield Check(f"host to {way}", name, node, _who, args)
        address = self._pod("web-2")
        hops = " > ".join(map(str, (*self._routers, address)))
        yield Check("traceroute through the router", hops, client, _route, (address,))

    def _policy(self) -> Iterator[Check]:
        args = (self._pod("db"), _DATABASE_PORT, "TCP")
        yield Check("NetworkPolicy: client to db", "timeout", self._netns("client"), _who, args)
        for server in ("web-1", "web-2"):
            name = f"NetworkPolicy: {server} to db"
            yield Check(name, f"{NAMESPACE}/db", self._netns(server), _who, args)

    def _get(self, kind: str, name: str) -> Manifest:
        manifest = self._store.get(Key(kind, NAMESPACE, name))
        assert manifest is not None, f"{kind} {name} is in demo.yaml"
        return manifest

    def _pod(self, name: str) -> str:
        return str(self._get("Pod", name)["status"]["podIP"])

    def _service(self, name: str) -> str:
        return str(self._get("Service", name)["spec"]["clusterIP"])

    def _netns(self, pod: str) -> str:
        return self._layout.pod_netns(NAMESPACE, pod)


def _who(address: str, port: int, protocol: str) -> str:
    result = traffic.who(address, port, protocol)
    return result.server or result.outcome


def _ping(address: str) -> str:
    return traffic.ping(address).outcome


def _datagram(address: str, port: int) -> str:
    result = traffic.udp_echo(address, port, _DATAGRAM)
    return "echoed intact" if result.answered else result.outcome


def _transfer(address: str, port: int) -> str:
    result = traffic.transfer(address, port, _TRANSFER)
    return "same SHA-256" if result.answered else result.outcome


def _backends(address: str, port: int) -> str:
    results = _ask_often(address, port)
    seen = " ".join(sorted({result.seen_as for result in results}))
    return f"{_servers(results)}, seeing {seen}"


def _backend_names(address: str, port: int) -> str:
    return _servers(_ask_often(address, port))


def _ask_often(address: str, port: int) -> list[traffic.Result]:
    """Connect many times; stop at the first failure, which fails the check."""
    results: list[traffic.Result] = []
    while len(results) < _ASKED and all(result.answered for result in results):
        results.append(traffic.who(address, port))
    return results


def _servers(results: list[traffic.Result]) -> str:
    return " ".join(sorted({result.server or result.outcome for result in results}))


def _refusal(address: str, port: int) -> str:
    result = traffic.who(address, port)
    if result.outcome == "refused" and result.seconds < _AT_ONCE:
        return f"refused within {_AT_ONCE:g} s"
    return f"{result.outcome} after {result.seconds:.2f} s"


def _seen_as(address: str, port: int) -> str:
    result = traffic.who(address, port)
    return f"server sees {result.seen_as}" if result.answered else result.outcome


def _route(address: str) -> str:
    return " > ".join(hop.address or "*" for hop in traffic.traceroute(address))
