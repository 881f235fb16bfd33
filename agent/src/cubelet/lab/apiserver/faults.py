"""Faults that tests can inject, as they happen between real clients and real servers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from cubelet.lab.apiserver.resources import named


class Kind(StrEnum):
    """A kind of fault: first those of a request, then those of a watch, then those of one event."""

    ANSWER = "answer with a status"
    SLOW = "answer late"
    CUT = "cut the connection in the middle of the body"
    SILENCE = "a watch on which nothing comes"
    BOOKMARKS_ONLY = "a watch on which only bookmarks come"
    TRUNCATE = "half an event, then the stream ends"
    DUPLICATE = "an event twice"
    REORDER = "an event after the one that follows it"
    DROP = "an event is lost, and the next is a 410"


@dataclass
class Fault:
    """One fault: ``resource`` (a `Resource.key`) and ``verb`` (list, watch, get, create, update,
    patch, delete) are empty for any; it happens ``left`` more times."""

    kind: Kind
    resource: str
    verb: str
    left: int
    status: int = 0
    retry_after: int | None = None
    seconds: float = 0.0
    bytes: int = 0


class Faults:
    """The faults in force. Each happens for a number of requests (of events, where it says so),
    the oldest first; a running watch meets only those of events, see `ApiServer.end_watches`."""

    def __init__(self) -> None:
        self._faults: Final[list[Fault]] = []
        self._removed: Final[dict[tuple[str, str], tuple[str, ...]]] = {}

    def answer(
        self,
        status: int,
        *,
        resource: str = "",
        verb: str = "",
        times: int = 1,
        retry_after: int | None = None,
    ) -> None:
        """Answer requests with an error; ``retry_after`` is in seconds."""
        self._add(Kind.ANSWER, resource, verb, times, status=status, retry_after=retry_after)

    def slow(self, seconds: float, *, resource: str = "", verb: str = "", times: int = 1) -> None:
        """Answer requests after ``seconds``."""
        self._add(Kind.SLOW, resource, verb, times, seconds=seconds)

    def cut(
        self, *, resource: str = "", verb: str = "list", times: int = 1, after: int = 100
    ) -> None:
        """Reset the connection when ``after`` bytes of an answer to a list or watch are sent."""
        self._add(Kind.CUT, resource, verb, times, bytes=after)

    def silence(self, *, resource: str = "", times: int = 1) -> None:
        """Leave watches open without sending events or bookmarks."""
        self._add(Kind.SILENCE, resource, "watch", times)

    def bookmarks_only(self, *, resource: str = "", times: int = 1) -> None:
        """Send bookmarks on watches, but none of the events before them."""
        self._add(Kind.BOOKMARKS_ONLY, resource, "watch", times)

    def truncate(self, *, resource: str = "", times: int = 1) -> None:
        """Per event: send half its line and end the watch."""
        self._add(Kind.TRUNCATE, resource, "watch", times)

    def duplicate(self, *, resource: str = "", times: int = 1) -> None:
        """Per event: send it twice."""
        self._add(Kind.DUPLICATE, resource, "watch", times)

    def reorder(self, *, resource: str = "", times: int = 1) -> None:
        """Per event: send it after the one that follows it."""
        self._add(Kind.REORDER, resource, "watch", times)

    def drop(self, *, resource: str = "", times: int = 1) -> None:
        """Per event: do not send it; when the next comes, send a 410 and end the watch."""
        self._add(Kind.DROP, resource, "watch", times)

    def remove_fields(self, resource: str, name: str, *fields: str) -> None:
        """Serve an object without fields (dotted paths such as ``status.podIPs``) until `clear`."""
        self._removed[named(resource).key, name] = fields

    def clear(self) -> None:
        """Remove all faults."""
        self._faults.clear()
        self._removed.clear()

    def take(self, kind: Kind, resource: str, verb: str) -> Fault | None:
        """The fault for a request or an event, counted as used once; None if there is none."""
        for fault in self._faults:
            if fault.kind == kind and fault.resource in {"", resource} and fault.verb in {"", verb}:
                fault.left -= 1
                if fault.left == 0:
                    self._faults.remove(fault)
                return fault
        return None

    def removed(self, resource: str, name: str) -> tuple[str, ...]:
        """The fields that are left out when an object is served."""
        return self._removed.get((resource, name), ()) if self._removed else ()

    def _add(self, kind: Kind, resource: str, verb: str, times: int, **how: object) -> None:
        key = named(resource).key if resource else ""
        self._faults.append(Fault(kind, key, verb, times, **how))  # type: ignore[arg-type]
