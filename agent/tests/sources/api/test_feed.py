"""What the agent tells a real API server, and how it begins without one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from cubelet.cni.errors import TRY_AGAIN_LATER, CniError
from cubelet.config.node import parse
from cubelet.lab.apiserver import ApiServer, resources
from cubelet.sources.api import events, feed
from cubelet.sources.api.events import Reference, make_event
from cubelet.sources.api.feed import ApiFeed
from cubelet.sources.api.node import CONDITION, TAINT
from cubelet.sources.feed import Outcome
from cubelet.state.cluster import State
from cubelet.state.last_known import Memory
from cubelet_hooks.cube import Complaint
from cubelet_hooks.objects import Change

from ...helpers.aio import in_loop, until

NODE = "node1"
OTHER_TAINT = {"key": "example.com/gpu", "effect": "NoSchedule"}
TAINTED = {
    "kind": "Node",
    "metadata": {"name": NODE},
    "spec": {
        "podCIDR": "10.1.0.0/24",
        "taints": [{"key": TAINT, "effect": "NoExecute"}, OTHER_TAINT],
    },
    "status": {
        "addresses": [{"type": "InternalIP", "address": "172.18.0.2"}],
        "conditions": [{"type": CONDITION, "status": "True"}, {"type": "Ready", "status": "True"}],
    },
}
BROKEN_SERVICE = {
    "kind": "Service",
    "metadata": {"name": "odd", "namespace": "default"},
    "spec": {"clusterIP": "10.96.0.300", "ports": [{"port": 80}]},
}


POD = {
    "kind": "Pod",
    "metadata": {"name": "a", "namespace": "default"},
    "spec": {"nodeName": NODE, "containers": [{"name": "c"}]},
}


class Running:
    """A feed that follows a server, with what it has emitted in ``state``."""

    def __init__(self, server: ApiServer, url: str, folder: Path, **options: Any) -> None:
        folder.mkdir(exist_ok=True)
        kubeconfig = folder / "kubeconfig"
        kubeconfig.write_text(
            "{apiVersion: v1, kind: Config, current-context: a, users: [],"
            f" clusters: [{{name: a, cluster: {{server: '{url}'}}}}],"
            " contexts: [{name: a, context: {cluster: a, user: ''}}]}"
        )
        settings = parse(
            {
                "node_name": NODE,
                "source": "kubernetes",
                "kubernetes": {"kubeconfig": str(kubeconfig)},
            }
        )
        self.server = server
        self.state = State()
        self.memory = Memory(folder / "memory.json")
        self.feed = ApiFeed(settings, self.memory, self.state, self._take, lambda: None, **options)

    def _take(self, change: Change) -> None:
        self.state.apply(change)

    @contextlib.asynccontextmanager
    async def following(self) -> AsyncIterator[Running]:
        task = asyncio.create_task(self.feed.run())
        try:
            yield self
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


def node(server: ApiServer) -> dict[str, Any]:
    return server.get("nodes", NODE)


def conditions(server: ApiServer) -> dict[str, str]:
    return {each["type"]: each["status"] for each in node(server)["status"]["conditions"]}


@in_loop
async def test_a_node_is_untainted_once_pods_are_served(tmp_path):
    server = ApiServer()
    server.put(TAINTED)
    async with server.serving() as url, Running(server, url, tmp_path).following() as running:
        await running.feed.begun()
        running.feed.passed(Outcome(ready=False))
        await asyncio.sleep(0.2)
        assert TAINT in str(node(server))
        running.feed.passed(Outcome(ready=True))
        await until(lambda: TAINT not in str(node(server)))
        assert node(server)["spec"]["taints"] == [OTHER_TAINT]
        assert conditions(server) == {CONDITION: "False", "Ready": "True"}
        # registered anew under the same name
        server.delete("nodes", NODE)
        server.put(TAINTED)
        await until(lambda: conditions(server)[CONDITION] == "False")
        await until(lambda: node(server)["spec"]["taints"] == [OTHER_TAINT])


@in_loop
async def test_a_node_that_is_in_order_is_not_written_to(tmp_path):
    server = ApiServer()
    status = {"conditions": [{"type": CONDITION, "status": "False"}]}
    server.put({**TAINTED, "spec": {"taints": [OTHER_TAINT]}, "status": status})
    async with server.serving() as url, Running(server, url, tmp_path).following() as running:
        await running.feed.begun()
        running.feed.passed(Outcome(ready=True))
        await until(lambda: any(a.path.endswith(f"/nodes/{NODE}") for a in server.log))
        await asyncio.sleep(0.1)
        assert not [access for access in server.log if access.method == "PATCH"]


@in_loop
async def test_a_refused_object_gets_one_event_from_all_nodes(tmp_path):
    server = ApiServer()
    server.put(TAINTED)
    server.put(BROKEN_SERVICE)
    async with server.serving() as url:
        first, second = (Running(server, url, tmp_path / name) for name in "ab")
        async with first.following(), second.following():
            await until(lambda: len(posts(server)) == 2)
            written = stored_events(server)
    assert len(written) == 1
    (event,) = written
    assert event["reason"] == "ObjectRefused"
    assert "spec.clusterIP" in event["message"]
    service = server.get("services", "odd", "default")
    assert event["involvedObject"]["uid"] == service["metadata"]["uid"]
    assert [str(problem) for problem in first.feed.problems] != []


@in_loop
async def test_a_refused_configuration_gets_an_event(tmp_path):
    server = ApiServer()
    server.put(TAINTED)
    config = {"name": "cubelet", "namespace": "kube-system"}
    server.put({"kind": "ConfigMap", "metadata": config, "data": {"config.yaml": "no: such"}})
    async with server.serving() as url, Running(server, url, tmp_path).following() as running:
        await running.feed.begun()
        assert "kube-system/cubelet" in running.state.config_maps
        for _ in range(3):
            running.feed.passed(Outcome(ready=True, refused="no is unknown"))
        await until(lambda: stored_events(server))
        (event,) = stored_events(server)
    assert event["message"] == "no is unknown"
    found = server.get("configmaps", "cubelet", "kube-system")
    assert event["involvedObject"]["uid"] == found["metadata"]["uid"]


RATE = {"rate": "ImportError: no scapy"}


@pytest.mark.parametrize(
    ("outcome", "reason"),
    [
        (Outcome(ready=True, quarantined=RATE), "CubeQuarantined"),
        (Outcome(ready=True, kept=RATE), "CubeKept"),
    ],
)
@in_loop
async def test_a_cube_that_cannot_be_used_is_an_event_of_the_node(tmp_path, outcome, reason):
    server = ApiServer()
    server.put(TAINTED)
    async with server.serving() as url, Running(server, url, tmp_path).following() as running:
        await running.feed.begun()
        for _ in range(2):
            running.feed.passed(outcome)
        await until(lambda: stored_events(server))
        (stored,) = stored_events(server)
    assert (stored["reason"], stored["message"]) == (reason, "cube rate: ImportError: no scapy")
    assert stored["involvedObject"]["kind"] == "Node"
    assert stored["involvedObject"]["uid"] == NODE


COMPLAINTS = (
    Complaint("Service", "default/web", "AddressRefused", "somebody has it"),
    Complaint("EndpointSlice", "default/web-1", "EndpointRefused", "no backend"),
    Complaint("NetworkPolicy", "default/closed", "Odd", "odd"),
    Complaint("Node", NODE, "Odd", "odd"),
)


def named(kind: str, name: str, **fields: Any) -> dict[str, Any]:
    return {"kind": kind, "metadata": {"name": name, "namespace": "default"}, **fields}


@in_loop
async def test_complaints_are_events_of_their_objects_once_for_each_change(tmp_path, monkeypatch):
    monkeypatch.setattr(events.EventWriter.__init__, "__defaults__", (0.0,))
    server = ApiServer()
    server.put(TAINTED)
    server.put(named("Service", "web", spec={"ports": [{"port": 80}]}))
    server.put(named("EndpointSlice", "web-1", addressType="IPv4", endpoints=[]))
    server.put(named("NetworkPolicy", "closed", spec={"podSelector": {}}))
    first, second = COMPLAINTS[:1], (replace(COMPLAINTS[0], message="it is a pod's"),)
    async with server.serving() as url, Running(server, url, tmp_path).following() as running:
        await running.feed.begun()
        for told in (first, first, COMPLAINTS, second, (), second):
            running.feed.passed(Outcome(ready=True, complaints=told))
        await until(lambda: len(posts(server)) == len(COMPLAINTS) + 2)
        written = stored_events(server)
    assert {(each["involvedObject"]["kind"], each["reason"]) for each in written} == {
        (each.kind, each.reason) for each in COMPLAINTS
    }
    texts = [e["message"] for e in written if e["reason"] == "AddressRefused"]
    assert sorted(texts) == ["it is a pod's", "somebody has it"]
    plurals = {"Service": "services", "EndpointSlice": "endpointslices"}
    plurals["NetworkPolicy"] = "networkpolicies"
    for event in written:
        about = event["involvedObject"]
        if about["kind"] in plurals:
            found = server.get(plurals[about["kind"]], about["name"], "default")
            assert about["uid"] == found["metadata"]["uid"]
            assert about["apiVersion"] == found["apiVersion"]


@in_loop
async def test_the_way_to_the_server_is_cleared_before_it_is_asked_and_while_it_is_away(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(feed, "_LOOK_WHILE_AWAY", 0.05)
    cleared: list[tuple[str, ...]] = []
    server = ApiServer()
    server.put(TAINTED)

    def free(addresses: Any) -> None:
        cleared.append(tuple(map(str, addresses)))
        assert len(cleared) > 1 or not server.log

    async with (
        server.serving() as url,
        Running(server, url, tmp_path, free=free).following() as running,
    ):
        await running.feed.begun()
        port = int(url.rpartition(":")[2])
        assert running.memory.known.api_servers == (("127.0.0.1", port),)
        await asyncio.sleep(0.2)
        times = len(cleared)
        await asyncio.sleep(0.2)
        assert len(cleared) == times >= 1, "it is there"
    gone = Running(server, "http://gone.invalid:6443", tmp_path, free=free, patience=0.1)
    async with gone.following():
        await until(lambda: len(cleared) > times + 2)
    assert set(cleared) == {("127.0.0.1",)}, "what was known last counts"


@in_loop
async def test_without_a_server_a_node_begins_with_what_it_remembers(tmp_path):
    server = ApiServer()
    server.put(TAINTED)
    server.put({"kind": "NetworkPolicy", "metadata": {"name": "a", "namespace": "locked"}})
    async with server.serving() as url, Running(server, url, tmp_path).following() as running:
        await running.feed.begun()
        running.memory.remember_node(running.state.nodes[NODE])
        running.feed.passed(Outcome(ready=True))
    again = Running(server, url, tmp_path, patience=0.2)
    async with again.following():
        async with asyncio.timeout(5):
            await again.feed.begun()
        assert (again.feed.usable, again.feed.complete) == (True, False)
        remembered = again.memory.known.node(NODE)
        assert remembered is not None
        assert str(remembered.pod_cidrs[0]) == "10.1.0.0/24"
        assert await again.feed.find_pod("free/a") is None
        with pytest.raises(CniError) as caught:
            await again.feed.find_pod("locked/a")
        assert caught.value.code == TRY_AGAIN_LATER
        port = int(url.rpartition(":")[2])
        async with server.serving(port=port):
            await until(lambda: again.feed.complete, 30)


@in_loop
async def test_half_a_cluster_is_not_told_of(tmp_path):
    server = ApiServer()
    server.put(TAINTED)
    server.put({"kind": "NetworkPolicy", "metadata": {"name": "a", "namespace": "default"}})
    server.put(POD)
    async with server.serving() as url:
        async with Running(server, url, tmp_path).following() as running:
            await running.feed.begun()
            running.memory.remember_node(running.state.nodes[NODE])
        server.faults.slow(1.0, resource="services", verb="list")
        again = Running(server, url, tmp_path, patience=0.1)
        async with again.following():
            await again.feed.begun()
            await until(lambda: again.state.nodes)
            assert [each.kind for each in again.state] == ["Node"]
            assert await again.feed.find_pod("default/a") is not None
            assert "default/a" in again.state.pods  # it was asked for
            assert not again.state.policies
            await until(lambda: again.feed.complete, 10)
            assert set(again.state.policies) == {"default/a"}
            assert set(again.state.pods) == {"default/a"}


@in_loop
async def test_a_node_that_never_ran_waits_for_the_server(tmp_path):
    server = ApiServer()
    async with Running(
        server, "http://127.0.0.1:9", tmp_path, patience=0.05
    ).following() as running:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                await running.feed.begun()
        assert not running.feed.usable


def test_a_long_message_is_cut_and_its_name_follows_from_what_is_said():
    about = Reference("v1", "Node", "", "a")
    now = datetime.now(UTC)
    one = make_event(about, "Why", "x" * 5000, "n1", now)
    same = make_event(about, "Why", "x" * 5000, "n2", now)
    other = make_event(about, "Why", "y", "n1", now)
    assert len(one["message"]) <= 1024
    assert one["metadata"] == same["metadata"]
    assert one["metadata"]["name"] != other["metadata"]["name"]
    assert one["metadata"]["namespace"] == "default"


def posts(server: ApiServer) -> list[Any]:
    return [a for a in server.log if a.method == "POST" and a.path.endswith("/events")]


def stored_events(server: ApiServer) -> list[dict[str, Any]]:
    return [
        msgspec.json.decode(stored.body) for stored in server.store.all(resources.named("events"))
    ]
