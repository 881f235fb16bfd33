"""The objects of a lab: one file each in the folder that agents watch, or kept by an API server."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple, Protocol

import yaml

from cubelet.lab import documents
from cubelet.lab.documents import Document, Loader
from cubelet.lab.errors import LabError
from cubelet.lab.layout import Layout

Manifest = documents.Manifest

_DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_NAME: Final = re.compile(r"[a-z0-9]([-.a-z0-9]*[a-z0-9])?")


@dataclass(frozen=True)
class Kind:
    """A kind of object that the lab keeps, and what it may be called on a command line.

    ``status`` says whether its status is a subresource of the API, changed on its own.
    """

    name: str
    plural: str
    short: str
    namespaced: bool = True
    group: str = ""
    status: bool = False

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of its objects."""
        return f"{self.group}/v1" if self.group else "v1"


KINDS: Final = (
    Kind("Node", "nodes", "no", namespaced=False, status=True),
    Kind("Namespace", "namespaces", "ns", namespaced=False),
    Kind("Pod", "pods", "po", status=True),
    Kind("Service", "services", "svc", status=True),
    Kind("EndpointSlice", "endpointslices", "eps", group="discovery.k8s.io"),
    Kind("NetworkPolicy", "networkpolicies", "netpol", group="networking.k8s.io"),
    Kind("ConfigMap", "configmaps", "cm"),
)


class Key(NamedTuple):
    """What identifies an object; `namespace` is empty for what has none."""

    kind: str
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind.lower()}/{self.name}"


def kind_named(text: str) -> Kind:
    """Find a kind by its name, plural or short name in any case; raises LabError."""
    wanted = text.lower()
    for kind in KINDS:
        if wanted in (kind.name.lower(), kind.plural, kind.short):
            return kind
    known = ", ".join(kind.plural for kind in KINDS)
    raise LabError(f"unknown kind {text!r}; the lab keeps {known}")


def namespaced(kind: str) -> bool:
    """Whether objects of a kind live in a namespace; true for kinds that the lab does not keep."""
    return next((known.namespaced for known in KINDS if known.name == kind), True)


def key_of(manifest: Manifest) -> Key:
    """The key of a manifest; the namespace is `default` where it is needed and absent."""
    kind = str(manifest["kind"])
    metadata = manifest["metadata"]
    namespace = str(metadata.get("namespace") or "default") if namespaced(kind) else ""
    return Key(kind, namespace, str(metadata["name"]))


def is_kept(kind: str) -> bool:
    """Whether the lab keeps objects of a kind."""
    return any(known.name == kind for known in KINDS)


def read_documents(path: Path) -> list[Document]:
    """All objects in a file or a folder; raises LabError for the first thing that is none."""
    found, problems = documents.read(path)
    if problems:
        raise LabError(str(problems[0]))
    return found


def file_name(key: Key) -> str:
    """The file that an object is stored in, within the folder of manifests.

    Raises LabError for a name that no object can have: it must not lead anywhere else.
    """
    parts = [key.kind.lower(), *([key.namespace] if key.namespace else []), key.name]
    if not all(map(_NAME.fullmatch, parts)):
        raise LabError(f"{key}: names are of lower-case letters, digits, '-' and '.'")
    return f"{'.'.join(parts)}.yaml"


class Keeper(Protocol):
    """Where objects are kept."""

    @property
    def allocates(self) -> bool:
        """Whether it gives Services their addresses and node ports."""

    def get(self, key: Key) -> Manifest | None:
        """The object of that key, None if there is none."""

    def list(self, kind: str, namespace: str = "") -> list[Manifest]:
        """All objects of a kind, of one namespace if given, by namespace and name."""

    def put(self, manifest: Manifest) -> bool:
        """Store an object; false if that changed nothing."""

    def remove(self, key: Key) -> bool:
        """Remove an object; false if it was not there."""


class Store:
    """A lab's objects, wherever they are kept. All methods raise LabError."""

    def __init__(self, layout: Layout) -> None:
        self._keeper = _keeper(layout)

    @property
    def allocates(self) -> bool:
        """Whether Services are given addresses and node ports when they are stored."""
        return self._keeper.allocates

    def get(self, key: Key) -> Manifest | None:
        """The object of that key, None if there is none."""
        return self._keeper.get(key)

    def list(self, kind: str, namespace: str = "") -> list[Manifest]:
        """All objects of a kind, of one namespace if given, by namespace and name."""
        return self._keeper.list(kind, namespace)

    def put(self, manifest: Manifest) -> bool:
        """Store an object; false if it was there already, the same in every field."""
        return self._keeper.put(manifest)

    def remove(self, key: Key) -> bool:
        """Remove an object; false if it was not there."""
        return self._keeper.remove(key)


def _keeper(layout: Layout) -> Keeper:
    if not layout.api.exists():
        return Folder(layout)
    from cubelet.lab.api import objects_of

    return objects_of(layout)


class Folder:
    """The folder of objects; each write is one rename, so that no agent reads half an object."""

    allocates: Final = False

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.manifests
        self._staging = layout.staging

    def get(self, key: Key) -> Manifest | None:
        """The object of that key, None if there is none."""
        try:
            text = self._file(key).read_text()
        except FileNotFoundError:
            return None
        manifest: Manifest = yaml.load(text, Loader=Loader)
        return manifest

    def list(self, kind: str, namespace: str = "") -> list[Manifest]:
        """All objects of a kind, of one namespace if given, by namespace and name."""
        files = self._folder.glob(f"{kind.lower()}.*.yaml")
        manifests: list[Manifest] = [yaml.load(f.read_text(), Loader=Loader) for f in files]
        wanted = [m for m in manifests if not namespace or key_of(m).namespace == namespace]
        return sorted(wanted, key=key_of)

    def put(self, manifest: Manifest) -> bool:
        """Store an object; false if it was there already, the same in every field."""
        key = key_of(manifest)
        if self.get(key) == manifest:
            return False
        self._folder.mkdir(parents=True, exist_ok=True)
        self._staging.mkdir(parents=True, exist_ok=True)
        draft = self._staging / self._file(key).name
        draft.write_text(yaml.dump(manifest, Dumper=_DUMPER, sort_keys=False))
        os.replace(draft, self._file(key))
        return True

    def remove(self, key: Key) -> bool:
        """Remove an object; false if it was not there."""
        try:
            self._file(key).unlink()
        except FileNotFoundError:
            return False
        return True

    def _file(self, key: Key) -> Path:
        return self._folder / file_name(key)
