"""The objects of a lab: Kubernetes manifests, one file each, in the folder that agents watch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import yaml

from cubelet.lab.errors import LabError
from cubelet.lab.layout import Layout

Manifest = dict[str, Any]

_LOADER: Final = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_DUMPER: Final = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_SUFFIXES: Final = (".yaml", ".yml", ".json")


@dataclass(frozen=True)
class Kind:
    """A kind of object that the lab keeps, and what it may be called on a command line."""

    name: str
    plural: str
    short: str
    namespaced: bool = True


KINDS: Final = (
    Kind("Node", "nodes", "no", namespaced=False),
    Kind("Namespace", "namespaces", "ns", namespaced=False),
    Kind("Pod", "pods", "po"),
    Kind("Service", "services", "svc"),
    Kind("EndpointSlice", "endpointslices", "eps"),
    Kind("NetworkPolicy", "networkpolicies", "netpol"),
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


def read_documents(path: Path) -> list[Manifest]:
    """All objects in a file, or in the manifests of a folder; Lists are opened.

    Raises LabError that names the file and the document (counted from 1) that is not an object.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix in _SUFFIXES)
        if not files:
            raise LabError(f"{path}: no file ends in {', '.join(_SUFFIXES)}")
        return [manifest for file in files for manifest in read_documents(file)]
    try:
        documents = list(yaml.load_all(path.read_text(), Loader=_LOADER))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LabError(f"{path}: {error}") from None
    found: list[Manifest] = []
    for number, document in enumerate(documents, 1):
        found += _objects(document, f"{path}, document {number}")
    return found


def _objects(document: object, where: str) -> Iterator[Manifest]:
    if document is None:
        return
    if not isinstance(document, dict) or not isinstance(document.get("kind"), str):
        raise LabError(f"{where}: not a Kubernetes object: no `kind`")
    if document["kind"].endswith("List") and isinstance(document.get("items"), list):
        for number, item in enumerate(document["items"], 1):
            yield from _objects(item, f"{where}, item {number}")
        return
    metadata = document.get("metadata")
    if not isinstance(metadata, dict) or not isinstance(metadata.get("name"), str):
        raise LabError(f"{where}: {document['kind']} without metadata.name")
    yield document


class Store:
    """The folder of objects; each write is one rename, so that no agent reads half an object."""

    def __init__(self, layout: Layout) -> None:
        self._folder = layout.manifests
        self._staging = layout.staging

    def get(self, key: Key) -> Manifest | None:
        """The object of that key, None if there is none."""
        try:
            text = self._file(key).read_text()
        except FileNotFoundError:
            return None
        manifest: Manifest = yaml.load(text, Loader=_LOADER)
        return manifest

    def list(self, kind: str, namespace: str = "") -> list[Manifest]:
        """All objects of a kind, of one namespace if given, by namespace and name."""
        files = self._folder.glob(f"{kind.lower()}.*.yaml")
        manifests: list[Manifest] = [yaml.load(f.read_text(), Loader=_LOADER) for f in files]
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
        parts = [key.kind.lower(), *([key.namespace] if key.namespace else []), key.name]
        return self._folder / f"{'.'.join(parts)}.yaml"
