"""A lab's objects on an API server, by the official client's configuration."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from cubelet.lab import api, heartbeat
from cubelet.lab import layout as layout_module
from cubelet.lab.apiserver import ApiServer
from cubelet.lab.apistore import LABEL, ApiObjects
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.lab.store import Store
from cubelet.lab.transport import KubeconfigTransport

from ..helpers.apiclient import node, pod


@pytest.fixture
def server() -> ApiServer:
    return ApiServer(tokens=["secret"])


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Iterator[Path]:
    with server.running() as url:
        path = tmp_path / "kubeconfig"
        path.write_text(yaml.safe_dump(document(url, "secret")))
        yield path


def document(url: str, token: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "x",
    }


@pytest.fixture
def objects(kubeconfig: Path) -> ApiObjects:
    return ApiObjects(KubeconfigTransport(kubeconfig))


@pytest.fixture
def guest(kubeconfig: Path) -> ApiObjects:
    return ApiObjects(KubeconfigTransport(kubeconfig), "lab")


def test_objects_come_and_go(objects: ApiObjects) -> None:
    key = Key("Pod", "default", "a")
    assert objects.get(key) is None
    assert objects.put(pod("a", color="red"))
    assert not objects.put(pod("a", color="red"))
    assert objects.put(pod("a", color="blue"))
    found = objects.get(key)
    assert found is not None
    assert found["metadata"]["labels"] == {"color": "blue"}
    assert objects.put(pod("a"))  # what is no longer said is no longer there
    assert objects.remove(key)
    assert not objects.remove(key)
    assert objects.get(key) is None


def test_a_status_is_stored_with_its_object(objects: ApiObjects) -> None:
    status = {"phase": "Running", "podIP": "10.0.0.1"}
    assert objects.put({**pod("a"), "status": status})
    found = objects.get(Key("Pod", "default", "a"))
    assert found is not None
    assert found["status"] == status
    assert not objects.put({**pod("a"), "status": status})
    assert objects.put({**pod("a"), "status": {**status, "phase": "Failed"}})
    assert not objects.put(pod("a"))  # says nothing of the status


def test_the_uid_is_the_servers_and_the_last_word_is_the_labs(objects: ApiObjects) -> None:
    given = pod("a")
    given["metadata"]["uid"] = "made up"
    objects.put(given)
    stored = objects.get(Key("Pod", "default", "a"))
    assert stored is not None
    assert stored["metadata"]["uid"] != "made up"
    objects.put(pod("a", color="red"))
    stored["metadata"]["labels"] = {"color": "green"}
    assert objects.put(stored)  # of an older version


def test_lists_are_of_a_kind_and_a_namespace(server: ApiServer, objects: ApiObjects) -> None:
    for name, namespace in (("b", "default"), ("a", "default"), ("c", "kube-system")):
        server.put(pod(name, namespace))
    assert [m["metadata"]["name"] for m in objects.list("Pod")] == ["a", "b", "c"]
    (found,) = objects.list("Pod", "kube-system")
    assert (found["kind"], found["apiVersion"]) == ("Pod", "v1")
    assert objects.list("NetworkPolicy") == []


def test_a_bound_pod_is_gone_at_once(objects: ApiObjects) -> None:
    objects.put(pod("a", on="n1"))
    assert objects.remove(Key("Pod", "default", "a"))
    assert objects.list("Pod") == []


@pytest.mark.parametrize("name", ["..", "", "a/status", "a?x=y"])
def test_a_name_leads_to_no_other_path(objects: ApiObjects, name: str) -> None:
    with pytest.raises(LabError, match="names are of"):
        objects.get(Key("Pod", "default", name))


def test_what_the_server_says_is_told(objects: ApiObjects) -> None:
    with pytest.raises(LabError, match='namespaces "none" not found'):
        objects.put(pod("a", "none"))


def test_a_guest_marks_what_it_makes(server: ApiServer, guest: ApiObjects) -> None:
    guest.put(node("n1", zone="a"))
    assert server.get("nodes", "n1")["metadata"]["labels"] == {"zone": "a", LABEL: "lab"}
    assert not guest.put(node("n1", zone="a"))
    assert guest.put(node("n1"))
    assert server.get("nodes", "n1")["metadata"]["labels"] == {LABEL: "lab"}


def test_a_guest_leaves_alone_what_is_not_its_own(server: ApiServer, guest: ApiObjects) -> None:
    server.put(node("theirs"))
    guest.put(node("ours"))
    assert [m["metadata"]["name"] for m in guest.list("Node")] == ["ours"]
    assert guest.get(Key("Node", "", "theirs")) is None
    assert not guest.remove(Key("Node", "", "theirs"))
    with pytest.raises(LabError, match="not this lab's"):
        guest.put(node("theirs", zone="a"))
    # A namespace of the cluster's can be used, though.
    assert not guest.put({"kind": "Namespace", "metadata": {"name": "default"}})
    assert server.get("nodes", "theirs")["metadata"]["labels"] == {}
    assert LABEL not in server.get("namespaces", "default")["metadata"]["labels"]


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setattr(layout_module, "RUN_ROOT", tmp_path)
    made = Layout("lab")
    made.root.mkdir()
    return made


def test_a_guest_takes_its_objects_along(
    server: ApiServer, kubeconfig: Path, layout: Layout
) -> None:
    server.put(node("theirs"))
    layout.api.write_text(f'{{"kubeconfig": "{kubeconfig}", "foreign": true}}')
    store = Store(layout)
    assert store.allocates
    store.put(node("ours"))
    heartbeat.beat(api.transport_of(layout), "ours")
    store.put({"kind": "Namespace", "metadata": {"name": "shop"}})
    store.put(pod("a", "shop", on="ours"))
    store.put(pod("b", "default", on="ours"))
    server.put(pod("c", "default", on="theirs"))
    api.withdraw(layout)
    assert server.names("nodes") == ["theirs"]
    assert server.names("pods") == ["c"]
    assert server.names("leases") == []
    assert "shop" not in server.names("namespaces")


def test_a_lease_is_made_once_and_renewed(server: ApiServer, kubeconfig: Path) -> None:
    uid = server.put(node("n1")).uid
    transport = KubeconfigTransport(kubeconfig)
    heartbeat.beat(transport, "n1")
    first = server.get("leases", "n1", "kube-node-lease")
    assert first["metadata"]["ownerReferences"][0]["uid"] == uid
    heartbeat.beat(transport, "n1")
    second = server.get("leases", "n1", "kube-node-lease")
    assert second["metadata"]["uid"] == first["metadata"]["uid"]
    assert second["spec"]["renewTime"] > first["spec"]["renewTime"]
    server.faults.answer(403, resource="leases")
    with pytest.raises(LabError, match="lease of n1"):
        heartbeat.beat(transport, "n1")


def test_what_a_guest_cannot_remove_is_told(
    server: ApiServer, kubeconfig: Path, layout: Layout
) -> None:
    layout.api.write_text(f'{{"kubeconfig": "{kubeconfig}", "foreign": true}}')
    server.tokens = {"another"}
    with pytest.raises(LabError, match=f"remove what has the label {LABEL}=lab"):
        api.withdraw(layout)


def test_a_lab_without_an_api_server_has_nothing_there(layout: Layout) -> None:
    api.withdraw(layout)
    assert not Store(layout).allocates


@pytest.mark.parametrize("text", ["", "{}", '{"foreign": 1}'])
def test_a_broken_record_is_told(layout: Layout, text: str) -> None:
    layout.api.write_text(text)
    with pytest.raises(LabError, match="`cubelet lab down` removes it"):
        Store(layout)


def test_a_kubeconfig_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(LabError, match="cannot be used"):
        KubeconfigTransport(tmp_path / "none")


@pytest.mark.parametrize("url", ["https://cluster.example:6443", "https://[::1]:6443"])
def test_a_server_that_no_lab_reaches_is_told(tmp_path: Path, url: str) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document(url, "x")))
    with pytest.raises(LabError, match="IPv4 addresses and localhost only"):
        api.endpoint(api.Record(str(path), True))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://127.0.0.1:6443", ("127.0.0.1", 6443)),
        ("https://localhost:1", ("127.0.0.1", 1)),
        ("https://192.0.2.1", ("192.0.2.1", 443)),
        ("http://192.0.2.1", ("192.0.2.1", 80)),
    ],
)
def test_where_a_server_listens(tmp_path: Path, url: str, expected: tuple[str, int]) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(yaml.safe_dump(document(url, "x")))
    address, port = api.endpoint(api.Record(str(path), True))
    assert (str(address), port) == expected


def test_what_a_lab_needs_for_a_server_is_told(
    layout: Layout, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = LabSpec("lab", plan_nodes(1, ()), {}, api=True)
    monkeypatch.setattr(api, "find_spec", lambda _: None)
    monkeypatch.delenv("KUBECONFIG", raising=False)
    with pytest.raises(LabError, match=r"pip install 'cubelet\[lab-api\]'"):
        api.start(layout, spec)
    monkeypatch.setenv("KUBECONFIG", "/a:/b")
    with pytest.raises(LabError, match="a lab takes one file"):
        api.start(layout, spec)
