"""Reading of objects whose kinds cubes declare."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any

from cubelet.sources.fields import Field
from cubelet_hooks.objects import Custom
from cubelet_hooks.resources import Resource

_MOST = (1 << 63) - 1


def reader_of(resource: Resource) -> Callable[[Field, str, str], Custom]:
    """A reader of the kind's objects. It checks only metadata: the spec's schema is the cube's."""

    def read(root: Field, namespace: str, name: str) -> Custom:
        metadata, spec = root["metadata"], root["spec"]
        return Custom(
            kind=resource.kind,
            namespace=namespace,
            name=name,
            labels=metadata["labels"].strings(),
            annotations=metadata["annotations"].strings(),
            spec=_frozen_mapping(spec),
            generation=metadata["generation"].number(0, _MOST, 0),
        )

    return read


def _frozen_mapping(field: Field) -> MappingProxyType[str, Any]:
    return MappingProxyType({name: _frozen(below) for name, below in field.members()})


def _frozen(field: Field) -> Any:
    if isinstance(field.value, dict):
        return _frozen_mapping(field)
    if isinstance(field.value, list):
        return field.each(_frozen)
    return field.value
