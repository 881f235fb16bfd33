"""The kinds of objects that a lab keeps, and what identifies an object."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from cubelet.lab import documents, guests
from cubelet.lab.documents import Document
from cubelet.lab.errors import LabError

Manifest = documents.Manifest

_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class Kind:
    """A kind of object that the lab keeps, with its names on a command line.

    ``status``: its status is a subresource of the API, which is written by a request of its own.
    """

    name: str
    plural: str
    short: str
    namespaced: bool = True
    group: str = ""
    status: bool = False
    version: str = "v1"

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of its objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def path(self) -> str:
        """The beginning of its objects' paths in the API."""
        return f"/apis/{self.api_version}" if self.group else f"/api/{self.version}"


DEFINITION: Final = "CustomResourceDefinition"
KINDS: Final = (
    Kind("Node", "nodes", "no", namespaced=False, status=True),
    Kind("Namespace", "namespaces", "ns", namespaced=False),
    Kind("Pod", "pods", "po", status=True),
    Kind("Service", "services", "svc", status=True),
    Kind("EndpointSlice", "endpointslices", "eps", group="discovery.k8s.io"),
    Kind("NetworkPolicy", "networkpolicies", "netpol", group="networking.k8s.io"),
    Kind("ConfigMap", "configmaps", "cm"),
    Kind(
        DEFINITION,
        "customresourcedefinitions",
        "crd",
        namespaced=False,
        group="apiextensions.k8s.io",
    ),
)
"""The kinds that every lab keeps. To them come those that installed cubes watch."""


class Key(NamedTuple):
    """An object's identity; `namespace` is empty for cluster-wide kinds."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


def all_kinds() -> Iterator[Kind]:
    """The kinds that a lab keeps; cubes are looked for only if one gets beyond the first ones."""
    yield from KINDS
    for each in guests.watched():
        version = each.api_version.rpartition("/")[2]
        yield Kind(
            each.kind,
            each.plural,
            each.definition,
            namespaced=each.namespaced,
            group=each.group,
            version=version,
        )


def kind_named(text: str) -> Kind:
    """Find a kind by its name, plural or short name in any case; raises LabError."""
    wanted = text.lower()
    for kind in all_kinds():
        if wanted in (kind.name.lower(), kind.plural, kind.short):
            return kind
    known = ", ".join(kind.plural for kind in all_kinds())
    raise LabError(f"unknown kind {text!r}; the lab keeps {known}")


def namespaced(kind: str) -> bool:
    """Whether a kind is namespaced; true for kinds that the lab does not keep."""
    return next((known.namespaced for known in all_kinds() if known.name == kind), True)


def key_of(manifest: Manifest) -> Key:
    """The key of a manifest; a missing namespace is `default` for namespaced kinds."""
    kind = str(manifest["kind"])
    metadata = manifest["metadata"]
    namespace = str(metadata.get("namespace") or "default") if namespaced(kind) else ""
    return Key(kind, namespace, str(metadata["name"]))


def is_kept(kind: str) -> bool:
    """Whether the lab keeps objects of a kind."""
    return any(known.name == kind for known in all_kinds())


def read_documents(path: Path) -> list[Document]:
    """All objects in a file or a folder; raises LabError for the first problem."""
    found, problems = documents.read(path)
    if problems:
        raise LabError(str(problems[0]))
    return found


def file_name(key: Key) -> str:
    """The file that an object is stored in, within the folder of manifests.

    Raises LabError for a name that no object can have, since it could lead out of the folder.
    """
    parts = [key.kind.lower(), *([key.namespace] if key.namespace else []), key.name]
    if not all(map(_NAME.fullmatch, parts)):
        raise LabError(f"{key}: names are of lower-case letters, digits, '-' and '.'")
    return f"{'.'.join(parts)}.yaml"
