"""PATCH: applies the three types of patches to an object."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

from cubelet.lab.apiserver import errors

Object = dict[str, Any]

# Lists whose items are merged by one of their fields, by the patch strategies in the Go types of
# k8s.io/api. Other lists, such as a node's taints, are replaced as a whole.
_KEYS: Final[Mapping[tuple[str, ...], str]] = {
    ("metadata", "ownerReferences"): "uid",
    ("spec", "containers"): "name",
    ("spec", "initContainers"): "name",
    ("spec", "ports"): "port",  # a Service's
    ("status", "addresses"): "type",  # a node's
    ("status", "conditions"): "type",
    ("status", "hostIPs"): "ip",
    ("status", "podIPs"): "ip",
}
_SETS: Final = (("metadata", "finalizers"), ("spec", "podCIDRs"))  # values are added, not replaced


def merge(target: Any, patch: Any) -> Any:
    """A JSON merge patch (RFC 7396): null removes a member, a list replaces a list."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge(merged.get(key), value)
    return merged


def strategic(target: Any, patch: Any, path: tuple[str, ...] = ()) -> Any:
    """A strategic merge patch: like `merge`, with the items of some lists merged by their key."""
    if isinstance(patch, list):
        return _merge_list(target if isinstance(target, list) else [], patch, path)
    if not isinstance(patch, dict):
        return patch
    if patch.get("$patch") == "replace":
        return {key: value for key, value in patch.items() if key != "$patch"}
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if key.startswith("$setElementOrder/"):
            continue  # the order of these lists does not matter here
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [each for each in merged.get(name) or [] if each not in value]
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = strategic(merged.get(key), value, (*path, key))
    return merged


def json_patch(target: Object, operations: Any) -> Any:
    """A JSON patch (RFC 6902). Raises ApiError (422) when an operation cannot be applied."""
    from jsonpatch import JsonPatch, JsonPatchException
    from jsonpointer import JsonPointerException

    try:
        return JsonPatch(operations).apply(target)
    except (JsonPatchException, JsonPointerException, TypeError) as error:
        message = f"the server rejected our request due to an error in our request: {error}"
        raise errors.ApiError(422, "Invalid", message) from error


TYPES: Final[Mapping[str, Callable[[Object, Any], Any]]] = {
    "application/json-patch+json": json_patch,
    "application/merge-patch+json": merge,
    "application/strategic-merge-patch+json": strategic,
}
"""The function that applies a patch, by its content type."""


def _merge_list(target: list[Any], patch: list[Any], path: tuple[str, ...]) -> list[Any]:
    if path in _SETS:
        return target + [each for each in patch if each not in target]
    key = _KEYS.get(path)
    if key is None or not all(isinstance(each, dict) for each in patch):
        return patch
    if {"$patch": "replace"} in patch:
        return [each for each in patch if "$patch" not in each]
    merged = {each.get(key): each for each in target}
    for each in patch:
        identity = each.get(key)
        if each.get("$patch") == "delete":
            merged.pop(identity, None)
        else:
            merged[identity] = strategic(merged.get(identity), each)
    return list(merged.values())
