"""Interprets requests, in the terms of Kubernetes and of kmock."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import aiohttp.web
import kmock

from cubelet.lab.apiserver import errors, serving, watching
from cubelet.lab.apiserver.resources import Place, Resources

_VERBS: Final = {
    "FETCH": "get",
    "LIST": "list",
    "WATCH": "watch",
    "CREATE": "create",
    "DELETE": "delete",
}


async def understood(raw: aiohttp.web.BaseRequest, place: Place) -> kmock.Request:
    """The request as a kmock request, its path and query interpreted as an API server does.

    kmock itself cannot read the path of all namespaces, takes the path of one namespace for a path
    inside it, and knows neither PUT, nor DELETE of many objects, nor ``watch=1``.
    """
    query, body = dict(raw.query), await raw.read()
    return kmock.Request(
        raw_request=raw,
        url=raw.url,
        method=raw.method,
        params=query,
        headers=dict(raw.headers),
        body=body,
        data=_decoded(body) if body else None,
        action=kmock.action(_action(raw.method, query, place)),
        resource=kmock.resource(
            place.resource.group, place.resource.version, place.resource.plural
        ),
        namespace=place.namespace or None,
        name=place.name or None,
        subresource=place.subresource or None,
    )


def place_of(request: kmock.Request, known: Resources) -> Place:
    """The place that a request's path names. Raises ApiError (404)."""
    found = known.place(request.url.path)
    if found is None:
        raise errors.no_such_path()
    return found


def verb(request: kmock.Request) -> str:
    """The verb of a request: get, list, watch, create, update, patch or delete."""
    if request.action is not None and request.action.value in _VERBS:
        return _VERBS[request.action.value]
    return "update" if request.method.value == "PUT" else "patch"


def _action(method: str, query: Mapping[str, str], place: Place) -> str:
    """kmock's name for the kind of request. Raises ApiError (405)."""
    if method == "GET":
        if query.get("watch") in watching.TRUE:
            return "WATCH"
        return "FETCH" if place.name else "LIST"
    if method == "POST" and not place.name and bool(place.namespace) == place.resource.namespaced:
        return "CREATE"
    if method in {"PUT", "PATCH"} and place.name:
        return "UPDATE"
    if method == "DELETE" and not place.subresource:
        return "DELETE"
    raise errors.not_allowed()


def _decoded(body: bytes) -> object:
    try:
        return serving.decode(body)
    except ValueError as error:
        raise errors.bad_request(f"the body of the request is no JSON: {error}") from None
