"""The watched kinds, and the parts of their objects that a node keeps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec.structs import replace

from cubelet.sources.annotations import Kept
from cubelet.sources.api.errors import NOT_FOUND, Refused
from cubelet_hooks import resources as hooks
from cubelet_hooks.objects import Object, Pod


class Resource(NamedTuple):
    """A kind's path in the API, and how its objects are read.

    ``trim`` reduces an object to the parts that the named node needs, None if it needs none.
    ``custom`` is set for a kind that a cube declares, which the server may not know.
    """

    kind: str
    api_version: str
    path: str
    trim: Callable[[Any, str], Object | None] | None = None
    field_selector: str = ""
    custom: hooks.Resource | None = None

    @property
    def plural(self) -> str:
        """The kind's name in paths and in RBAC rules."""
        return self.path.rpartition("/")[2]


def trim_pod(pod: Pod, own: str) -> Pod | None:
    """This node's pods as they are; other nodes' with the fields that policies use, until ended."""
    if pod.node_name == own:
        return pod
    if pod.finished:
        return None
    return replace(pod, uid="", annotations={}) if pod.uid or pod.annotations else pod


def custom(declared: hooks.Resource) -> Resource:
    """The resource of a kind that a cube declares."""
    path = f"/apis/{declared.api_version}/{declared.plural}"
    return Resource(declared.kind, declared.api_version, path, custom=declared)


def is_absent(resource: Resource, error: BaseException) -> bool:
    """Whether an error says that the server does not know a cube's kind, and so has no objects."""
    return resource.custom is not None and isinstance(error, Refused) and error.code == NOT_FOUND


def resources(config_map: str, kept: Kept | None = None) -> tuple[Resource, ...]:
    """All built-in kinds that an agent watches; ``config_map`` is ``namespace/name``.

    ``kept`` says which annotations of Nodes and Namespaces are. What others refer to comes first.
    """
    namespace, _, name = config_map.rpartition("/")
    kept = kept or Kept()
    return (
        Resource("Node", "v1", "/api/v1/nodes", lambda node, _own: kept.of(node)),
        Resource("Namespace", "v1", "/api/v1/namespaces", lambda found, _own: kept.of(found)),
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
