"""A kind of objects that a cube watches, for tests of the lab."""

from __future__ import annotations

from typing import Any

from cubelet_hooks.resources import Resource

FENCE = Resource("Fence", "example.com/v1beta1", "fences")
ZONE = Resource("Zone", "example.com/v1", "zones", namespaced=False)


def definition(resource: Resource, **names: Any) -> dict[str, Any]:
    """The CustomResourceDefinition of a kind, some of its names changed."""
    version = resource.api_version.rpartition("/")[2]
    schema = {"openAPIV3Schema": {"type": "object"}}
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": resource.definition},
        "spec": {
            "group": resource.group,
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "names": {"kind": resource.kind, "plural": resource.plural, **names},
            "versions": [{"name": version, "served": True, "storage": True, "schema": schema}],
        },
    }


def fence(name: str, **spec: Any) -> dict[str, Any]:
    """An object of that kind."""
    metadata = {"name": name}
    return {"apiVersion": FENCE.api_version, "kind": "Fence", "metadata": metadata, "spec": spec}
