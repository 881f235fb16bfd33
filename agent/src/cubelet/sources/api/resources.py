"""The kinds that are watched: one row each, and what a node keeps of their objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec.structs import replace

from cubelet_hooks.objects import Node, Object, Pod

OWN_ANNOTATIONS = "cubelet.io/"
"""Prefix of the Nodes' annotations that are kept; others change every few minutes."""


class Resource(NamedTuple):
    """How one kind is asked for and read.

    ``trim`` reduces an object to what the node of the given name needs; None: nothing of it.
    """

    kind: str
    api_version: str
    path: str
    trim: Callable[[Any, str], Object | None] | None = None
    field_selector: str = ""

    @property
    def plural(self) -> str:
        """The kind's name in paths and in RBAC rules."""
        return self.path.rpartition("/")[2]


def trim_node(node: Node, _own: str) -> Node:
    """The node without what only others annotate it with."""
    kept = {k: v for k, v in node.annotations.items() if k.startswith(OWN_ANNOTATIONS)}
    return replace(node, annotations=kept) if kept != node.annotations else node


def trim_pod(pod: Pod, own: str) -> Pod | None:
    """This node's pods as they are; of others what policies look at, unless they have ended."""
    if pod.node_name == own:
        return pod
    if pod.finished:
        return None
    return replace(pod, uid="", annotations={}) if pod.uid or pod.annotations else pod


def resources(config_map: str) -> tuple[Resource, ...]:
    """All that an agent watches; ``config_map`` is ``namespace/name``.

    What others refer to comes first.
    """
    namespace, _, name = config_map.rpartition("/")
    return (
        Resource("Node", "v1", "/api/v1/nodes", trim_node),
        Resource("Namespace", "v1", "/api/v1/namespaces"),
        Resource("Pod", "v1", "/api/v1/pods", trim_pod),
        Resource("Service", "v1", "/api/v1/services"),
        Resource(
            "EndpointSlice", "discovery.k8s.io/v1", "/apis/discovery.k8s.io/v1/endpointslices"
        ),
        Resource(
            "NetworkPolicy",
            "networking.k8s.io/v1",
            "/apis/networking.k8s.io/v1/networkpolicies",
        ),
        Resource(
            "ConfigMap",
            "v1",
            f"/api/v1/namespaces/{namespace or 'default'}/configmaps",
            field_selector=f"metadata.name={name}",
        ),
    )
