"""The kinds of objects that the API server keeps, and how paths name them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple


@dataclass(frozen=True)
class Resource:
    """A kind of object. ``status`` says whether it has the subresource of that name.

    ``returned``: DELETE answers with the object instead of a ``Status``. Kubernetes' API
    description lists these kinds, and clients decode the answer accordingly.
    """

    group: str
    plural: str
    kind: str
    namespaced: bool = True
    status: bool = False
    returned: bool = False
    short_names: tuple[str, ...] = ()
    version: str = "v1"

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of objects of the kind."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def key(self) -> str:
        """The plural, with the group after it where there is one: ``endpointslices.discovery…``."""
        return f"{self.plural}.{self.group}" if self.group else self.plural


class Place(NamedTuple):
    """The resource, namespace, name and subresource in a path; empty if the path lacks them."""

    resource: Resource
    namespace: str
    name: str
    subresource: str


RESOURCES: Final = (
    Resource("", "nodes", "Node", namespaced=False, status=True, short_names=("no",)),
    Resource("", "namespaces", "Namespace", namespaced=False, status=True, short_names=("ns",)),
    Resource("", "pods", "Pod", status=True, returned=True, short_names=("po",)),
    Resource("", "services", "Service", status=True, returned=True, short_names=("svc",)),
    Resource("", "configmaps", "ConfigMap", short_names=("cm",)),
    Resource("", "serviceaccounts", "ServiceAccount", returned=True, short_names=("sa",)),
    Resource("", "events", "Event", short_names=("ev",)),
    Resource("events.k8s.io", "events", "Event", short_names=("ev",)),
    Resource("discovery.k8s.io", "endpointslices", "EndpointSlice"),
    Resource("coordination.k8s.io", "leases", "Lease"),
    Resource("networking.k8s.io", "networkpolicies", "NetworkPolicy", short_names=("netpol",)),
    Resource(
        "apiextensions.k8s.io",
        "customresourcedefinitions",
        "CustomResourceDefinition",
        namespaced=False,
        status=True,
        short_names=("crd",),
    ),
)


class Resources:
    """The kinds that one server keeps: the built-in ones, and added ones."""

    def __init__(self, resources: Iterable[Resource] = RESOURCES) -> None:
        self._all: dict[tuple[str, str, str], Resource] = {}
        for each in resources:
            self.add(each)

    def __iter__(self) -> Iterator[Resource]:
        return iter(tuple(self._all.values()))

    def add(self, resource: Resource) -> None:
        """Keep one more kind, as a CustomResourceDefinition makes a server do."""
        self._all[resource.group, resource.version, resource.plural] = resource

    def remove(self, resource: Resource) -> None:
        """Forget a kind."""
        self._all.pop((resource.group, resource.version, resource.plural), None)

    def named(self, text: str) -> Resource:
        """A resource by plural, ``plural.group`` or kind; if two have that name, the core's.

        Raises KeyError, with all known names, for any other text.
        """
        for each in self:
            if text in {each.plural, each.key, each.kind}:
                return each
        raise KeyError(f"no resource {text!r}: {', '.join(each.key for each in self)}")

    def of(self, manifest: Mapping[str, Any]) -> Resource:
        """A manifest's resource: by its kind, and its group if two resources have that kind.

        Raises KeyError for a kind that is not kept.
        """
        group = str(manifest.get("apiVersion", "")).rpartition("/")[0]
        for each in self:
            if (each.group, each.kind) == (group, manifest["kind"]):
                return each
        return self.named(str(manifest["kind"]))

    def place(self, path: str) -> Place | None:
        """The place that a request's path names; None if it is no object or list of objects.

        Paths are those of the Kubernetes API: ``/api/v1/…`` for the core group,
        ``/apis/GROUP/VERSION/…`` for the others, with ``namespaces/NAMESPACE`` before the plural
        of namespaced kinds.
        """
        parts = path.strip("/").split("/")
        if parts[:2] == ["api", "v1"]:
            group, version, rest = "", "v1", parts[2:]
        elif parts[0] == "apis" and len(parts) > 2:
            group, version, rest = parts[1], parts[2], parts[3:]
        else:
            return None
        namespace = ""
        # A namespace's own path continues with nothing or with one of its subresources.
        nested = len(rest) >= 3 and rest[0] == "namespaces"
        if nested and (group, version, rest[2]) in self._all:
            namespace, rest = rest[1], rest[2:]
        found = self._all.get((group, version, rest[0])) if rest else None
        return _place(found, namespace, rest) if found else None


def _place(found: Resource, namespace: str, rest: list[str]) -> Place | None:
    """The place of a resource's path; ``rest`` is what follows the namespace, the plural first."""
    if len(rest) > 3 or bool(namespace) > found.namespaced:
        return None
    name, subresource = [*rest[1:], "", ""][:2]
    if (name and found.namespaced and not namespace) or (subresource and not found.status):
        return None
    return None if subresource not in {"", "status"} else Place(found, namespace, name, subresource)


_BUILT_IN: Final = Resources()


def named(text: str) -> Resource:
    """A built-in resource: see :meth:`Resources.named`."""
    return _BUILT_IN.named(text)
