"""Manifests as short as tests need them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cubelet.lab.kinds import Manifest


def pod(
    name: str,
    *ports: tuple[str, int],
    labels: Mapping[str, str] | None = None,
    ip: str | None = None,
    **spec: Any,
) -> Manifest:
    """A Pod that serves the (protocol, port) pairs; `ip` is asked for, `app` labels it."""
    declared = [{"protocol": protocol, "containerPort": port} for protocol, port in ports]
    metadata: Manifest = {"name": name, "labels": {"app": name, **(labels or {})}}
    if ip:
        metadata["annotations"] = {"cubelet.io/ip": ip}
    containers = [{"name": "c", "image": "lab", "ports": declared}]
    return {"kind": "Pod", "metadata": metadata, "spec": {"containers": containers, **spec}}


def service(name: str, app: str, *ports: tuple[str, int, int], **spec: Any) -> Manifest:
    """A Service of the pods labelled `app`: (protocol, port, targetPort) each."""
    declared = [
        {"name": f"{protocol.lower()}-{port}", "protocol": protocol, "port": port, "targetPort": to}
        for protocol, port, to in ports
    ]
    return {
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"selector": {"app": app}, "ports": declared, **spec},
    }


def policy(name: str, app: str, **spec: Any) -> Manifest:
    """A NetworkPolicy for the pods labelled `app`; ingress or egress as given isolate them."""
    types = [kind.title() for kind in ("ingress", "egress") if kind in spec]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name},
        "spec": {"podSelector": {"matchLabels": {"app": app}}, "policyTypes": types, **spec},
    }
