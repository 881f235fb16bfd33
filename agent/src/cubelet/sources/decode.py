"""From plain Kubernetes documents to the objects that cubes plan from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from cubelet.sources.cluster import read_config_map, read_namespace, read_node, read_pod
from cubelet.sources.custom import reader_of
from cubelet.sources.fields import Field, FieldError, Path, dotted
from cubelet.sources.policies import read_policy
from cubelet.sources.services import read_service, read_slice
from cubelet_hooks.objects import Object
from cubelet_hooks.resources import Resource


class ObjectError(Exception):
    """A document that is no usable object. ``path`` leads to the field at fault.

    ``kind`` and ``key`` are empty if the document lacks them; ``file`` is empty if it came from
    none.
    """

    def __init__(self, file: str, kind: str, key: str, path: Path, message: str) -> None:
        self.file = file
        self.kind = kind
        self.key = key
        self.path = path
        self.message = message
        named = " ".join(part for part in (kind, key) if part)
        super().__init__(": ".join(part for part in (file, named, self.field, message) if part))

    @property
    def field(self) -> str:
        """The field at fault, such as ``spec.ports[0].port``; empty for the whole document."""
        return dotted(self.path)


class Identity(NamedTuple):
    """An object's kind and key, which identify it."""

    kind: str
    key: str


class Kind(NamedTuple):
    """How objects of one kind are read."""

    api_version: str
    namespaced: bool
    read: Callable[[Field, str, str], Object]
    plural: str


Kinds = Mapping[str, Kind]
KINDS: Kinds = {
    "Node": Kind("v1", False, read_node, "nodes"),
    "Namespace": Kind("v1", False, read_namespace, "namespaces"),
    "Pod": Kind("v1", True, read_pod, "pods"),
    "Service": Kind("v1", True, read_service, "services"),
    "EndpointSlice": Kind("discovery.k8s.io/v1", True, read_slice, "endpointslices"),
    "NetworkPolicy": Kind("networking.k8s.io/v1", True, read_policy, "networkpolicies"),
    "ConfigMap": Kind("v1", True, read_config_map, "configmaps"),
}
"""The built-in kinds."""


def with_custom(resources: Iterable[Resource]) -> Kinds:
    """The built-in kinds and these."""
    custom = {
        each.kind: Kind(each.api_version, each.namespaced, reader_of(each), each.plural)
        for each in resources
    }
    return {**KINDS, **custom}


def decode(document: Mapping[str, Any], file: str = "", kinds: Kinds = KINDS) -> list[Object]:
    """Read one document; a ``List`` (or ``PodList`` and so on) gives all of its items.

    Defaults are the API server's; unknown fields are ignored. Raises ObjectError for the first
    thing that is wrong.
    """
    return [decode_object(item, file, kinds) for _, item in expand(document, file, kinds)]


def expand(document: object, file: str = "", kinds: Kinds = KINDS) -> Iterator[tuple[Path, object]]:
    """The objects' own documents within ``document``, each with the path that leads to it."""
    kind = document.get("kind") if isinstance(document, Mapping) else None
    if not isinstance(document, Mapping) or not isinstance(kind, str) or not _is_list(kind, kinds):
        yield (), document
        return
    inherited = {"apiVersion": document.get("apiVersion"), "kind": kind.removesuffix("List")}
    try:
        items = Field(document)["items"].items()
    except FieldError as error:
        raise ObjectError(file, kind, "", error.path, error.message) from None
    for item in items:
        value = item.value
        if kind != "List" and isinstance(value, Mapping):
            value = {**inherited, **value}
        yield item.path, value


def _is_list(kind: str, kinds: Kinds) -> bool:
    return kind == "List" or (kind.endswith("List") and kind.removesuffix("List") in kinds)


def decode_object(document: object, file: str = "", kinds: Kinds = KINDS) -> Object:
    """Read one object's document, which must not be a list. Raises ObjectError."""
    root, kind, key = Field(document), "", ""
    try:
        kind = root["kind"].text(None)
        known = kinds.get(kind)
        if known is None:
            raise root["kind"].error(f"{kind} is not among the kinds read: {', '.join(kinds)}")
        namespace, name = _names(root, known.namespaced)
        key = f"{namespace}/{name}" if known.namespaced else name
        version = root["apiVersion"].text() or known.api_version
        if version != known.api_version:
            raise root["apiVersion"].error(f"must be {known.api_version}, is {version}")
        return known.read(root, namespace, name)
    except FieldError as error:
        raise ObjectError(file, kind, key, error.path, error.message) from None


def possible_identities(document: object, kinds: Kinds = KINDS) -> tuple[Identity, ...] | None:
    """The objects that an unreadable document may be about; None: it could be any.

    A document of an unknown kind may be a misspelt one of the kinds of its API version.
    """
    root = Field(document)
    try:
        kind = root["kind"].text(None)
        version = root["apiVersion"].text()
        candidates = [kind] if kind in kinds else list(kinds)
        if kind not in kinds and version:
            candidates = [each for each in candidates if kinds[each].api_version == version]
        namespace, name = _names(root, namespaced=True)
    except FieldError:
        return None
    return tuple(
        Identity(each, f"{namespace}/{name}" if kinds[each].namespaced else name)
        for each in candidates
    )


def _names(root: Field, namespaced: bool) -> tuple[str, str]:
    metadata = root["metadata"]
    namespace = metadata["namespace"]
    return (
        (namespace.name(longest=63) if namespace.text() else "default") if namespaced else "",
        metadata["name"].name(),
    )
