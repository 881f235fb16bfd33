"""The stand-in for a node's kubelet: gives a pod its namespace, its network and its process.

The network comes from the real CNI plugin, run as a container runtime does: as a process in the
node's namespace, with the call in its environment and the configuration on its standard input.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from typing import Any, Final

from cubelet.cni.install import PLUGIN
from cubelet.lab import netns, processes
from cubelet.lab.admission import container_ports
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key, Manifest, key_of
from cubelet.lab.layout import Layout
from cubelet.lab.store import Store

IFNAME: Final = "eth0"
_CNI_TIMEOUT: Final = 70.0  # the plugin itself gives up after 60 s


class Kubelet:
    """Starts and stops the pods of a lab. Calls for different pods may run in parallel."""

    def __init__(self, layout: Layout, store: Store) -> None:
        self._layout = layout
        self._store = store

    def start(self, pod: Manifest) -> None:
        """Attach and start a stored pod and store its status; after an error the pod is removed.

        Raises LabError with the error of the CNI plugin or of the pod's process.
        """
        key = key_of(pod)
        try:
            if _host_network(pod):
                addresses = [self._node_address(pod)]
            else:
                netns.create(self._netns(key))
                addresses = self._attach(pod)
            processes.spawn_server(
                self._layout,
                _process(key),
                self.netns_of(pod),
                f"{key.namespace}/{key.name}",
                container_ports(pod),
            )
            self._store.put({**pod, "status": self._status(pod, addresses)})
        except BaseException:
            with contextlib.suppress(LabError):
                self.stop(pod)
            raise

    def stop(self, pod: Manifest) -> None:
        """Undo `start` from any state and forget the pod. Raises LabError if CNI DEL fails."""
        key = key_of(pod)
        processes.end(self._layout, [_process(key)])
        try:
            if not _host_network(pod):
                self._cni("DEL", pod)
        finally:
            netns.delete(self._netns(key))
            self._store.remove(key)
            self._layout.log(_process(key)).unlink(missing_ok=True)

    def netns_of(self, pod: Manifest) -> str:
        """The namespace that a pod's processes are in."""
        if _host_network(pod):
            return self._layout.node_netns(pod["spec"]["nodeName"])
        return self._netns(key_of(pod))

    def _netns(self, key: Key) -> str:
        return self._layout.pod_netns(key.namespace, key.name)

    def _attach(self, pod: Manifest) -> list[str]:
        """Call CNI ADD; returns the pod's addresses."""
        result = self._cni("ADD", pod)
        addresses = [str(ip["address"]).partition("/")[0] for ip in result.get("ips", ())]
        if not addresses:
            raise LabError(f"{key_of(pod)}: CNI ADD gave no address: {result}")
        return addresses

    def _cni(self, command: str, pod: Manifest) -> dict[str, Any]:
        try:
            done = subprocess.run(
                netns.command(
                    self._layout.node_netns(pod["spec"]["nodeName"]),
                    [str(self._layout.cni_bin(pod["spec"]["nodeName"]) / PLUGIN)],
                ),
                input=json.dumps(self._configuration(pod)),
                env={**os.environ, **self._call(command, pod)},
                capture_output=True,
                text=True,
                timeout=_CNI_TIMEOUT,
            )
        except subprocess.TimeoutExpired:
            message = f"{key_of(pod)}: CNI {command}: no answer within {_CNI_TIMEOUT:g} s"
            raise LabError(message) from None
        if done.returncode:
            said = done.stdout.strip() or done.stderr.strip()
            with contextlib.suppress(ValueError, KeyError):
                error = json.loads(done.stdout)
                said = " ".join(filter(None, (error["msg"], error.get("details"))))
            raise LabError(f"{key_of(pod)}: CNI {command}: {said}")
        result: dict[str, Any] = json.loads(done.stdout or "{}")
        return result

    def _call(self, command: str, pod: Manifest) -> dict[str, str]:
        key = key_of(pod)
        sandbox = _sandbox(pod)
        arguments = {
            "IgnoreUnknown": "1",
            "K8S_POD_NAMESPACE": key.namespace,
            "K8S_POD_NAME": key.name,
            "K8S_POD_INFRA_CONTAINER_ID": sandbox,
            "K8S_POD_UID": pod["metadata"]["uid"],
        }
        return {
            "CNI_COMMAND": command,
            "CNI_CONTAINERID": sandbox,
            "CNI_NETNS": str(netns.path(self._netns(key))),
            "CNI_IFNAME": IFNAME,
            "CNI_PATH": str(self._layout.cni_bin(pod["spec"]["nodeName"])),
            "CNI_ARGS": ";".join(f"{name}={value}" for name, value in arguments.items()),
        }

    def _configuration(self, pod: Manifest) -> dict[str, Any]:
        return {
            "cniVersion": "1.1.0",
            "name": "cubelet",
            "type": PLUGIN,
            "socket": str(self._layout.socket(pod["spec"]["nodeName"])),
            "runtimeConfig": {"portMappings": _port_mappings(pod)},
        }

    def _node_address(self, pod: Manifest) -> str:
        node = self._store.get(Key("Node", "", pod["spec"]["nodeName"]))
        if node is None:
            raise LabError(f"{key_of(pod)}: no node {pod['spec']['nodeName']}")
        return str(node["status"]["addresses"][0]["address"])

    def _status(self, pod: Manifest, addresses: list[str]) -> Manifest:
        host = self._node_address(pod)
        return {
            "phase": "Running",
            "podIP": addresses[0],
            "podIPs": [{"ip": address} for address in addresses],
            "hostIP": host,
            "hostIPs": [{"ip": host}],
            "conditions": [{"type": "Ready", "status": "True"}],
        }


def _host_network(pod: Manifest) -> bool:
    return bool(pod["spec"].get("hostNetwork"))


def _port_mappings(pod: Manifest) -> list[dict[str, Any]]:
    """The containers' host ports, as containerd passes them to plugins."""
    return [
        {
            "HostPort": port["hostPort"],
            "ContainerPort": port["containerPort"],
            "Protocol": (port.get("protocol") or "TCP").lower(),
            "HostIP": port.get("hostIP") or "",
        }
        for container in pod["spec"].get("containers") or ()
        for port in container.get("ports") or ()
        if port.get("hostPort")
    ]


def _process(key: Key) -> str:
    return f"pod.{key.namespace}.{key.name}"


def _sandbox(pod: Manifest) -> str:
    """The container id for the plugin: the same for ADD and DEL of one pod."""
    return str(pod["metadata"]["uid"]).replace("-", "")
