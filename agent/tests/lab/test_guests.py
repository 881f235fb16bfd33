"""Objects of kinds that installed cubes watch, in a lab's folder and on its API server."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import yaml

from cubelet.lab import agents, api, cluster, guests
from cubelet.lab import layout as layout_module
from cubelet.lab.apiserver import ApiServer
from cubelet.lab.apistore import LABEL, ApiObjects
from cubelet.lab.documents import Document
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key, kind_named
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.lab.objects import Objects, Outcome
from cubelet.lab.store import Store
from cubelet.lab.transport import KubeconfigTransport

from .fences import FENCE, ZONE, definition, fence

SPEC = LabSpec("lab", plan_nodes(1, ()), {})
DEFINITION = Key("CustomResourceDefinition", "", "fences.example.com")
CORE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}}


@pytest.fixture(autouse=True)
def watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guests, "watched", lambda: (FENCE, ZONE))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    for module in (layout_module, cluster):
        monkeypatch.setattr(module, "RUN_ROOT", tmp_path)
    monkeypatch.setattr(agents, "sync", lambda layout, spec: {})
    layout = Layout("lab")
    layout.root.mkdir()
    Store(layout).put(cluster.node_manifest(SPEC.nodes[0]))
    return Objects(layout, SPEC)


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Iterator[Path]:
    with server.running() as url:
        path = tmp_path / "kubeconfig"
        document = {
            "clusters": [{"name": "c", "cluster": {"server": url}}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "users": [{"name": "u", "user": {}}],
            "current-context": "x",
        }
        path.write_text(yaml.safe_dump(document))
        yield path


@pytest.fixture
def on_server(folder: Objects, kubeconfig: Path, monkeypatch: pytest.MonkeyPatch) -> Objects:
    kept = ApiObjects(KubeconfigTransport(kubeconfig))
    monkeypatch.setattr(folder.store, "_keeper", kept)
    return folder


def told(outcomes: list[Outcome]) -> list[tuple[str, str, bool]]:
    return [(str(each.key), each.done, each.ok) for each in outcomes]


def test_a_folder_takes_the_kind_without_its_definition(folder: Objects, tmp_path: Path) -> None:
    made = folder.apply([fence("a", networks=["10.0.0.0/8"]), CORE, definition(FENCE)])
    assert told(made) == [
        ("namespace/default", "created", True),
        ("customresourcedefinition/fences.example.com", "not needed", True),
        ("fence/a", "created", True),
        ("namespace/shop", "created", True),
    ]
    # Agents would complain about a definition among their manifests.
    stored = {path.name for path in (tmp_path / "lab/manifests").iterdir()}
    assert "fence.default.a.yaml" in stored
    assert not any("definition" in name for name in stored)
    assert told(folder.apply([fence("a")]))[0] == ("fence/a", "configured", True)
    assert told(folder.delete([DEFINITION, Key("Fence", "default", "a")])) == [
        ("customresourcedefinition/fences.example.com", "not needed", True),
        ("fence/a", "deleted", True),
    ]


def test_a_kind_without_namespaces_has_none(folder: Objects) -> None:
    zone = {"apiVersion": ZONE.api_version, "kind": "Zone", "metadata": {"name": "eu"}}
    assert told(folder.apply([zone])) == [("zone/eu", "created", True)]
    assert folder.store.get(Key("Zone", "", "eu")) == zone
    assert {kind_named(text).name for text in ("zones", "Zone", "zones.example.com")} == {"Zone"}


def test_objects_of_the_kind_go_with_their_namespace(folder: Objects) -> None:
    inside = fence("a")
    inside["metadata"]["namespace"] = "shop"
    folder.apply([CORE, inside])
    gone = folder.delete([Key("Namespace", "", "shop")])
    assert [str(each.key) for each in gone] == ["fence/a", "namespace/shop"]
    assert folder.store.list("Fence") == []


def test_what_no_cube_watches_fails_and_says_what_to_do(folder: Objects) -> None:
    gadget = {"kind": "Gadget", "metadata": {"name": "g"}}
    unwatched = definition(FENCE, kind="Gadget", plural="gadgets")
    unwatched["metadata"]["name"] = "gadgets.example.com"
    (_, *ignored) = folder.apply([gadget, unwatched])
    assert [(each.done, each.ok) for each in ignored] == [("ignored", False)] * 2
    for each in ignored:
        assert each.detail.startswith(
            "a lab has no Gadget, and no installed cube watches it; pip install the one that does"
        )
    assert [each.ok for each in folder.delete([Key("Gadget", "default", "g")])] == [False]


def test_what_is_installed_writes_nothing_into_a_commands_output(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guests, "discover", lambda: print("imported"))
    guests._installed.__wrapped__()
    assert capsys.readouterr() == ("", "imported\n")


def test_what_is_quarantined_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Broken:
        @staticmethod
        def quarantined() -> dict[str, str]:
            return {"fence": "ImportError: no module"}

    monkeypatch.setattr(guests, "_installed", Broken)
    assert guests.unwatched("Fence").endswith("or mend what is quarantined: fence")


@pytest.mark.parametrize(
    ("changed", "field"),
    [
        ({"scope": "Cluster"}, "spec.scope: must be Namespaced"),
        ({"names": {"kind": "Fences", "plural": "fences"}}, "spec.names.kind: must be Fence"),
        ({"versions": [{"name": "v1", "served": True}]}, "spec.versions: must serve v1beta1"),
        ({"group": ""}, "spec.group"),
    ],
)
def test_a_definition_that_differs_from_what_the_cube_watches_is_refused(
    folder: Objects, changed: dict[str, object], field: str
) -> None:
    wrong = definition(FENCE)
    wrong["spec"] |= changed
    (refused,) = folder.apply([Document(wrong, "crd.yaml")])
    assert refused.done == "failed"
    assert field in refused.detail


def test_a_wrong_api_version_of_the_kind_is_refused(folder: Objects) -> None:
    (refused, _) = folder.apply([CORE, {**fence("a"), "apiVersion": "example.com/v1"}])
    assert "apiVersion: must be example.com/v1beta1" in refused.detail


def test_a_server_takes_the_kind_with_its_definition(on_server: Objects, server: ApiServer) -> None:
    made = on_server.apply([fence("a", networks=["10.0.0.0/8"]), definition(FENCE)])
    assert told(made) == [
        ("customresourcedefinition/fences.example.com", "created", True),
        ("fence/a", "created", True),
    ]
    stored = server.get("fences", "a", "default")
    assert stored["spec"] == {"networks": ["10.0.0.0/8"]}
    assert stored["apiVersion"] == "example.com/v1beta1"
    conditions = server.get("customresourcedefinitions", DEFINITION.name)["status"]["conditions"]
    assert {"type": "Established", "status": "True"} in conditions
    again = on_server.apply([fence("a", networks=["10.0.0.0/8"]), definition(FENCE)])
    assert [each.done for each in again] == ["unchanged", "unchanged"]
    assert told(on_server.delete([DEFINITION])) == [
        ("customresourcedefinition/fences.example.com", "deleted", True)
    ]
    assert on_server.store.list("Fence") == []


def test_a_server_without_the_definition_says_what_is_missing(on_server: Objects) -> None:
    (refused,) = on_server.apply([fence("a")])
    assert refused.done == "failed"
    assert "apply the CustomResourceDefinition of Fence first" in refused.detail
    assert on_server.store.list("Fence") == []


def test_a_new_definition_is_waited_for(on_server: Objects, server: ApiServer) -> None:
    path = server.mock["/apis/example.com/v1beta1/fences"]
    path[:2] << 404 << {"message": "the server could not find the requested resource"}
    assert all(each.ok for each in on_server.apply([definition(FENCE), fence("a")]))
    asked = [each for each in server.log if each.query == "limit=1"]
    assert len(asked) == 3, "until it is served"


def test_a_guest_on_a_foreign_server_leaves_a_definition_of_others_alone(
    server: ApiServer, kubeconfig: Path
) -> None:
    server.put(definition(FENCE))
    guest = ApiObjects(KubeconfigTransport(kubeconfig), "lab")
    assert not guest.put(definition(FENCE))
    assert guest.put({**fence("a"), "metadata": {"name": "a", "namespace": "default"}})
    assert server.get("fences", "a", "default")["metadata"]["labels"] == {LABEL: "lab"}
    assert not guest.remove(DEFINITION)
    assert server.names("fences") == ["a"]


def test_a_guest_takes_its_objects_and_its_definition_along(
    server: ApiServer, kubeconfig: Path, folder: Objects
) -> None:
    server.put(definition(ZONE))
    theirs = {"apiVersion": ZONE.api_version, "kind": "Zone", "metadata": {"name": "theirs"}}
    server.put(theirs)
    layout = Layout("lab")
    layout.api.write_text(f'{{"kubeconfig": "{kubeconfig}", "foreign": true}}')
    store = Store(layout)
    for each in (definition(FENCE), fence("a"), {**theirs, "metadata": {"name": "ours"}}):
        assert store.put(each)
    api.withdraw(layout)
    assert server.names("customresourcedefinitions") == [ZONE.definition]
    assert server.names("zones") == ["theirs"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"versions": []}, "spec.versions: the lab's API server serves one version"),
        ({"group": "other.com"}, "metadata.name: must be fences.other.com"),
        ({"scope": "Node"}, "spec.scope: must be one of Namespaced, Cluster"),
    ],
)
def test_the_labs_server_refuses_an_unusable_definition(
    kubeconfig: Path, change: dict[str, object], problem: str
) -> None:
    wrong = definition(FENCE)
    wrong["spec"] |= change
    with pytest.raises(LabError, match=problem):
        ApiObjects(KubeconfigTransport(kubeconfig)).put(wrong)


def test_a_kind_in_use_is_not_changed_in_place(kubeconfig: Path) -> None:
    objects = ApiObjects(KubeconfigTransport(kubeconfig))
    objects.put(definition(FENCE))
    changed = definition(FENCE)
    changed["spec"]["versions"][0]["name"] = "v1"
    with pytest.raises(LabError, match="delete it first"):
        objects.put(changed)


def test_a_server_that_starts_again_knows_the_kind_and_its_objects(server: ApiServer) -> None:
    server.put(definition(FENCE))
    server.put(fence("a"))
    later = ApiServer()
    later.store.restore(msgspec.json.decode(msgspec.json.encode(server.store.dump())))
    assert later.names("fences") == ["a"]
