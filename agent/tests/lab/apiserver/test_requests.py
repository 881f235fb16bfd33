"""The lab's API server: reading and changing objects."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from cubelet.lab.apiserver import ApiServer
from cubelet.lab.apiserver.resources import Resources

from ...helpers.apiclient import Client, node, pod

PODS = "/api/v1/namespaces/default/pods"


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def client(server: ApiServer) -> Iterator[Client]:
    with server.running() as url:
        yield Client(url)


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/api/v1/nodes", ("nodes", "", "", "")),
        ("/api/v1/nodes/n1/status", ("nodes", "", "n1", "status")),
        ("/api/v1/pods", ("pods", "", "", "")),
        ("/api/v1/namespaces", ("namespaces", "", "", "")),
        ("/api/v1/namespaces/a", ("namespaces", "", "a", "")),
        ("/api/v1/namespaces/a/status", ("namespaces", "", "a", "status")),
        ("/api/v1/namespaces/a/pods", ("pods", "a", "", "")),
        ("/api/v1/namespaces/pods/pods/pods", ("pods", "pods", "pods", "")),
        ("/apis/events.k8s.io/v1/namespaces/a/events/e", ("events.events.k8s.io", "a", "e", "")),
        (
            "/apis/discovery.k8s.io/v1/endpointslices",
            ("endpointslices.discovery.k8s.io", "", "", ""),
        ),
    ],
)
def test_paths_name_objects(path: str, found: tuple[str, ...]) -> None:
    at = Resources().place(path)
    assert at is not None
    assert (at.resource.key, *at[1:]) == found


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/api",
        "/api/v1",
        "/apis/apps/v1/deployments",
        "/api/v1/secrets",
        "/api/v1/pods/web",
        "/api/v1/namespaces/a/nodes",
        "/api/v1/nodes/n1/proxy",
        "/api/v1/namespaces/a/configmaps/c/status",
        "/api/v1/nodes/n1/status/x",
    ],
)
def test_other_paths_name_none(path: str) -> None:
    assert Resources().place(path) is None


def test_a_created_object_gets_what_the_server_gives(client: Client) -> None:
    made = client.call("POST", PODS, {**pod("web"), "status": {"phase": "Running"}})
    assert made.status == 201
    metadata = made.body["metadata"]
    assert metadata["uid"]
    assert metadata["creationTimestamp"].endswith("Z")
    assert metadata["generation"] == 1
    assert made.body["status"] == {"phase": "Pending"}  # a status is not for creators to set
    assert client.get(f"{PODS}/web").body == made.body
    assert client.get("/api/v1/pods").body["items"] == [made.body]


def test_every_change_raises_the_one_version(client: Client) -> None:
    versions = [
        int(client.call("POST", "/api/v1/nodes", node("n1")).version),
        int(client.call("POST", PODS, pod("a")).version),
        int(client.patch(f"{PODS}/a", "merge", {"metadata": {"labels": {"x": "y"}}}).version),
        int(client.call("DELETE", f"{PODS}/a").version),
        int(client.get("/api/v1/services").version),
    ]
    assert versions[:4] == list(range(versions[0], versions[0] + 4))
    assert versions[4] == versions[3]


def test_what_changes_nothing_keeps_the_version(client: Client) -> None:
    made = client.call("POST", PODS, pod("a", color="red"))
    same = client.patch(f"{PODS}/a", "merge", {"metadata": {"labels": {"color": "red"}}})
    assert same.body == made.body


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason"),
    [
        ("GET", f"{PODS}/none", None, 404, "NotFound"),
        ("GET", "/api/v1/secrets", None, 404, "NotFound"),
        ("GET", "/nothing/here", None, 404, "NotFound"),
        ("POST", PODS, pod("there"), 409, "AlreadyExists"),
        ("POST", "/api/v1/namespaces/none/pods", pod("a", "none"), 404, "NotFound"),
        ("POST", PODS, pod("a", "kube-system"), 400, "BadRequest"),
        ("POST", PODS, node("a"), 400, "BadRequest"),
        ("POST", PODS, {"metadata": {}}, 422, "Invalid"),
        ("POST", PODS, b"{", 400, "BadRequest"),
        ("POST", PODS, b"[]", 400, "BadRequest"),
        ("POST", "/api/v1/pods", pod("a"), 405, "MethodNotAllowed"),
        ("POST", f"{PODS}/a", pod("a"), 405, "MethodNotAllowed"),
        ("PUT", PODS, pod("a"), 405, "MethodNotAllowed"),
        ("PUT", f"{PODS}/other", pod("there"), 400, "BadRequest"),
        ("PUT", f"{PODS}/none", pod("none"), 404, "NotFound"),
        ("DELETE", f"{PODS}/none", None, 404, "NotFound"),
    ],
)
def test_failures_are_statuses(
    client: Client, method: str, path: str, body: Any, status: int, reason: str
) -> None:
    client.call("POST", PODS, pod("there"))
    answer = client.call(method, path, body)
    assert (answer.status, answer.body["reason"]) == (status, reason)
    assert answer.body["kind"] == "Status"
    assert answer.body["code"] == status


def test_put_replaces_and_checks_the_version(client: Client) -> None:
    old = client.call("POST", PODS, pod("a", color="red")).body
    new = {**old, "metadata": {**old["metadata"], "labels": {"color": "blue"}}}
    changed = client.call("PUT", f"{PODS}/a", new)
    assert changed.body["metadata"]["labels"] == {"color": "blue"}
    assert changed.body["metadata"]["uid"] == old["metadata"]["uid"]
    late = client.call("PUT", f"{PODS}/a", new)
    assert (late.status, late.body["reason"]) == (409, "Conflict")
    # Without a version the last one wins.
    assert client.call("PUT", f"{PODS}/a", pod("a")).status == 200


def test_a_status_is_changed_by_its_own_path_only(client: Client) -> None:
    client.call("POST", PODS, pod("a"))
    client.patch(f"{PODS}/a", "merge", {"status": {"phase": "Running"}})
    assert client.get(f"{PODS}/a").body["status"] == {"phase": "Pending"}
    patch = {"status": {"phase": "Running"}, "spec": {"nodeName": "n1"}}
    changed = client.patch(f"{PODS}/a/status", "merge", patch).body
    assert changed["status"] == {"phase": "Running"}
    assert "nodeName" not in changed["spec"]
    replaced = client.call("PUT", f"{PODS}/a/status", {**pod("a"), "status": {"phase": "Failed"}})
    assert replaced.body["status"] == {"phase": "Failed"}
    assert replaced.body["metadata"]["generation"] == 1


def test_generation_follows_the_specification(client: Client) -> None:
    client.call("POST", PODS, pod("a"))
    labelled = client.patch(f"{PODS}/a", "merge", {"metadata": {"labels": {"x": "y"}}})
    assert labelled.body["metadata"]["generation"] == 1
    bound = client.patch(f"{PODS}/a", "merge", {"spec": {"nodeName": "n1"}})
    assert bound.body["metadata"]["generation"] == 2


def test_a_patch_conflicts_only_if_it_names_a_version(client: Client) -> None:
    client.call("POST", PODS, pod("a"))
    stale = {"metadata": {"resourceVersion": "1", "labels": {"x": "y"}}}
    assert client.patch(f"{PODS}/a", "merge", stale).status == 409
    assert client.patch(f"{PODS}/a", "merge", {"metadata": {"labels": {"x": "y"}}}).status == 200


def test_strategic_patches_merge_conditions_and_replace_taints(client: Client) -> None:
    begun = node("n1")
    begun["spec"]["taints"] = [{"key": "a", "effect": "NoSchedule"}]
    begun["status"] = {"conditions": [{"type": "Ready", "status": "True"}]}
    client.call("POST", "/api/v1/nodes", begun)
    condition = {"type": "NetworkUnavailable", "status": "False"}
    patch = {"status": {"conditions": [condition]}}
    changed = client.patch("/api/v1/nodes/n1/status", "strategic", patch).body
    assert changed["status"]["conditions"] == [{"type": "Ready", "status": "True"}, condition]
    patch = {"spec": {"taints": [{"key": "b", "effect": "NoSchedule"}]}}
    changed = client.patch("/api/v1/nodes/n1", "strategic", patch).body
    assert [taint["key"] for taint in changed["spec"]["taints"]] == ["b"]
    patch = {"status": {"conditions": [{"type": "Ready", "$patch": "delete"}]}}
    changed = client.patch("/api/v1/nodes/n1/status", "strategic", patch).body
    assert changed["status"]["conditions"] == [condition]


def test_json_patches_and_unknown_ones(client: Client) -> None:
    client.call("POST", PODS, pod("a", color="red"))
    good = [{"op": "replace", "path": "/metadata/labels/color", "value": "blue"}]
    changed = client.patch(f"{PODS}/a", "json", good)
    assert changed.body["metadata"]["labels"] == {"color": "blue"}
    bad = [{"op": "test", "path": "/metadata/labels/color", "value": "red"}]
    assert client.patch(f"{PODS}/a", "json", bad).status == 422
    assert client.call("PATCH", f"{PODS}/a", {}, "application/apply-patch+yaml").status == 415
    assert client.patch(f"{PODS}/a", "json", {}).status == 400


def test_deleted_objects_are_gone_and_finalizers_hold_them(client: Client) -> None:
    maps = "/api/v1/namespaces/default/configmaps"
    client.call("POST", maps, {"metadata": {"name": "a"}})
    assert client.call("DELETE", f"{maps}/a").body["status"] == "Success"
    assert client.get(f"{maps}/a").status == 404
    client.call("POST", maps, {"metadata": {"name": "b", "finalizers": ["x/y"]}})
    held = client.call("DELETE", f"{maps}/b").body
    assert held["metadata"]["deletionTimestamp"]
    assert client.get(f"{maps}/b").body == held
    client.patch(f"{maps}/b", "merge", {"metadata": {"finalizers": None}})
    assert client.get(f"{maps}/b").status == 404


def test_a_bound_pod_goes_when_its_kubelet_says_so(client: Client) -> None:
    client.call("POST", PODS, pod("a", on="n1"))
    ending = client.call("DELETE", f"{PODS}/a").body
    assert ending["metadata"]["deletionGracePeriodSeconds"] == 30
    assert client.get(f"{PODS}/a").status == 200
    last = client.call("DELETE", f"{PODS}/a", {"gracePeriodSeconds": 0})
    assert last.body["metadata"]["uid"] == ending["metadata"]["uid"]
    assert client.get(f"{PODS}/a").status == 404


def test_a_deletion_can_be_of_one_uid_only(client: Client) -> None:
    client.call("POST", PODS, pod("a"))
    wrong = {"preconditions": {"uid": "another"}}
    assert client.call("DELETE", f"{PODS}/a", wrong).status == 409
    assert client.get(f"{PODS}/a").status == 200


def test_a_namespace_takes_its_objects_along(client: Client) -> None:
    client.call("POST", "/api/v1/namespaces", {"metadata": {"name": "shop"}})
    client.call("POST", "/api/v1/namespaces/shop/pods", pod("a", "shop", on="n1"))
    client.call("POST", PODS, pod("b"))
    client.call("DELETE", "/api/v1/namespaces/shop")
    assert client.get("/api/v1/pods").names == ["b"]


def test_many_objects_are_deleted_by_selector(client: Client) -> None:
    for name, color in (("a", "red"), ("b", "blue"), ("c", "red")):
        client.call("POST", PODS, pod(name, color=color))
    client.call("DELETE", f"{PODS}?labelSelector=color%3Dred")
    assert client.get("/api/v1/pods").names == ["b"]


def test_discovery_names_the_kinds(client: Client) -> None:
    core = client.get("/api/v1").body
    assert core["groupVersion"] == "v1"
    found = {each["name"]: each for each in core["resources"]}
    assert found["pods"]["namespaced"]
    assert not found["nodes"]["namespaced"]
    assert "pods/status" in found
    groups = {each["name"] for each in client.get("/apis").body["groups"]}
    assert {"discovery.k8s.io", "events.k8s.io", "networking.k8s.io"} <= groups
    assert client.get("/version").body["minor"] == "36"


def test_only_accepted_tokens_are_served(server: ApiServer) -> None:
    server.tokens = {"old"}
    with server.running() as url:
        assert Client(url).get("/api/v1/nodes").status == 401
        assert Client(url, "old").get("/api/v1/nodes").status == 200
        server.tokens = {"new"}
        assert Client(url, "old").get("/api/v1/nodes").status == 401
        assert Client(url, "new").get("/api/v1/nodes").status == 200


def test_requests_are_logged(server: ApiServer, client: Client) -> None:
    client.get("/api/v1/pods", limit="1")
    access = server.log[-1]
    assert access[:3] == ("GET", "/api/v1/pods", "limit=1")


def test_a_reaction_of_a_test_comes_first(server: ApiServer, client: Client) -> None:
    server.mock["get /api/v1/nodes"] << 418 << {"from": "a test"}
    assert client.get("/api/v1/nodes").status == 418
    assert client.get("/api/v1/pods").status == 200


def test_the_official_client_reads_and_writes(server: ApiServer) -> None:
    from kubernetes import client as k8s

    with server.running() as url, k8s.ApiClient(k8s.Configuration(host=url)) as api:
        core = k8s.CoreV1Api(api)
        body = k8s.V1ConfigMap(metadata=k8s.V1ObjectMeta(name="m"), data={"a": "b"})
        core.create_namespaced_config_map("default", body)
        core.patch_namespaced_config_map("m", "default", {"data": {"c": "d"}})
        assert core.read_namespaced_config_map("m", "default").data == {"a": "b", "c": "d"}
        core.create_namespaced_pod("default", pod("a"))
        assert core.delete_namespaced_pod("a", "default").metadata.name == "a"
        assert core.list_pod_for_all_namespaces().items == []
        core.delete_namespaced_config_map("m", "default")
        assert core.list_config_map_for_all_namespaces().items == []
        with pytest.raises(k8s.ApiException) as caught:
            core.read_node("n1")
        assert caught.value.status == 404


def test_a_process_keeps_its_objects_between_runs(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    for expected in ([], ["n1"]):
        argv = [sys.executable, "-m", "cubelet.lab.apiserver", "--listen", "127.0.0.1:0"]
        with subprocess.Popen([*argv, "--state", state], stdout=subprocess.PIPE, text=True) as one:
            try:
                assert one.stdout is not None
                client = Client(one.stdout.readline().strip())
                assert client.get("/api/v1/nodes").names == expected
                client.call("POST", "/api/v1/nodes", node("n1"))
                version = client.get("/api/v1/nodes").version
            finally:
                one.terminate()
        assert one.returncode == 0
    assert int(version) > 1


def test_without_kmock_the_extra_is_named() -> None:
    code = "import sys; sys.modules['kmock'] = None\nimport cubelet.lab.apiserver"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "pip install 'cubelet[lab-api]'" in done.stderr
