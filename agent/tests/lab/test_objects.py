"""`lab apply` and `delete` without a kernel: agents and pods are stand-ins that do nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import yaml
from typer.testing import CliRunner, Result

from cubelet.lab import admission, agents, cluster
from cubelet.lab import layout as layout_module
from cubelet.lab.cli import app
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key, Manifest
from cubelet.lab.kubelet import Kubelet
from cubelet.lab.layout import LabSpec, Layout, plan_nodes
from cubelet.lab.store import Store

SPEC = LabSpec("lab", plan_nodes(2, ()), {})


class Lab:
    """A lab's folder, and the command line on it."""

    def __init__(self, root: Path) -> None:
        self.layout = Layout("lab")
        self.store = Store(self.layout)
        self.files = root / "files"
        self.files.mkdir()
        self.layout.root.mkdir(parents=True)
        self.layout.spec.write_bytes(msgspec.json.encode(SPEC))
        for node in SPEC.nodes:
            self.store.put(cluster.node_manifest(node))
        self.store.put(admission.namespace("default"))
        self.problems: dict[str, list[str]] = {}

    def run(self, *words: str, text: str | None = None) -> Result:
        result = CliRunner().invoke(app, [*words], input=text)
        assert result.exception is None or isinstance(result.exception, SystemExit), (
            result.exception
        )
        return result

    def apply(self, *manifests: Manifest | str) -> Result:
        """Apply one file."""
        texts = [m if isinstance(m, str) else yaml.safe_dump(m) for m in manifests]
        (self.files / "f.yaml").write_text("---\n".join(texts))
        return self.run("apply", "-f", str(self.files / "f.yaml"))

    def stored(self) -> set[str]:
        """The files of objects, without those of every lab."""
        names = {path.name for path in self.layout.manifests.iterdir()}
        return names - {"node.node1.yaml", "node.node2.yaml", "namespace.default.yaml"}


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lab:
    for module in (layout_module, cluster):
        monkeypatch.setattr(module, "RUN_ROOT", tmp_path / "run")
    made = Lab(tmp_path)
    monkeypatch.setattr(agents, "sync", lambda layout, spec: made.problems)
    monkeypatch.setattr(Kubelet, "start", lambda self, pod: None)
    monkeypatch.setattr(
        Kubelet,
        "stop",
        lambda self, pod: made.store.remove(Key("Pod", "default", pod["metadata"]["name"])),
    )
    return made


def thing(kind: str, name: str = "bad", **spec: Any) -> Manifest:
    return {"kind": kind, "metadata": {"name": name}, "spec": spec}


def ports(**port: Any) -> list[Any]:
    return [{"name": "c", "ports": [port]}]


def block(cidr: str) -> list[Any]:
    return [{"from": [{"ipBlock": {"cidr": cidr}}]}]


TEMPLATE = {"spec": {"containers": ports(containerPort=99999)}}
NODE_PORT = [{"port": 80, "nodePort": 5}]

INVALID = {
    "policy type": (thing("NetworkPolicy", policyTypes=["Ingres"]), "spec.policyTypes[0]"),
    "range": (
        thing("NetworkPolicy", ingress=block("10.0.0.0/40")),
        "spec.ingress[0].from[0].ipBlock.cidr",
    ),
    "node port": (thing("Service", type="NodePort", ports=NODE_PORT), "spec.ports[0].nodePort"),
    "Service without ports": (thing("Service"), "spec.ports"),
    "no list": (thing("Service", ports="80"), "spec.ports"),
    "container port": (
        thing("Pod", containers=ports(containerPort=99999)),
        "spec.containers[0].ports[0].containerPort",
    ),
    "node selector": (thing("Pod", nodeSelector="ssd"), "spec.nodeSelector"),
    "replicas": (thing("Deployment", replicas=-1), "spec.replicas"),
    "template": (thing("Deployment", template=7), "spec.template"),
    "template's pod": (
        thing("Deployment", replicas=2, template=TEMPLATE),
        "spec.containers[0].ports[0].containerPort",
    ),
    "name": (thing("Pod", "../../x"), "metadata.name"),
    "name of what is ignored": (thing("ConfigMap", "../../x"), "metadata.name"),
    "long name": (thing("NetworkPolicy", "x" * 253), "metadata.name"),
    "namespace": (
        {"kind": "Pod", "metadata": {"name": "bad", "namespace": "../x"}},
        "metadata.namespace",
    ),
    "namespace with a dot": (
        {"kind": "Pod", "metadata": {"name": "bad", "namespace": "a.b"}},
        "metadata.namespace",
    ),
    "Namespace with a dot": ({"kind": "Namespace", "metadata": {"name": "a.b"}}, "metadata.name"),
    "API version": ({**thing("Pod"), "apiVersion": "v2"}, "apiVersion"),
    "owners": (
        {"kind": "Pod", "metadata": {"name": "bad", "ownerReferences": ["x"]}},
        "metadata.ownerReferences[0]",
    ),
}


@pytest.mark.parametrize("case", INVALID)
def test_an_invalid_object_is_refused_and_the_others_applied(lab: Lab, case: str) -> None:
    manifest, field = INVALID[case]
    good = thing("Pod", "good")
    result = lab.apply(manifest, good)
    assert result.exit_code == 1
    assert result.stdout == "pod/good created\n"
    key = f"{manifest['kind'].lower()}/{manifest['metadata']['name']} failed: "
    assert result.stderr.startswith(f"{key}{lab.files}/f.yaml:")
    assert f": {field}: " in result.stderr
    assert lab.stored() == {"pod.default.good.yaml"}


def test_an_error_names_file_line_kind_key_and_field(lab: Lab) -> None:
    text = "kind: NetworkPolicy\nmetadata: {name: p}\nspec:\n  policyTypes:\n  - Ingres\n"
    result = lab.apply(thing("Pod", "good"), text)
    line = f"{lab.files}/f.yaml:10: NetworkPolicy default/p: spec.policyTypes[0]: must be one of"
    assert result.stderr.startswith(f"networkpolicy/p failed: {line}")


def test_a_valid_object_keeps_what_it_was_when_a_change_is_refused(lab: Lab) -> None:
    service = thing("Service", "s", type="NodePort", ports=[{"port": 80}])
    assert lab.apply(service).exit_code == 0
    before = lab.store.get(Key("Service", "default", "s"))
    assert lab.apply(thing("Service", "s", type="NodePort", ports=NODE_PORT)).exit_code == 1
    assert lab.store.get(Key("Service", "default", "s")) == before


def test_a_pod_keeps_running_when_a_change_is_refused(lab: Lab) -> None:
    lab.apply(thing("Pod", "p"))
    result = lab.apply(thing("Pod", "p", containers=ports(containerPort=0)))
    assert "from 1 to 65535" in result.stderr
    assert lab.stored() == {"pod.default.p.yaml"}


def test_what_is_filled_in_has_to_fit_too(lab: Lab) -> None:
    result = lab.apply(thing("Service", "s", clusterIPs=["10.96.9.9"], ports=[{"port": 80}]))
    assert "spec.clusterIP: must be the first of clusterIPs" in result.stderr
    assert lab.stored() == set()


def test_a_spec_may_be_missing(lab: Lab) -> None:
    kinds = ("Pod", "NetworkPolicy")
    manifests: list[Manifest] = [{"kind": kind, "metadata": {"name": "x"}} for kind in kinds]
    assert lab.apply(*manifests).exit_code == 0
    assert lab.run("get", "networkpolicies").exit_code == 0


def test_a_deployments_mistake_is_told_once_with_its_line(lab: Lab) -> None:
    result = lab.apply(
        "kind: Deployment\nmetadata: {name: web}\nspec:\n  replicas: 3\n  template:\n    spec:\n"
        "      containers:\n      - ports:\n        - containerPort: 0\n"
    )
    assert len(result.stderr.splitlines()) == 1
    assert "f.yaml:9: Pod default/web-2: spec.containers[0].ports[0]" in result.stderr


def test_what_agents_cannot_use_fails_the_command(lab: Lab) -> None:
    lab.problems = {"node2": ["map lbrp_services is full"]}
    result = lab.apply(thing("Pod", "p"))
    assert (result.exit_code, result.stdout) == (1, "pod/p created\n")
    assert result.stderr == "node/node2 problem: map lbrp_services is full\n"
    assert lab.run("delete", "pod", "p").exit_code == 1


def test_bad_files_do_not_stop_the_others(lab: Lab) -> None:
    (lab.files / "a.yaml").write_text("a: b\nc: d: e\n")
    (lab.files / "b.yaml").write_text("")
    (lab.files / "c.yaml").write_text(yaml.safe_dump(thing("Pod", "good")))
    result = lab.run("apply", "-f", str(lab.files))
    assert (result.exit_code, result.stdout) == (1, "pod/good created\n")
    first, second = result.stderr.splitlines()
    assert first.startswith(f"file/{lab.files}/a.yaml failed: {lab.files}/a.yaml:2: not valid YAML")
    assert second.endswith("b.yaml: holds no objects")
    deleted = lab.run("delete", "-f", str(lab.files))
    assert (deleted.exit_code, deleted.stdout) == (1, "pod/good deleted\n")


def test_standard_input_may_be_empty_and_is_no_success(lab: Lab) -> None:
    (lab.files / "empty.yaml").touch()
    result = lab.run("apply", "-f", str(lab.files / "empty.yaml"))
    assert (result.exit_code, result.stdout) == (1, "")
    assert "holds no objects" in result.stderr


def test_a_name_on_the_command_line_leads_nowhere_else(lab: Lab) -> None:
    (lab.layout.root / "x.yaml").write_text("kept")
    for words in (
        ("delete", "pod", "../../x"),
        ("delete", "service", "x", "-n", "../.."),
        ("exec", "../../x", "--", "true"),
    ):
        result = lab.run(*words)
        assert result.exit_code == 1
        assert "names are of" in result.stderr
    assert (lab.layout.root / "x.yaml").read_text() == "kept"


def test_what_the_lab_does_not_keep_fails_the_command_both_ways(lab: Lab) -> None:
    applied = lab.apply(thing("Ingress", "c"), thing("Pod", "p"))
    deleted = lab.run("delete", "-f", str(lab.files / "f.yaml"))
    for result, done in ((applied, "created"), (deleted, "deleted")):
        assert (result.exit_code, result.stdout) == (1, f"pod/p {done}\n")
        assert result.stderr.startswith("ingress/c ignored: a lab has no Ingress, and no installed")


def test_outcomes_are_rows_in_json(lab: Lab) -> None:
    (lab.files / "a.yaml").write_text("a: [")
    (lab.files / "b.yaml").write_text(yaml.safe_dump_all([thing("Pod", "p"), thing("Service")]))
    result = lab.run("apply", "-f", str(lab.files), "-o", "json")
    assert (result.exit_code, result.stderr) == (1, "")
    rows = json.loads(result.stdout)
    assert [(row["kind"], row["name"], row["outcome"]) for row in rows] == [
        ("File", f"{lab.files}/a.yaml", "failed"),
        ("Service", "bad", "failed"),
        ("Pod", "p", "created"),
    ]
    assert "spec.ports" in rows[1]["detail"]
    gone = lab.run("delete", "pod", "p", "q", "-o", "json")
    assert gone.exit_code == 1
    assert json.loads(gone.stdout) == [
        {"kind": "Pod", "namespace": "default", "name": name, "outcome": done, "detail": ""}
        for name, done in (("p", "deleted"), ("q", "not found"))
    ]


def test_a_lab_comes_and_goes_in_json(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    def up(layout: Layout, spec: LabSpec, tell: Any) -> None:
        tell("node1: agent ready")

    monkeypatch.setattr(cluster, "up", up)
    result = lab.run("up", "--nodes", "1", "-o", "json")
    assert (result.exit_code, result.stderr) == (0, "node1: agent ready\n")
    assert [(row["kind"], row["name"], row["outcome"]) for row in json.loads(result.stdout)] == [
        ("Lab", "lab", "created"),
        ("Node", "node1", "created"),
    ]
    for there, outcome in ((True, "deleted"), (False, "absent")):
        monkeypatch.setattr(cluster, "down", lambda layout, there=there: there)
        result = lab.run("down", "-o", "json")
        assert result.exit_code == 0
        assert [row["outcome"] for row in json.loads(result.stdout)] == [outcome]


@pytest.mark.parametrize(
    "error", [LabError("no"), OSError(28, "No space left on device"), yaml.YAMLError("no")]
)
def test_whatever_goes_wrong_is_told_without_a_traceback(
    lab: Lab, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def fail(*_: object) -> None:
        raise error

    for name in ("up", "down"):
        monkeypatch.setattr(cluster, name, fail)
    monkeypatch.setattr(agents, "sync", fail)
    commands = (("up",), ("down",), ("delete", "pod", "p"), ("apply", "-f", str(lab.files)))
    (lab.files / "a.yaml").write_text(yaml.safe_dump(thing("NetworkPolicy", "p")))
    for words in commands:
        plain = lab.run(*words)
        assert (plain.exit_code, plain.stdout) == (1, "")
        assert plain.stderr.startswith("error: ")
        document = json.loads(lab.run(*words, "-o", "json").stdout)
        assert document["error"]["message"] == str(error)


def test_a_full_disk_fails_one_object(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    put = Store.put

    def full(store: Store, manifest: Manifest) -> bool:
        if manifest["metadata"]["name"] == "big":
            raise OSError(28, "No space left on device")
        return put(store, manifest)

    monkeypatch.setattr(Store, "put", full)
    result = lab.apply(thing("NetworkPolicy", "big"), thing("Pod", "big"), thing("Pod", "p"))
    assert (result.exit_code, result.stdout) == (1, "pod/p created\n")
    assert result.stderr.count("No space left on device") == 2


def test_a_damaged_lab_is_told(lab: Lab) -> None:
    lab.layout.spec.write_text("{")
    result = lab.run("get", "pods")
    assert result.exit_code == 1
    assert "lab down" in result.stderr
