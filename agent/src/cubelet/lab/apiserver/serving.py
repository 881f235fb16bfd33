"""Encodes objects, lists and events into the bytes of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

import msgspec

from cubelet.lab.apiserver.faults import Faults
from cubelet.lab.apiserver.history import Stored
from cubelet.lab.apiserver.listing import Page
from cubelet.lab.apiserver.resources import Resource

_CHUNK: Final = 500  # objects of a list that are sent at once

encode: Final = msgspec.json.Encoder().encode
decode: Final = msgspec.json.Decoder().decode


def body(resource: Resource, stored: Stored, faults: Faults) -> bytes:
    """An object as it is served: its own JSON, unless a fault removes fields."""
    fields = faults.removed(resource.key, stored.name)
    if not fields:
        return stored.body
    manifest = decode(stored.body)
    for path in fields:
        *parents, last = path.split(".")
        level: Any = manifest
        for parent in parents:
            level = level.get(parent) if isinstance(level, dict) else None
        if isinstance(level, dict):
            level.pop(last, None)
    return encode(manifest)


def page(resource: Resource, found: Page, faults: Faults) -> Iterator[bytes]:
    """A list in pieces. Its items are copied as they are stored, without being decoded."""
    metadata: dict[str, Any] = {"resourceVersion": str(found.version)}
    if found.token:
        metadata["continue"] = found.token
    if found.remaining is not None:
        metadata["remainingItemCount"] = found.remaining
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
    yield encode({**head, "metadata": metadata})[:-1] + b',"items":['
    for start in range(0, len(found.items), _CHUNK):
        some = found.items[start : start + _CHUNK]
        comma = b"," if start else b""
        yield comma + b",".join([body(resource, each, faults) for each in some])
    yield b"]}\n"


def event(type_: str, content: bytes) -> bytes:
    """One line of a watch."""
    return b'{"type":"%s","object":%s}\n' % (type_.encode(), content)


def bookmark(resource: Resource, version: int, *, initial: bool) -> bytes:
    """A watch's bookmark: all events up to ``version`` were sent. ``initial`` marks the end of
    the objects that existed at its start."""
    metadata: dict[str, Any] = {"resourceVersion": str(version), "creationTimestamp": None}
    if initial:
        metadata["annotations"] = {"k8s.io/initial-events-end": "true"}
    head = {"kind": resource.kind, "apiVersion": resource.api_version}
    return event("BOOKMARK", encode({**head, "metadata": metadata}))
