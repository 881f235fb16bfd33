"""The manifests, without a cluster: what they hold, what they allow, and that it fits the agent."""

from __future__ import annotations

import asyncio
import contextlib
import re
import subprocess
import sys
from collections.abc import AsyncGenerator, Iterator, Mapping
from importlib.metadata import distribution
from pathlib import Path
from typing import Any, NamedTuple

import kubernetes_validate
import pytest
import yaml

from cubelet.health import split_address
from cubelet.kubernetes import node as node_keeper
from cubelet.kubernetes.events import EventWriter, Reference
from cubelet.kubernetes.node import NodeKeeper
from cubelet.settings import KubernetesSettings, Settings, load
from cubelet.sources.api import ApiSource
from cubelet.sources.api.connection import Connection
from cubelet.sources.api.errors import Unreachable
from cubelet.sources.api.resources import resources
from cubelet.sources.api.session import Sent

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
VERSION = distribution("cubelet").version
KUBERNETES = "1.37"
# What a container of the pod may do, besides what a process without privileges may.
CAPABILITIES = {"BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"}

Manifest = dict[str, Any]
Rule = tuple[str, str, str, str]
"""API group, resource, resource name ('' for any), verb."""


def documents(name: str) -> list[Manifest]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


def only(name: str, kind: str, called: str | None = None) -> Manifest:
    (found,) = (
        each
        for each in documents(name)
        if each["kind"] == kind and called in (None, each["metadata"]["name"])
    )
    return found


def pod_spec(name: str) -> Manifest:
    found: Manifest = only(name, "DaemonSet")["spec"]["template"]["spec"]
    return found


def containers(name: str) -> list[Manifest]:
    spec = pod_spec(name)
    return [*spec["initContainers"], *spec["containers"]]


AGENT = next(each for each in containers("cubelet.yaml") if each["name"] == "agent")
UNINSTALL = containers("uninstall.yaml")[0]

each_file = pytest.mark.parametrize("name", ["cubelet.yaml", "uninstall.yaml"])
each_container = pytest.mark.parametrize(
    ("name", "container"),
    [(name, each) for name in ("cubelet.yaml", "uninstall.yaml") for each in containers(name)],
    ids=lambda value: value if isinstance(value, str) else value["name"],
)


def host_paths(name: str, container: Manifest) -> dict[str, str]:
    """Folders of the host by where the container has them."""
    volumes = {each["name"]: each for each in pod_spec(name)["volumes"]}
    mounted = {each["mountPath"]: volumes[each["name"]] for each in container["volumeMounts"]}
    return {path: each["hostPath"]["path"] for path, each in mounted.items() if "hostPath" in each}


class TestManifests:
    @each_file
    def test_the_api_knows_every_field(self, name: str) -> None:
        for document in documents(name):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)

    def test_a_wrong_field_would_be_found(self) -> None:
        document = only("cubelet.yaml", "DaemonSet")
        document["spec"]["template"]["spec"]["hostNetwrok"] = True
        with pytest.raises(kubernetes_validate.ValidationError, match="hostNetwrok"):
            kubernetes_validate.validate(document, KUBERNETES, strict=True)

    @each_file
    def test_every_volume_is_mounted_and_every_mount_has_one(self, name: str) -> None:
        mounts = [mount for each in containers(name) for mount in each.get("volumeMounts", ())]
        assert {each["name"] for each in pod_spec(name)["volumes"]} == {m["name"] for m in mounts}

    @each_container
    def test_paths_are_mounted_once(self, name: str, container: Manifest) -> None:
        paths = [each["mountPath"] for each in container.get("volumeMounts", ())]
        assert len(paths) == len(set(paths))

    @each_file
    def test_all_of_one_name_and_namespace(self, name: str) -> None:
        daemon_set = only(name, "DaemonSet")
        labels = daemon_set["spec"]["template"]["metadata"]["labels"]
        assert daemon_set["spec"]["selector"]["matchLabels"] == labels
        cluster_wide = {"ClusterRole", "ClusterRoleBinding"}
        for document in documents(name):
            wanted = None if document["kind"] in cluster_wide else "kube-system"
            assert document["metadata"].get("namespace") == wanted, document["kind"]

    def test_bindings_bind_what_there_is(self) -> None:
        account = {"kind": "ServiceAccount", "name": "cubelet", "namespace": "kube-system"}
        for kind in ("ClusterRole", "Role"):
            binding = only("cubelet.yaml", f"{kind}Binding")
            assert binding["subjects"] == [account]
            reference = binding["roleRef"]
            assert (reference["kind"], reference["name"]) == (kind, "cubelet")
            assert only("cubelet.yaml", kind)["metadata"]["name"] == "cubelet"
        assert only("cubelet.yaml", "ServiceAccount")["metadata"]["name"] == "cubelet"
        assert pod_spec("cubelet.yaml")["serviceAccountName"] == "cubelet"

    def test_one_kustomization_for_the_same(self) -> None:
        assert documents("kustomization.yaml")[0]["resources"] == ["cubelet.yaml"]

    @each_container
    def test_the_image_is_of_this_version(self, name: str, container: Manifest) -> None:
        assert container["image"] == f"cubelet:{VERSION}"

    @each_file
    def test_nodes_without_a_network_run_it(self, name: str) -> None:
        spec = pod_spec(name)
        assert spec["hostNetwork"] is True
        assert spec["tolerations"] == [{"operator": "Exists"}]
        assert spec["priorityClassName"] == "system-node-critical"
        assert spec["dnsPolicy"] == "Default"

    def test_only_the_agent_has_a_token(self) -> None:
        assert only("cubelet.yaml", "ServiceAccount")["automountServiceAccountToken"] is False
        assert pod_spec("cubelet.yaml")["automountServiceAccountToken"] is True
        assert pod_spec("uninstall.yaml")["automountServiceAccountToken"] is False

    def test_it_is_replaced_node_by_node(self) -> None:
        strategy = only("cubelet.yaml", "DaemonSet")["spec"]["updateStrategy"]
        assert strategy == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": "10%"}}

    def test_a_pod_that_is_being_attached_is_waited_for(self) -> None:
        grace = pod_spec("cubelet.yaml")["terminationGracePeriodSeconds"]
        assert grace > Settings().attach_timeout


class TestPrivileges:
    @each_container
    def test_no_container_has_more_than_it_needs(self, name: str, container: Manifest) -> None:
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        if container["name"] == "mount-bpffs":  # propagation to the host needs it
            assert context["privileged"] is True
            (mount,) = container["volumeMounts"]
            assert mount["mountPropagation"] == "Bidirectional"
            return
        assert "privileged" not in context
        assert context["capabilities"]["drop"] == ["ALL"]
        wanted = CAPABILITIES if container["name"] in ("agent", "uninstall") else set()
        assert set(context["capabilities"].get("add", ())) == wanted

    def test_what_the_first_container_runs_mounts_bpffs(self) -> None:
        command = containers("cubelet.yaml")[0]["command"]
        script = 'mount -t tmpfs x /sys/fs/bpf && "$@" && grep " /sys/fs/bpf " /proc/mounts'
        argv = ["unshare", "--mount", "bash", "-ec", script, "_", sys.executable, *command[1:]]
        shown = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
        assert shown.splitlines()[-1].startswith("bpf /sys/fs/bpf bpf ")


class TestSettings:
    @pytest.fixture
    def settings(self, tmp_path: Path) -> Settings:
        """As the agents get them."""
        data = only("cubelet.yaml", "ConfigMap")["data"]
        (tmp_path / "agent.yaml").write_text(data["agent.yaml"])
        return load(tmp_path / "agent.yaml")

    def test_they_are_for_a_cluster(self, settings: Settings) -> None:
        assert settings.source == "kubernetes"
        assert settings.kubernetes.kubeconfig is None
        assert settings.node_name == ""

    @pytest.mark.parametrize("container", [AGENT, UNINSTALL], ids=["agent", "uninstall"])
    def test_the_node_names_itself(self, container: Manifest) -> None:
        (name,) = (each for each in container["env"] if each["name"] == "NODE_NAME")
        assert name["valueFrom"]["fieldRef"]["fieldPath"] == "spec.nodeName"

    @pytest.mark.parametrize("container", [AGENT, UNINSTALL], ids=["agent", "uninstall"])
    def test_sysctls_are_where_they_can_be_written(self, container: Manifest) -> None:
        (there,) = (each["value"] for each in container["env"] if each["name"] == "CUBELET_SYSCTLS")
        name = "cubelet.yaml" if container is AGENT else "uninstall.yaml"
        assert host_paths(name, container)[there] == "/proc/sys/net"
        code = "from cubelet.net import sysctl; print(sysctl._ROOT)"
        shown = subprocess.run(
            [sys.executable, "-c", code],
            env={"CUBELET_SYSCTLS": there},
            capture_output=True,
            text=True,
            check=True,
        )
        assert shown.stdout.strip() == there

    @pytest.mark.parametrize("name", ["cubelet.yaml", "uninstall.yaml"])
    def test_every_path_is_the_hosts(self, name: str, settings: Settings) -> None:
        assert settings.cni_conf is not None
        assert settings.cni_bin is not None
        container = AGENT if name == "cubelet.yaml" else UNINSTALL
        shared = host_paths(name, container)
        for path in (
            settings.socket.parent,
            settings.state_dir,
            settings.cache_dir,
            settings.bpffs,
            settings.cni_conf.parent,
            settings.cni_bin,
        ):
            mounted = {Path(each) for each in (*path.parents, path) if str(each) in shared}
            assert mounted, path
            assert all(shared[str(each)] == str(each) for each in mounted), path

    def test_folders_that_are_removed_are_not_mounted_themselves(self, settings: Settings) -> None:
        shared = host_paths("uninstall.yaml", UNINSTALL)
        assert {str(settings.state_dir), str(settings.cache_dir), str(settings.bpffs)}.isdisjoint(
            shared
        )

    @pytest.mark.parametrize("path", ["/sys/fs/bpf", "/run/netns"])
    def test_what_is_mounted_later_is_seen(self, path: str) -> None:
        (mount,) = (each for each in AGENT["volumeMounts"] if each["mountPath"] == path)
        assert mount["mountPropagation"] == "HostToContainer"
        assert host_paths("cubelet.yaml", AGENT)[path] == path

    def test_the_file_is_where_the_command_reads_it(self) -> None:
        for container in (AGENT, UNINSTALL):
            command = container["command"]
            config = Path(command[command.index("--config") + 1])
            (mount,) = (m for m in container["volumeMounts"] if m["name"] == "config")
            assert config == Path(mount["mountPath"], "agent.yaml")

    def test_probes_ask_the_health_server(self, settings: Settings) -> None:
        assert settings.health is not None
        host, port = split_address(settings.health)
        for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert AGENT[probe]["httpGet"] == {"host": host, "port": port, "path": path}
        source = (ROOT / "agent/src/cubelet/health.py").read_text()
        assert '"/livez"' in source
        assert '"/readyz"' in source

    def test_the_clusters_configuration_is_not_overwritten_by_an_upgrade(self) -> None:
        names = {
            each["metadata"]["name"]
            for each in documents("cubelet.yaml")
            if each["kind"] == "ConfigMap"
        }
        assert KubernetesSettings().config_map == "kube-system/cubelet"
        assert names == {"cubelet-agent"}


class Asked(NamedTuple):
    """A request."""

    method: str
    path: str


class Recorder(Connection):
    """A server that has whatever it is asked for, and a node with our taint; notes requests."""

    def __init__(self) -> None:
        super().__init__(KubernetesSettings())
        self.asked: list[Asked] = []

    @contextlib.asynccontextmanager
    async def get(
        self,
        path: str,
        query: Mapping[str, str],
        *,
        idle: float | None = None,
        total: float | None = None,
    ) -> AsyncGenerator[Any]:
        self.asked.append(Asked("GET", path))
        yield self

    async def body(self) -> bytes:
        taint = f'{{"key": "{node_keeper.TAINT}", "effect": "NoSchedule"}}'
        return f'{{"spec": {{"taints": [{taint}]}}, "metadata": {{"uid": "1"}}}}'.encode()

    async def send(self, path: str, sent: Sent, seconds: float = 10.0) -> bytes:
        self.asked.append(Asked(sent.method, path))
        return b"{}"


async def _requests() -> list[Asked]:
    """What an agent asks besides watching, by running what asks."""
    recorder = Recorder()
    keeper = NodeKeeper(recorder, "node1")
    keeper.serve()
    events = EventWriter(recorder, "node1", pause=0)
    events.warn(Reference("v1", "ConfigMap", "kube-system", "cubelet"), "r", "m")
    events.warn(Reference("v1", "Service", "shop", "web", "uid"), "r", "m")
    tasks = [asyncio.ensure_future(work.run()) for work in (keeper, events)]
    await asyncio.sleep(0.2)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    return recorder.asked


async def _pod_request(monkeypatch: pytest.MonkeyPatch) -> list[Asked]:
    """What CNI's ADD asks for a pod that is not known."""
    asked = []

    def get(_: object, path: str, *arguments: object, **options: object) -> None:
        asked.append(Asked("GET", path))
        raise Unreachable("nobody is there")

    monkeypatch.setattr(Connection, "get", get)
    source = ApiSource(
        KubernetesSettings(), "node1", lambda _: None, lambda _: None, lambda _: None
    )
    with contextlib.suppress(Unreachable):
        await source.find_pod("shop/web")
    return asked


_VERBS = {"GET": "get", "POST": "create", "PATCH": "patch"}
_PATH = re.compile(
    r"/(?:api/v1|apis/(?P<group>[^/]+)/v1)(?:/namespaces/(?P<namespace>[^/]+)(?=/))?"
    r"/(?P<resource>[^/]+)(?:/(?P<name>[^/]+))?(?:/(?P<subresource>[^/]+))?"
)


def permission(asked: Asked) -> Rule:
    """What RBAC must allow for a request."""
    found = _PATH.fullmatch(asked.path)
    assert found, asked
    resource = "/".join(filter(None, found.group("resource", "subresource")))
    name = found["name"] if resource == "configmaps" else ""
    return found["group"] or "", resource, name or "", _VERBS[asked.method]


def watched() -> Iterator[Rule]:
    """What RBAC must allow for the watches."""
    for each in resources(KubernetesSettings().config_map):
        group = each.api_version.rpartition("/")[0]
        name = each.field_selector.removeprefix("metadata.name=")
        yield from ((group, each.plural, name, verb) for verb in ("list", "watch"))


def allowed() -> set[Rule]:
    """What the roles allow."""
    return {
        (group, resource, name, verb)
        for kind in ("ClusterRole", "Role")
        for rule in only("cubelet.yaml", kind)["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for name in rule.get("resourceNames", [""])
        for verb in rule["verbs"]
    }


def test_the_agent_may_do_what_it_does_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = asyncio.run(_requests()) + asyncio.run(_pod_request(monkeypatch))
    needed = {*watched(), *map(permission, requests)}
    assert ("", "nodes/status", "", "patch") in needed
    assert ("", "events", "", "create") in needed
    assert allowed() == needed
