"""The manifests, without a cluster: what they hold, what they allow, and that it fits the agent."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from cubelet.config.node import KubernetesSettings, Settings, load
from cubelet.daemon.http import split_address

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
VERSION = distribution("cubelet").version
KUBERNETES = "1.37"
# What a container of the pod may do, besides what a process without privileges may.
CAPABILITIES = {"BPF", "NET_ADMIN", "PERFMON", "SYS_ADMIN"}
HELD = {"agent": {*CAPABILITIES, "NET_RAW"}, "uninstall": CAPABILITIES}

Manifest = dict[str, Any]


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
        wanted = HELD.get(container["name"], set())
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
        host, port = split_address("health", settings.health)
        for probe, path in (("livenessProbe", "/livez"), ("readinessProbe", "/readyz")):
            assert AGENT[probe]["httpGet"] == {"host": host, "port": port, "path": path}
        source = (ROOT / "agent/src/cubelet/daemon/http.py").read_text()
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
