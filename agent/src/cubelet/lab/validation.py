"""Checks the fields that agents or the lab read as the API server would."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Final

from cubelet.lab import guests
from cubelet.lab.admission import NODE_PORTS
from cubelet.lab.documents import Document
from cubelet.lab.errors import LabError
from cubelet.lab.kinds import DEFINITION, file_name, is_kept, key_of, namespaced
from cubelet.sources.decode import KINDS, ObjectError, decode_object
from cubelet.sources.fields import Field, FieldError

_LABEL: Final = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123
_LONGEST_FILE_NAME: Final = 255  # NAME_MAX of every usual file system


def check(document: Document) -> None:
    """Raise LabError, with file, line, kind, key and field, for the first error."""
    key = key_of(document.manifest)
    root = Field(document.manifest)
    try:
        _names(root, key.kind)
        if key.kind in _MORE:
            _MORE[key.kind](root)
        if key.kind == DEFINITION:
            guests.check_definition(document.manifest)
        elif is_kept(key.kind):
            kinds = KINDS if key.kind in KINDS else guests.readable()
            decode_object(document.manifest, kinds=kinds)
            if len(file_name(key)) > _LONGEST_FILE_NAME:
                raise root["metadata"]["name"].error("is too long, together with the namespace")
    except (FieldError, ObjectError) as error:
        named = "/".join(filter(None, (key.namespace, key.name)))
        raise LabError(str(document.problem(error.path, error.message, key.kind, named))) from None


def _names(root: Field, kind: str) -> None:
    metadata = root["metadata"]
    metadata["name"].name()
    labels = [metadata["name"]] if kind == "Namespace" else []
    if namespaced(kind) and metadata["namespace"].text():
        labels.append(metadata["namespace"])
    for field in labels:
        if not _LABEL.fullmatch(field.text()):
            raise field.error("must be at most 63 lower-case letters, digits and '-'")


def _service(root: Field) -> None:
    for port in root["spec"]["ports"].items():
        if port["nodePort"].value:
            port["nodePort"].number(NODE_PORTS[0], NODE_PORTS[-1])


def _pod(root: Field) -> None:
    root["spec"]["nodeSelector"].strings()
    root["metadata"]["ownerReferences"].each(lambda owner: owner["kind"].text())


def _deployment(root: Field) -> None:
    spec = root["spec"]
    spec["replicas"].number(0, default=1)
    spec["template"]["metadata"]["labels"].strings()
    spec["template"]["spec"]["containers"].items()


_MORE: Final[Mapping[str, Callable[[Field], None]]] = {
    "Service": _service,
    "Pod": _pod,
    "Deployment": _deployment,
}
