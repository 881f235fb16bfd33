"""Formats lab objects as tables, and as lists for programs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from cubelet.console.output import table
from cubelet.lab.admission import container_ports
from cubelet.lab.kinds import Kind, Manifest

Columns = dict[str, str]


def manifests(kind: Kind, found: Sequence[Manifest]) -> str:
    """The table of objects of one kind."""
    if not found:
        return f"no {kind.plural}"
    rows = [_row(kind, manifest) for manifest in found]
    return table([*rows[0]], [[*row.values()] for row in rows])


def as_list(found: Sequence[Manifest]) -> Manifest:
    """Objects as a ``List``, as the API server gives it."""
    return {"apiVersion": "v1", "kind": "List", "items": list(found)}


def _row(kind: Kind, manifest: Manifest) -> Columns:
    metadata = manifest["metadata"]
    named: Columns = {"NAMESPACE": metadata["namespace"]} if kind.namespaced else {}
    named["NAME"] = metadata["name"]
    details = {"Node": _node, "Namespace": _labels, "Pod": _pod, "Service": _service}.get(kind.name)
    if kind.name == "NetworkPolicy":
        details = _policy
    return {**named, **(details(manifest) if details else {})}


def _node(node: Manifest) -> Columns:
    return {
        "INTERNAL-IP": node["status"]["addresses"][0]["address"],
        "POD-CIDR": node["spec"]["podCIDR"],
    }


def _labels(manifest: Manifest) -> Columns:
    return {"LABELS": _pairs(manifest["metadata"].get("labels"))}


def _pod(pod: Manifest) -> Columns:
    status = pod.get("status") or {}
    ports = [f"{port}/{protocol}" for protocol, port in container_ports(pod)]
    return {
        "STATUS": status.get("phase", "Pending"),
        "IP": status.get("podIP", "<none>"),
        "NODE": pod["spec"].get("nodeName", "<none>"),
        "PORTS": ",".join(ports) or "<none>",
        **_labels(pod),
    }


def _service(service: Manifest) -> Columns:
    spec = service["spec"]
    return {
        "TYPE": spec.get("type", "ClusterIP"),
        "CLUSTER-IP": spec.get("clusterIP", "<none>"),
        "PORT(S)": ",".join(map(_service_port, spec.get("ports") or ())) or "<none>",
        "SELECTOR": _pairs(spec.get("selector")),
    }


def _service_port(port: dict[str, Any]) -> str:
    node_port = f":{port['nodePort']}" if port.get("nodePort") else ""
    return f"{port['port']}{node_port}/{port.get('protocol', 'TCP')}"


def _policy(policy: Manifest) -> Columns:
    selector = policy["spec"].get("podSelector") or {}
    return {"POD-SELECTOR": _pairs(selector.get("matchLabels"))}


def _pairs(labels: dict[str, str] | None) -> str:
    return ",".join(f"{k}={v}" for k, v in (labels or {}).items()) or "<none>"
