"""Completes objects as an API server and the controllers would before they are stored.

Services get addresses and node ports, Namespaces the label with their name, Deployments become
Pods, and Pods get a node.
"""

from __future__ import annotations

import copy
import uuid
from collections.abc import Iterable, Mapping
from typing import Any, Final

from cubelet.lab.errors import LabError
from cubelet.lab.kinds import Key, Manifest, key_of, namespaced
from cubelet.lab.layout import SERVICE_CIDR

NODE_PORTS: Final = range(30000, 32768)
_OWNER: Final = "lab.cubelet.io/deployment"
_WITH_SPEC: Final = ("Pod", "Service", "NetworkPolicy")
_WITH_NODE_PORTS: Final = ("NodePort", "LoadBalancer")
_FIRST_SERVICE_ADDRESS: Final = 10  # lower ones are for Services that ask for them, such as DNS


def normalise(manifest: Manifest) -> Manifest:
    """A copy with the namespace set where one is needed, a Namespace's own label, and a spec."""
    manifest = copy.deepcopy(manifest)
    metadata = manifest["metadata"]
    if namespaced(manifest["kind"]):
        metadata["namespace"] = key_of(manifest).namespace
    if manifest["kind"] == "Namespace":
        labels = metadata.get("labels") or {}
        metadata["labels"] = {**labels, "kubernetes.io/metadata.name": metadata["name"]}
    elif manifest.get("spec") is None and manifest["kind"] in _WITH_SPEC:
        manifest["spec"] = {}
    return manifest


def namespace(name: str) -> Manifest:
    """The manifest of a Namespace."""
    return normalise({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})


def service(manifest: Manifest, others: Iterable[Manifest], old: Manifest | None) -> Manifest:
    """A Service with clusterIPs and node ports: asked for, kept from `old`, or free ones.

    Raises LabError if an address or a node port that it asks for is another Service's.
    """
    manifest = copy.deepcopy(manifest)
    spec = manifest.setdefault("spec", {})
    if spec.get("type") == "ExternalName":
        return manifest
    others = [other for other in others if key_of(other) != key_of(manifest)]
    before = (old or {}).get("spec", {})
    _cluster_ip(manifest, before, others)
    if spec.get("type") in _WITH_NODE_PORTS:
        _node_ports(manifest, before, others)
    return manifest


def _cluster_ip(manifest: Manifest, before: Mapping[str, Any], others: list[Manifest]) -> None:
    spec = manifest["spec"]
    taken = {other["spec"].get("clusterIP"): key_of(other) for other in others}
    wanted = spec.get("clusterIP") or before.get("clusterIP")
    if not wanted:
        free = map(str, list(SERVICE_CIDR.hosts())[_FIRST_SERVICE_ADDRESS - 1 :])
        wanted = next((address for address in free if address not in taken), None)
    if not wanted:
        raise LabError(f"{key_of(manifest)}: no address left in {SERVICE_CIDR}")
    if wanted != "None" and wanted in taken:
        raise LabError(f"{key_of(manifest)}: spec.clusterIP {wanted} is {taken[wanted]}'s")
    spec["clusterIP"] = wanted
    spec.setdefault("clusterIPs", [wanted])


def _node_ports(manifest: Manifest, before: Mapping[str, Any], others: list[Manifest]) -> None:
    taken = {
        (port.get("protocol", "TCP"), port.get("nodePort")): key_of(other)
        for other in others
        for port in other["spec"].get("ports") or ()
    }
    kept = {_port_id(port): port.get("nodePort") for port in before.get("ports") or ()}
    for port in manifest["spec"].get("ports") or ():
        protocol = port.get("protocol", "TCP")
        number = port.get("nodePort") or kept.get(_port_id(port))
        if not number:
            number = next((n for n in NODE_PORTS if (protocol, n) not in taken), None)
        if not number or (protocol, number) in taken:
            raise LabError(f"{key_of(manifest)}: nodePort {number} is taken or none is left")
        port["nodePort"] = number
        taken[(protocol, number)] = key_of(manifest)


def _port_id(port: Mapping[str, Any]) -> tuple[object, object]:
    return port.get("protocol", "TCP"), port.get("port")


def expand(deployment: Manifest) -> list[Manifest]:
    """The Pods of a valid Deployment: NAME-0 to NAME-(replicas - 1), marked as its own.

    The mark is an annotation: an owner reference would need an owner that the server stores.
    """
    key = key_of(deployment)
    spec = deployment.get("spec") or {}
    template = spec.get("template") or {}
    metadata = template.get("metadata") or {}
    replicas = 1 if spec.get("replicas") is None else spec["replicas"]
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                **copy.deepcopy(metadata),
                "annotations": {**(metadata.get("annotations") or {}), _OWNER: key.name},
                "name": f"{key.name}-{number}",
                "namespace": key.namespace,
            },
            "spec": copy.deepcopy(template.get("spec") or {}),
        }
        for number in range(replicas)
    ]


def owned_by(pod: Manifest, deployment: Key) -> bool:
    """Whether a Pod was made from that Deployment."""
    owner = (pod["metadata"].get("annotations") or {}).get(_OWNER)
    return (key_of(pod).namespace, owner) == (deployment.namespace, deployment.name)


def managed(manifest: Manifest) -> bool:
    """Whether a controller made the object, and so also removes it."""
    return "endpointslice.kubernetes.io/managed-by" in (manifest["metadata"].get("labels") or {})


def bind(pod: Manifest, nodes: Iterable[Manifest], pods: Iterable[Manifest]) -> Manifest:
    """A new Pod with a uid and a node: the one it names, or the least used that it selects.

    Raises LabError if there is no such node.
    """
    pod = copy.deepcopy(pod)
    spec = pod.setdefault("spec", {})
    load = {node["metadata"]["name"]: 0 for node in nodes if _selects(spec, node)}
    if spec.get("nodeName"):
        load = {name: count for name, count in load.items() if name == spec["nodeName"]}
    if not load:
        raise LabError(f"{key_of(pod)}: no node matches spec.nodeName and spec.nodeSelector")
    for other in pods:
        name = other["spec"].get("nodeName")
        if name in load:
            load[name] += 1
    spec["nodeName"] = min(load, key=lambda name: load[name])  # the first of the least used
    pod["metadata"]["uid"] = str(uuid.uuid4())
    return pod


def _selects(spec: Mapping[str, Any], node: Manifest) -> bool:
    labels = node["metadata"].get("labels") or {}
    return all(labels.get(k) == v for k, v in (spec.get("nodeSelector") or {}).items())


def container_ports(pod: Manifest) -> list[tuple[str, int]]:
    """The declared (protocol, port) of a Pod's containers, each once, sorted."""
    containers = pod.get("spec", {}).get("containers") or ()
    return sorted(
        {
            (str(port.get("protocol") or "TCP"), int(port["containerPort"]))
            for container in containers
            for port in container.get("ports") or ()
        }
    )


def same_pod(old: Manifest, new: Manifest) -> bool:
    """Whether `new` asks for no more than other labels and annotations on the running `old`.

    Fields that the cluster filled in (node, uid, status) are not compared.
    """
    spec = {"nodeName": old["spec"].get("nodeName"), **(new.get("spec") or {})}
    return spec == old["spec"] and _asked_address(old) == _asked_address(new)


def _asked_address(pod: Manifest) -> object:
    return (pod["metadata"].get("annotations") or {}).get("cubelet.io/ip")


def relabel(old: Manifest, new: Manifest) -> Manifest:
    """The running pod `old` with the metadata of `new`."""
    metadata = {**copy.deepcopy(new["metadata"]), "uid": old["metadata"]["uid"]}
    return {**old, "metadata": metadata}
