"""The messages of lists and watches, without the objects in them."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from cubelet.sources.api.errors import UNREADABLE, Garbled, Refused, status_of

Raw = bytes | msgspec.Raw
_DIGITS = 40
"""Longest version in digits that is compared as a number: servers' have up to 20."""


class ListMeta(msgspec.Struct, frozen=True, rename="camel"):
    """A list's metadata; ``more`` is the token for requesting the next page."""

    resource_version: str = ""
    more: str = msgspec.field(default="", name="continue")


class Page(msgspec.Struct, frozen=True):
    """One page of a list; its items are left as they came."""

    metadata: ListMeta
    items: list[msgspec.Raw] | None = None


class Event(msgspec.Struct, frozen=True):
    """One line of a watch. ``type`` is ADDED, MODIFIED, DELETED, BOOKMARK or ERROR."""

    type: str
    object: msgspec.Raw


class _Version(msgspec.Struct, frozen=True, rename="camel"):
    resource_version: str = ""


class _Versioned(msgspec.Struct, frozen=True):
    metadata: _Version = _Version()


_PAGE = msgspec.json.Decoder(Page)
_EVENT = msgspec.json.Decoder(Event)
_VERSIONED = msgspec.json.Decoder(_Versioned)


def page_of(body: bytes) -> Page:
    """Read a list's page. Raises Garbled."""
    try:
        page = _PAGE.decode(body)
    except UNREADABLE as error:
        raise Garbled(f"a list cannot be read: {error}") from error
    if not page.metadata.resource_version:
        raise Garbled("a list does not tell its resourceVersion")
    return page


def event_of(line: bytes) -> Event:
    """Read a watch's line. Raises Garbled, and Refused for an ERROR."""
    try:
        event = _EVENT.decode(line)
    except UNREADABLE as error:
        raise Garbled(f"a watch's event cannot be read: {error}") from error
    if event.type == "ERROR":
        status = status_of(event.object)
        raise Refused(status.code, status)
    return event


def version_of(raw: Raw) -> str:
    """An object's resourceVersion; empty if it has none."""
    try:
        return _VERSIONED.decode(raw).metadata.resource_version
    except UNREADABLE:
        return ""


def precedes(one: str, other: str) -> bool:
    """Whether version ``one`` is older than ``other``, as far as that can be told (KEP-5504)."""
    comparable = all(each.isdecimal() and len(each) < _DIGITS for each in (one, other))
    return comparable and int(one) < int(other)


class Lines:
    """Cuts a stream into lines; a last line without a line break is dropped as half an event."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """The lines that end in this piece, without empty ones."""
        first, *others = piece.split(b"\n")
        self._rest += first
        for part in others:
            line, self._rest = bytes(self._rest), bytearray(part)
            if line.strip():
                yield line
