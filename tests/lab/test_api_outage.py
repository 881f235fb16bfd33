"""Agents that start, stop and crash while the API server is slow, or away."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from cubelet.cni import errors
from cubelet.ipc.client import AgentUnreachableError
from cubelet.lab import agents, api, cluster, processes
from cubelet.lab.apiserver import ApiServer
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.sources.api.node import CONDITION, TAINT

from .cni import Runtime
from .load import connections, datagrams, loads, stream
from .manifests import pod, policy, service
from .test_api import kubeconfig
from .world import QUICK, Space, World, eventually

NODE = "node1"
ECHO = 7
RESOURCES = (
    "nodes",
    "namespaces",
    "pods",
    "services",
    "endpointslices.discovery.k8s.io",
    "networkpolicies.networking.k8s.io",
    "configmaps",
)


class Site:
    """A lab of one node on an API server, with two pods, a Service and a policy elsewhere."""

    def __init__(self, layout: Layout) -> None:
        spec = LabSpec(layout.name, plan_nodes(1, ()), QUICK, api=True)
        cluster.up(layout, spec, lambda _: None)
        self.world = World(layout, spec)
        self.space = Space(self.world, "shop")
        self.space.apply(
            pod("client"),
            pod("server", ("TCP", ECHO), ("UDP", ECHO)),
            service("server", "server", ("TCP", 80, ECHO), ("UDP", 80, ECHO)),
        )
        Space(self.world, "locked").apply(policy("closed", "any", ingress=[]))
        client, vip = self.space.at("client"), self.space.vip("server")
        eventually(lambda: self.space.who(client, vip, 80) == "server", 10)

    @contextmanager
    def away(self) -> Iterator[None]:
        """The server is not there; afterwards it is again, with the same objects."""
        processes.end(self.world.layout, [api.SERVER])
        yield
        api.start(self.world.layout, self.world.spec)

    def start(self) -> None:
        """Start the agent; it may not be ready yet."""
        agents.start(self.world.layout, self.world.spec)

    def status(self) -> dict[str, Any]:
        return dict(self.world.call(NODE, "status"))

    def problems(self) -> str:
        return " ".join(map(str, self.world.call(NODE, "status")["problems"]))


@pytest.fixture
def site(layout: Layout, monkeypatch: pytest.MonkeyPatch) -> Site:
    """One on a server process of the lab's own."""
    monkeypatch.delenv("KUBECONFIG", raising=False)
    return Site(layout)


@pytest.fixture
def server() -> ApiServer:
    """A server that the test holds in its hands."""
    return ApiServer(controllers=True, tokens=["secret"], bookmarks=1.0)


@pytest.fixture
def theirs(
    layout: Layout, server: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Site]:
    """One on that server."""
    with server.running() as url:
        monkeypatch.setenv("KUBECONFIG", str(kubeconfig(url, tmp_path)))
        yield Site(layout)
        cluster.down(layout)


def test_the_node_is_told_to_have_a_network(theirs: Site, server: ApiServer) -> None:
    node = server.get("nodes", NODE)
    conditions = {each["type"]: each["status"] for each in node["status"]["conditions"]}
    assert conditions[CONDITION] == "False"
    node["spec"]["taints"] = [{"key": TAINT, "effect": "NoExecute"}]
    server.put(node)
    theirs.world.kill(NODE)
    theirs.start()
    eventually(lambda: TAINT not in str(server.get("nodes", NODE)), 20)


def test_pods_start_and_traffic_flows_while_the_server_is_away(site: Site) -> None:
    client, vip = site.space.at("client"), site.space.vip("server")
    identity = site.status()["composition"]
    runtime = Runtime(site.world, NODE, "late")
    runtime.make()
    with loads() as running:
        running.add("UDP", client, datagrams, vip, 80)
        running.add("TCP", client, stream, vip, 80)
        running.add("new TCP", client, connections, vip, 80)
        with site.away():
            eventually(lambda: "is away since" in site.problems(), 20)
            added = runtime("ADD", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=late")
            assert added.status == 0, added
            assert site.space.who(runtime.netns, vip, 80) == "server"
            site.world.kill(NODE)
            site.start()
            eventually(lambda: is_ready(site), 30)
            assert site.status()["composition"] == identity | changed_programs(site)
            assert "is away since" in site.problems()
            assert site.space.who(runtime.netns, vip, 80) == "server"
            another = Runtime(site.world, NODE, "later")
            another.make()
            refused = another("ADD", "K8S_POD_NAMESPACE=locked;K8S_POD_NAME=later")
            assert refused.code == errors.TRY_AGAIN_LATER
            assert "policies of namespace locked" in refused.document["msg"]
            assert another("ADD", "K8S_POD_NAMESPACE=shop;K8S_POD_NAME=later").status == 0
            assert site.space.who(another.netns, vip, 80) == "server"
        eventually(lambda: site.problems() == "", 60)
        assert site.space.who(another.netns, vip, 80) == "server"
    running.check(at_least=50)
    for each in (runtime, another):
        assert each("DEL").status == 0


def is_ready(site: Site) -> bool:
    try:
        return bool(site.status()["ready"])
    except AgentUnreachableError:
        return False


def changed_programs(site: Site) -> dict[str, Any]:
    """The programs are loaded anew; all else of a composition stays."""
    return {"programs": site.status()["composition"]["programs"]}


def test_an_agent_that_is_killed_at_every_step_of_a_sync_loses_nothing(
    theirs: Site, server: ApiServer
) -> None:
    client, vip = theirs.space.at("client"), theirs.space.vip("server")
    wanted = theirs.world.planned(NODE)
    with loads() as running:
        running.add("UDP", client, datagrams, vip, 80)
        running.add("TCP", client, stream, vip, 80)
        running.add("new TCP", client, connections, vip, 80)
        theirs.world.kill(NODE)
        for resource in RESOURCES:
            server.faults.slow(1.5, resource=resource, verb="list")
            seen = len(server.log)
            theirs.start()
            plural = resource.partition(".")[0]
            eventually(
                lambda seen=seen, plural=plural: any(  # type: ignore[misc]
                    plural in access.path for access in server.log[seen:]
                ),
                20,
            )
            time.sleep(0.2)  # the others are listed, this one is not
            theirs.world.kill(NODE)
            server.faults.clear()
            assert theirs.world.planned(NODE) == wanted, resource
        theirs.start()
        eventually(lambda: is_ready(theirs), 30)
        assert theirs.problems() == ""
        assert theirs.world.planned(NODE) == wanted
    running.check(at_least=50)
