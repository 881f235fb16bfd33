"""Serves all requests for objects but lists and watches."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from cubelet.lab import admission
from cubelet.lab.apiserver import errors, patches, serving
from cubelet.lab.apiserver.definitions import DEFINITIONS, defined_by, established
from cubelet.lab.apiserver.history import Stored
from cubelet.lab.apiserver.resources import Place, Resource, named
from cubelet.lab.apiserver.store import Object, Store
from cubelet.lab.errors import LabError

_NAMESPACES: Final = named("namespaces")
_GRACE: Final = 30  # default seconds in which a bound pod has to end


def create(store: Store, place: Place, manifest: object) -> Stored:
    """POST. Raises ApiError: 400 for a malformed object, 404 without its namespace, 409."""
    resource = place.resource
    sent = _object(resource, manifest)
    metadata = sent["metadata"]
    if not metadata.get("name"):
        if not metadata.get("generateName"):
            raise errors.invalid(resource, "", "metadata.name: Required value: name is required")
        metadata["name"] = metadata["generateName"] + secrets.token_hex(3)[:5]
    if metadata.get("resourceVersion"):
        raise errors.bad_request("resourceVersion should not be set on objects to be created")
    if resource.namespaced:
        _match(metadata, "namespace", place.namespace)
        store.get(_NAMESPACES, ("", place.namespace))
    for field in ("uid", "creationTimestamp", "deletionTimestamp"):
        metadata.pop(field, None)
    _begin(resource, sent)
    with store.lock:
        return store.create(resource, _allocated(store, resource, sent, None))


def replace(store: Store, place: Place, manifest: object) -> Stored:
    """PUT, of an object or of its status. Raises ApiError: 400, 404, 409."""
    sent = _object(place.resource, manifest)
    _match(sent["metadata"], "name", place.name)
    if place.resource.namespaced:
        _match(sent["metadata"], "namespace", place.namespace)
    return _change(store, place, lambda _old: sent)


def patch(store: Store, place: Place, content_type: str, changes: object) -> Stored:
    """PATCH, of an object or of its status. Raises ApiError: 400, 404, 409, 415, 422."""
    apply = patches.TYPES.get(content_type)
    if apply is None:
        raise errors.unsupported_media(content_type)
    if not isinstance(changes, list if content_type.startswith("application/json-patch") else dict):
        raise errors.bad_request("the body of the request is no patch of its type")

    def edit(old: Object) -> Object:
        # The version is compared only if the patch names it, as with a real server.
        version = old["metadata"].pop("resourceVersion")
        new = apply(old, changes)
        old["metadata"]["resourceVersion"] = version
        if not isinstance(new, dict) or not isinstance(new.get("metadata"), dict):
            raise errors.bad_request("the patched object has no metadata")
        return new

    return _change(store, place, edit)


def delete(store: Store, place: Place, options: Mapping[str, Any]) -> tuple[Stored, bool]:
    """DELETE; returns the object's last state and whether it is gone. Raises ApiError: 404, 409.

    ``options`` are those of the query and of the body (``DeleteOptions``) together. A pod that is
    bound to a node stays, marked as being deleted, until the kubelet deletes it with a grace period
    of 0.
    """
    with store.lock:
        key = (place.namespace, place.name)
        found = store.get(place.resource, key)
        wanted = options.get("preconditions") or {}
        version = wanted.get("resourceVersion")
        if wanted.get("uid", found.uid) != found.uid or version not in {None, str(found.version)}:
            why = f"Precondition failed: UID {found.uid}, version {found.version}"
            raise errors.conflict(place.resource, place.name, why)
        grace = 0
        if found.node:
            given = options.get("gracePeriodSeconds")
            grace = _GRACE if given is None else int(given)
        last = store.delete(place.resource, key, grace=grace)
        return last, not store.has(place.resource, key)


def _change(store: Store, place: Place, make: Callable[[Object], Object]) -> Stored:
    resource = place.resource

    def edit(old: Object) -> Object:
        status = old.get("status")
        whole = dict(old)
        new = make(old)
        if place.subresource:
            metadata = {**whole["metadata"], **_preconditions(new["metadata"])}
            return {**whole, "metadata": metadata, "status": new.get("status", {})}
        if resource.status:
            new = {key: value for key, value in new.items() if key != "status"}
            new |= {} if status is None else {"status": status}
        return _allocated(store, resource, new, whole)

    return store.change(resource, (place.namespace, place.name), edit)


def _allocated(store: Store, resource: Resource, new: Object, old: Object | None) -> Object:
    """A Service with allocated addresses and node ports; any other object unchanged.

    Raises ApiError (422): also for a CustomResourceDefinition that is unusable, or that would
    change the kind that it has defined.
    """
    if resource == DEFINITIONS:
        kind = defined_by(new)
        if old is not None and kind != defined_by(old):
            why = "spec: what it defines is in use: delete it first"
            raise errors.invalid(resource, new["metadata"]["name"], why)
    if resource.kind != "Service":
        return new
    others = [serving.decode(each.body) for each in store.all(resource)]
    try:
        return admission.service(new, others, old)
    except LabError as error:
        raise errors.invalid(resource, new["metadata"]["name"], str(error)) from None


def _preconditions(metadata: Mapping[str, Any]) -> dict[str, Any]:
    return {key: metadata[key] for key in ("resourceVersion", "uid") if key in metadata}


def _begin(resource: Resource, manifest: Object) -> None:
    """Set the status of a new object, whatever the client sent."""
    if resource.kind == "Pod":
        manifest["status"] = {"phase": "Pending"}
    elif resource.kind == "Service":
        manifest["status"] = {"loadBalancer": {}}
    elif resource == DEFINITIONS:
        manifest["status"] = established(manifest)
    elif resource.kind == "Namespace":
        manifest["status"] = {"phase": "Active"}
        labels = manifest["metadata"].setdefault("labels", {})
        labels["kubernetes.io/metadata.name"] = manifest["metadata"]["name"]


def _object(resource: Resource, manifest: object) -> Object:
    if not isinstance(manifest, dict) or not isinstance(manifest.get("metadata"), dict):
        raise errors.bad_request(f"the body of the request is no {resource.kind} with metadata")
    for field, expected in (("kind", resource.kind), ("apiVersion", resource.api_version)):
        if manifest.get(field, expected) != expected:
            what = f"{field} {manifest[field]!r}, expected {expected!r}"
            raise errors.bad_request(f"the object in the request's body has {what}")
    return manifest


def _match(metadata: Object, field: str, expected: str) -> None:
    given = metadata.setdefault(field, expected)
    if given != expected:
        why = f"the {field} of the object ({given}) does not match the {field} on the URL "
        raise errors.bad_request(f"{why}({expected})")
