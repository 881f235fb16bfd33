"""GET of many objects: versions, pages, and the tokens that continue them."""

from __future__ import annotations

import base64
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from cubelet.lab.apiserver import errors
from cubelet.lab.apiserver.history import Stored
from cubelet.lab.apiserver.resources import Resource
from cubelet.lab.apiserver.selectors import Predicate
from cubelet.lab.apiserver.store import Store

_SNAPSHOTS: Final = 16  # lists in progress that are remembered; older ones expire


class Token(msgspec.Struct, frozen=True):
    """A ``continue`` token: the list's version (-1: any) and the last key given."""

    version: int
    namespace: str
    name: str

    def text(self) -> str:
        """The token as text for clients."""
        return base64.urlsafe_b64encode(msgspec.json.encode(self)).decode()

    @classmethod
    def read(cls, text: str) -> Token:
        """The token of a request. Raises ApiError (400)."""
        try:
            return msgspec.json.decode(base64.urlsafe_b64decode(text), type=cls)
        except ValueError as error:
            raise errors.bad_request(f"continue key is not valid: {error}") from None


@dataclass(frozen=True)
class Page:
    """A part of a list, with the version of the whole list and the number of items left."""

    items: list[Stored]
    version: int
    token: str = ""
    remaining: int | None = None


class Lists:
    """Answers lists from snapshots, so that all pages of one list show the same version."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._snapshots: OrderedDict[tuple[Resource, int], tuple[Stored, ...]] = OrderedDict()

    def expire_tokens(self) -> None:
        """Let every list in progress answer 410 to its next page."""
        self._snapshots.clear()

    def page(
        self, resource: Resource, wanted: Predicate, query: Mapping[str, str], *, selects: bool
    ) -> Page:
        """The page that a request asks for; ``selects``: ``wanted`` does not select all objects.

        Raises ApiError: 400 for parameters that do not fit together, 410 for a version that is no
        longer kept, 504 for one that is not reached yet.
        """
        limit, token = whole(query, "limit"), query.get("continue", "")
        if token:
            if query.get("resourceVersion", "") not in {"", "0"}:
                why = "specifying resource version is not allowed when using continue"
                raise errors.bad_request(why)
            read = Token.read(token)
            version, objects = self._continued(resource, read)
            start = _after(objects, (read.namespace, read.name))
        else:
            version, objects = self._begun(resource, query, limit)
            start = 0
            if query.get("resourceVersion") == "0":
                limit = 0  # as a real server's watch cache, which has no pages
        items: list[Stored] = []
        for position in range(start, len(objects)):
            if limit and len(items) == limit:
                self._remember(resource, version, objects)
                left = len(objects) - position
                last = Token(version, *items[-1].key).text()
                return Page(items, version, last, None if selects else left)
            if wanted(objects[position]):
                items.append(objects[position])
        return Page(items, version)

    def _begun(
        self, resource: Resource, query: Mapping[str, str], limit: int
    ) -> tuple[int, tuple[Stored, ...]]:
        asked, match = whole(query, "resourceVersion"), query.get("resourceVersionMatch", "")
        if match not in {"", "Exact", "NotOlderThan"}:
            raise errors.bad_request(f"resourceVersionMatch: {match!r} is not supported")
        if match and not query.get("resourceVersion"):
            raise errors.bad_request("resourceVersionMatch is forbidden without resourceVersion")
        with self._store.lock:
            current, objects = self._store.version, self._store.all(resource)
        if asked > current:
            raise errors.future_version(asked, current)
        # Without resourceVersionMatch, a limited list at a version is at exactly that version.
        exact = match == "Exact" or (not match and limit and asked)
        if not exact or asked == current:
            return current, objects
        return asked, self._snapshot(resource, asked, "")

    def _continued(self, resource: Resource, token: Token) -> tuple[int, tuple[Stored, ...]]:
        if token.version < 0:  # a token given with a 410: continue with the present objects
            with self._store.lock:
                return self._store.version, self._store.all(resource)
        inconsistent = Token(-1, token.namespace, token.name).text()
        return token.version, self._snapshot(resource, token.version, inconsistent)

    def _snapshot(self, resource: Resource, version: int, token: str) -> tuple[Stored, ...]:
        try:
            return self._snapshots[resource, version]
        except KeyError:
            message = (
                "The provided continue parameter is too old to display a consistent list result. "
                "You can start a new list without the continue parameter, or use the continue "
                "token in this response to retrieve the remainder of the results."
                if token
                else f"The resourceVersion for the provided list is too old: {version}"
            )
            raise errors.expired(message, token) from None

    def _remember(self, resource: Resource, version: int, objects: tuple[Stored, ...]) -> None:
        self._snapshots[resource, version] = objects
        self._snapshots.move_to_end((resource, version))
        while len(self._snapshots) > _SNAPSHOTS:
            self._snapshots.popitem(last=False)


def whole(query: Mapping[str, str], name: str) -> int:
    """A number in a query, 0 if absent. Raises ApiError (400) if it is malformed."""
    text = query.get(name, "") or "0"
    if not text.isascii() or not text.isdigit():
        raise errors.bad_request(f"{name}: {text!r} is no number")
    return int(text)


def _after(objects: tuple[Stored, ...], key: tuple[str, str]) -> int:
    """The position of the first object behind ``key``."""
    low, high = 0, len(objects)
    while low < high:
        middle = (low + high) // 2
        if objects[middle].key <= key:
            low = middle + 1
        else:
            high = middle
    return low
