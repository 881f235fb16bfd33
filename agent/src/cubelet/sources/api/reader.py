"""Reads an object's JSON into its small frozen model, or finds the field at fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from cubelet.sources.api.errors import UNREADABLE
from cubelet.sources.api.resources import Resource
from cubelet.sources.api.typed import PodReader, read_slice
from cubelet.sources.decode import KINDS, ObjectError, decode_object, with_custom
from cubelet_hooks.objects import EndpointSlice, Object, Pod

_ANY = msgspec.json.Decoder()


class Identity(msgspec.Struct, frozen=True, rename="camel"):
    """An object's name and namespace, read even if the rest of it is malformed."""

    name: str
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""

    @property
    def key(self) -> str:
        """``namespace/name`` or ``name``."""
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class _Identified(msgspec.Struct, frozen=True):
    metadata: Identity


_IDENTIFIED = msgspec.json.Decoder(_Identified)


def identify(raw: bytes | msgspec.Raw) -> Identity | None:
    """The identity in an object's JSON; None if it has none."""
    try:
        return _IDENTIFIED.decode(raw).metadata
    except UNREADABLE:
        return None


def _fast(kind: str, own: str) -> Callable[[bytes | msgspec.Raw], Object] | None:
    """The fast reader of a kind, if it has one."""
    if kind == Pod.kind:
        return PodReader(own).read
    return read_slice if kind == EndpointSlice.kind else None


class Reader:
    """Reads the objects of one kind as the node called ``own`` needs them."""

    def __init__(self, resource: Resource, own: str) -> None:
        self.kind = resource.kind
        self.api_version = resource.api_version
        self._resource = resource
        self._own = own
        self._fast = _fast(resource.kind, own)
        self._kinds = with_custom([resource.custom]) if resource.custom else KINDS

    def read(self, raw: bytes | msgspec.Raw) -> tuple[str, Object | None]:
        """The object's key and its model, which is None if this node does not need it.

        Raises ObjectError for a value that the API does not allow.
        """
        found = self._try_fast(raw) or self._explain(raw)
        trim = self._resource.trim
        return found.key, trim(found, self._own) if trim else found

    def _try_fast(self, raw: bytes | msgspec.Raw) -> Object | None:
        if self._fast is None:
            return None
        try:
            return self._fast(raw)
        except (*UNREADABLE, ValueError):
            return None

    def _explain(self, raw: bytes | msgspec.Raw) -> Object:
        """Read field by field, so that an error names the field."""
        resource = self._resource
        try:
            document: Any = _ANY.decode(raw)
        except UNREADABLE as error:
            raise ObjectError("", resource.kind, "", (), f"not valid JSON: {error}") from None
        if isinstance(document, dict):  # items of a list lack kind and apiVersion
            document = {**document, "kind": resource.kind, "apiVersion": resource.api_version}
        return decode_object(document, kinds=self._kinds)
