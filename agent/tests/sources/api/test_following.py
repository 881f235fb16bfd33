"""The source at work: what it emits, keeps, finds and reports."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import subprocess
import sys
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from cubelet.lab.apiserver import ApiServer
from cubelet.sources.api import ApiError
from cubelet.sources.api.errors import Garbled, Unreachable
from cubelet_hooks.objects import ConfigMap, Pod

from .following import (
    Follower,
    endpoints,
    following,
    node,
    pod,
    service,
    until,
)

POLICY = {
    "kind": "NetworkPolicy",
    "apiVersion": "networking.k8s.io/v1",
    "metadata": {"name": "none", "namespace": "default"},
    "spec": {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]},
}


def config_map(name: str, namespace: str = "kube-system") -> dict[str, object]:
    return {
        "kind": "ConfigMap",
        "metadata": {"name": name, "namespace": namespace},
        "data": {"a": name},
    }


async def watching(follower: Follower, kind: str = "Pod") -> None:
    await until(lambda: follower.requests(kind, watches=True) > 0)


class TestObjects:
    def test_every_kind_is_followed(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(node("node1"))
            server.put(config_map("cubelet"))
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                for each in (
                    node("node2"),
                    {"kind": "Namespace", "metadata": {"name": "other"}},
                    pod("a"),
                    service("web"),
                    endpoints("web", "10.1.0.2", "10.1.0.3"),
                    dict(POLICY),
                ):
                    server.put(each)
                server.put({**config_map("cubelet"), "data": {"b": "c"}})
                await follower.agrees()
                kinds = {kind for kind, _ in follower.held()}
                assert len(kinds) == 7
                for kind in ("Node", "Pod", "Service", "EndpointSlice", "NetworkPolicy"):
                    assert follower.requests(kind) == 2
                for kind, name in (("Pod", "a"), ("Service", "web"), ("NetworkPolicy", "none")):
                    server.delete(kind, name, "default")
                await follower.agrees()

        asyncio.run(run())

    def test_lists_are_read_in_pages(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            for number in range(7):
                server.put(pod(f"p{number}", f"10.1.0.{number + 2}"))
            async with following(server, tmp_path, page_size=3) as follower:
                await follower.agrees()
                assert follower.requests("Pod", watches=False) == 3

        asyncio.run(run())

    def test_one_config_map_of_many(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(config_map("cubelet"))
            server.put(config_map("other"))
            server.put(config_map("cubelet", "default"))
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                server.put(config_map("another"))
                server.put({**config_map("cubelet"), "data": {"b": "c"}})
                await follower.agrees()
                found = [each for each in follower.state if isinstance(each, ConfigMap)]
                assert found == [ConfigMap("kube-system", "cubelet", {"b": "c"})]

        asyncio.run(run())

    def test_only_what_a_node_needs(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(node("node1", **{"cubelet.io/a": "b", "other": "c"}))
            server.put(pod("own"))
            server.put(pod("other", "10.1.1.2", nodeName="node2"))
            server.put(pod("over", "10.1.1.3", nodeName="node2", phase="Succeeded"))
            server.put(pod("done", "10.1.0.3", phase="Failed"))
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                pods = follower.state.pods
                assert sorted(pods) == ["default/done", "default/other", "default/own"]
                assert pods["default/own"].annotations == {"a": "b"}
                assert pods["default/own"].uid
                assert pods["default/other"].annotations == {}
                assert pods["default/other"].labels == {"app": "other"}
                assert not pods["default/other"].uid
                assert follower.state.nodes["node1"].annotations == {"cubelet.io/a": "b"}
                server.put(pod("other", "10.1.1.2", nodeName="node2", phase="Succeeded"))
                await follower.agrees()
                assert "default/other" not in follower.state.pods

        asyncio.run(run())

    def test_what_does_not_matter_is_not_emitted(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(node("node1"))
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                await watching(follower, "Node")
                before = len(follower.changes)
                for number in range(5):
                    server.put(node("node1", heartbeat=str(number)))
                server.put(node("node2"))
                await follower.agrees()
                assert len(follower.changes) == before + 1

        asyncio.run(run())

    def test_refresh_is_a_consistent_read(self, tmp_path: Path) -> None:
        """It knows what no watch has told."""

        async def run() -> None:
            server = ApiServer()
            server.put(pod("a"))
            server.put(pod("b", "10.1.0.3"))
            server.faults.bookmarks_only()
            async with following(server, tmp_path) as follower:
                await follower.source.refresh()
                assert follower.source.has_synced
                await watching(follower)
                server.faults.silence(times=7)
                server.put(pod("c", "10.1.0.4"))
                server.delete("pods", "a", "default")
                await asyncio.gather(*(follower.source.refresh() for _ in range(3)))
                assert sorted(follower.state.pods) == ["default/b", "default/c"]
                assert follower.requests("Pod", watches=False) <= 4

        asyncio.run(run())

    def test_refresh_outlasts_an_outage(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.faults.answer(503, times=40)
            server.put(pod("a"))
            async with following(server, tmp_path) as follower:
                await asyncio.wait_for(follower.source.refresh(), 10)
                assert "default/a" in follower.state.pods

        asyncio.run(run())


class TestMalformed:
    def test_it_stops_no_other_and_goes_when_repaired(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(service("bad", "http"))
            server.put(service("web"))
            async with following(server, tmp_path) as follower:
                await until(lambda: "default/web" in follower.state.services)
                await until(lambda: follower.problems)
                (problem,) = map(str, follower.problems)
                place, wrong = "Service default/bad: spec.ports[0].port", "an integer, is 'http'"
                assert problem == f"Kubernetes API: {place}: must be {wrong}"
                server.put(service("bad", 81))
                await follower.agrees()
                await until(lambda: not follower.problems)
                server.put(service("bad", "http"))
                await until(lambda: follower.problems)
                assert follower.state.services["default/bad"].ports[0].port == 81
                server.delete("services", "bad", "default")
                await until(lambda: not follower.problems)
                await follower.agrees()

        asyncio.run(run())

    def test_each_mistake_is_told_once(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(service("bad", "http"))
            async with following(server, tmp_path) as follower:
                await until(lambda: follower.malformed)
                await follower.source.refresh()
                await follower.source.refresh()
                (told,) = follower.malformed
                assert (told.kind, told.api_version, told.key) == ("Service", "v1", "default/bad")
                assert (told.namespace, told.name) == ("default", "bad")
                assert told.uid == server.get("services", "bad", "default")["metadata"]["uid"]
                assert told.resource_version
                assert told.field == "spec.ports[0].port"
                server.put(service("bad", 70_000))
                await until(lambda: len(follower.malformed) == 2)

        asyncio.run(run())

    @pytest.mark.parametrize(
        ("kind", "name", "field"),
        [
            ("pods", "a", "status"),
            ("pods", "a", "spec.containers"),
            ("endpointslices", "web", "addressType"),
            ("services", "web", "spec.ports"),
            ("nodes", "node1", "spec.podCIDR"),
            ("pods", "a", "metadata.name"),
            ("pods", "a", "metadata"),
            ("services", "web", "metadata.name"),
        ],
    )
    def test_fields_that_vanish(self, tmp_path: Path, kind: str, name: str, field: str) -> None:
        """Whatever a server leaves out, the rest goes on, and all is well when it is back."""

        async def run() -> None:
            server = ApiServer()
            for each in (node("node1"), pod("a"), service("web"), endpoints("web", "10.1.0.2")):
                server.put(each)
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                held = follower.held()
                server.faults.remove_fields(kind, name, field)
                await follower.source.refresh()
                assert follower.held().keys() == held.keys(), "nothing was removed"
                server.put(pod("b", "10.1.0.3"))
                await until(lambda: "default/b" in follower.state.pods)
                server.faults.clear()
                await follower.source.refresh()
                await follower.agrees()
                await until(lambda: not follower.problems)

        asyncio.run(run())

    def test_one_without_a_name_may_be_any(self, tmp_path: Path) -> None:
        """While it is not known whom an object is about, no other is taken for deleted."""

        async def run() -> None:
            server = ApiServer()
            server.put(pod("a"))
            server.put(pod("b", "10.1.0.3"))
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                await watching(follower)
                server.faults.remove_fields("pods", "a", "metadata.name")
                server.faults.silence(resource="pods", times=3)
                server.end_watches("pods")
                server.delete("pods", "b", "default")
                await follower.source.refresh()
                assert sorted(follower.state.pods) == ["default/a", "default/b"]
                server.faults.clear()
                await follower.source.refresh()
                assert sorted(follower.state.pods) == ["default/a"]

        asyncio.run(run())


class TestFindPod:
    def test_known_pods_cost_no_request(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(pod("a"))
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                before = len(server.log)
                found = await follower.source.find_pod("default/a")
                assert found is follower.state.pods["default/a"]
                assert not any(each.path.endswith("/a") for each in server.log[before:])

        asyncio.run(run())

    def test_an_unknown_pod_is_asked_for_and_emitted(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                server.faults.silence(resource="pods", times=100)
                await watching(follower)
                server.end_watches("pods")
                await until(lambda: follower.requests("Pod", watches=True) >= 2)
                server.put(pod("a"))
                found = await follower.source.find_pod("default/a")
                assert isinstance(found, Pod)
                assert follower.state.pods["default/a"] is found
                assert found.annotations == {"a": "b"}

        asyncio.run(run())

    def test_no_such_pod(self, tmp_path: Path) -> None:
        async def run() -> None:
            async with following(ApiServer(), tmp_path) as follower:
                assert await follower.source.find_pod("default/a") is None

        asyncio.run(run())

    def test_another_uid_is_another_pod(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(pod("a"))
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                uid = follower.state.pods["default/a"].uid
                assert await follower.source.find_pod("default/a", uid)
                assert await follower.source.find_pod("default/a", "other") is None

        asyncio.run(run())

    @pytest.mark.parametrize("status", [403, 429, 500])
    def test_a_server_that_refuses(self, tmp_path: Path, status: int) -> None:
        async def run() -> None:
            server = ApiServer()
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                server.faults.answer(status, verb="get")
                with pytest.raises(ApiError, match=str(status)):
                    await follower.source.find_pod("default/a")

        asyncio.run(run())

    def test_a_server_that_does_not_answer(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("cubelet.sources.api.source._FIND_SECONDS", 0.1)

        async def run() -> None:
            server = ApiServer()
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                server.faults.slow(60, verb="get")
                with pytest.raises(Unreachable, match=r"no answer within 0\.1 s"):
                    await follower.source.find_pod("default/a")

        asyncio.run(run())

    def test_a_pod_that_cannot_be_read(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            async with following(server, tmp_path) as follower:
                await follower.agrees()
                server.faults.silence(resource="pods", times=100)
                await watching(follower)
                server.end_watches("pods")
                await until(lambda: follower.requests("Pod", watches=True) >= 2)
                server.put(pod("a", "nonsense"))
                with pytest.raises(Garbled, match=r"Pod default/a: status.podIPs\[0\].ip: must be"):
                    await follower.source.find_pod("default/a")

        asyncio.run(run())

    @pytest.mark.parametrize("deleted", [False, True])
    def test_a_pod_that_is_found_while_a_list_is_read(self, tmp_path: Path, deleted: bool) -> None:
        """It outlives the list that is older; it does not if it is gone from the list."""

        async def run() -> None:
            server = ApiServer()
            for number in range(4):
                server.put(pod(f"p{number}", f"10.1.0.{number + 2}"))
            async with following(server, tmp_path, page_size=3) as follower:
                await follower.agrees()
                await watching(follower)
                server.faults.silence(resource="pods")
                server.end_watches("pods")
                await until(lambda: follower.requests("Pod", watches=True) == 2)
                if deleted:
                    server.put(pod("a", "10.1.0.9"))
                server.faults.slow(0.1, resource="pods", verb="list", times=2)
                server.expire_history("pods")
                server.end_watches("pods")
                lists = follower.requests("Pod", watches=False)
                await until(lambda: follower.requests("Pod", watches=False) > lists)
                if not deleted:
                    await until(lambda: "continue" in server.log[-1].query)
                    server.put(pod("a", "10.1.0.9"))
                assert await follower.source.find_pod("default/a")
                if deleted:
                    server.delete("pods", "a", "default")
                    server.expire_history("pods")
                # One is told of an old version and leads to the list, one follows it.
                await until(lambda: follower.requests("Pod", watches=True) == 4)
                await follower.agrees()
                assert any(change.new is None for change in follower.changes) == deleted
                server.put(pod("a", "10.1.0.10"))
                server.delete("pods", "a", "default")
                await follower.agrees()

        asyncio.run(run())


class TestContact:
    def test_a_server_that_is_away_is_one_problem(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(pod("a"))
            async with contextlib.AsyncExitStack() as stack:
                url = await stack.enter_async_context(server.serving())
                port = int(url.rpartition(":")[2])
                async with following(server, tmp_path, url=url) as follower:
                    await follower.agrees()
                    with capture_logs() as logs:
                        await stack.aclose()
                        await until(lambda: follower.problems)
                        await asyncio.sleep(0.5)
                        (problem,) = follower.problems
                        assert problem.message.startswith(f"{url} is away since 20")
                        assert "Connect" in problem.message
                        assert "default/a" in follower.state.pods
                        server.put(pod("b", "10.1.0.3"))
                        async with server.serving(port=port):
                            await follower.agrees()
                            await until(lambda: not follower.problems)
                            events = [each["event"] for each in logs]
                    assert events == ["API server away", "API server back"]
                    assert len(follower.reports) <= 4

        asyncio.run(run())

    def test_one_failure_is_not_worth_telling(self, tmp_path: Path) -> None:
        """Servers restart, and tokens are renewed."""

        async def run() -> None:
            server = ApiServer()
            server.put(pod("a"))
            server.faults.answer(503, resource="pods")
            async with following(server, tmp_path) as follower:
                with capture_logs() as logs:
                    await follower.agrees()
                assert not follower.reports
                assert not logs

        asyncio.run(run())

    def test_what_is_forbidden_is_told_of_its_kind(self, tmp_path: Path) -> None:
        async def run() -> None:
            server = ApiServer()
            server.put(pod("a"))
            server.faults.answer(403, resource="networkpolicies.networking.k8s.io", times=10_000)
            async with following(server, tmp_path) as follower:
                await until(lambda: follower.problems)
                (problem,) = follower.problems
                assert problem.kind == "NetworkPolicy"
                assert problem.message.startswith("networkpolicies cannot be watched: 403")
                assert "grant get, list and watch" in problem.message
                await until(lambda: "default/a" in follower.state.pods)
                assert not follower.source.has_synced
                server.faults.clear()
                await until(lambda: not follower.problems and follower.source.has_synced)

        asyncio.run(run())

    def test_nothing_is_left_behind(self, tmp_path: Path) -> None:
        """Cancelled at any moment, it closes its sessions and ends its tasks."""

        async def run(delay: float) -> None:
            server = ApiServer()
            server.faults.answer(500, times=3)
            server.faults.slow(0.02, verb="list", times=7)
            async with following(server, tmp_path):
                await asyncio.sleep(delay)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            assert not others

        for delay in (0.0, 0.01, 0.03, 0.1, 0.3):
            asyncio.run(run(delay))
        gc.collect()  # what was not closed says so now, and warnings are errors


def test_importing_the_source_is_cheap() -> None:
    code = (
        "import sys, cubelet.sources.api, cubelet.cli, cubelet.cni.plugin; "
        "print({'kubernetes', 'aiohttp'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
