"""All objects of the cluster, under one version that every change increases."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from cubelet.lab.apiserver import errors
from cubelet.lab.apiserver.definitions import DEFINITIONS, defined_by
from cubelet.lab.apiserver.history import Event, EventType, History, Stored, Subscription
from cubelet.lab.apiserver.resources import Resource, Resources

Object = dict[str, Any]
Key = tuple[str, str]
"""Namespace (empty for cluster-wide objects) and name."""

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(dict[str, Any]).decode


class Store:
    """Objects as JSON by resource and key. Methods can be called from any thread."""

    def __init__(self, history: int = 10_000) -> None:
        """Keep the last ``history`` events of each resource for watches to resume from."""
        self.lock: Final = threading.RLock()
        self.version = 1
        self.resources: Final = Resources()
        self._history = history
        self._tables: Final[dict[Resource, dict[Key, Stored]]] = {}
        self._histories: Final[dict[Resource, History]] = {}
        self._sorted: dict[Resource, tuple[Stored, ...]] = {}
        self.on_register: Final[list[Callable[[Resource], None]]] = []
        for each in self.resources:
            self.register(each)

    def register(self, resource: Resource) -> None:
        """Keep objects of one more kind from now on."""
        with self.lock:
            self.resources.add(resource)
            self._tables.setdefault(resource, {})
            self._histories.setdefault(resource, History(self._history))
            for told in self.on_register:
                told(resource)

    def unregister(self, resource: Resource) -> None:
        """Remove all objects of a kind, end its watches, and forget the kind."""
        with self.lock:
            for each in tuple(self._tables[resource].values()):
                self._forget(resource, each, _decode(each.body))
            self.end_watches(resource)
            self.resources.remove(resource)

    def get(self, resource: Resource, key: Key) -> Stored:
        """One object. Raises ApiError (404)."""
        try:
            return self._tables[resource][key]
        except KeyError:
            raise errors.not_found(resource, key[1]) from None

    def has(self, resource: Resource, key: Key) -> bool:
        """Whether there is such an object."""
        return key in self._tables[resource]

    def read(self, resource: Resource, key: Key) -> Object:
        """One object, decoded. Raises ApiError (404)."""
        return _decode(self.get(resource, key).body)

    def all(self, resource: Resource) -> tuple[Stored, ...]:
        """All objects of a resource, by namespace and name; the tuple is never changed."""
        with self.lock:
            if resource not in self._sorted:
                table = self._tables[resource]
                self._sorted[resource] = tuple(sorted(table.values(), key=lambda each: each.key))
            return self._sorted[resource]

    def create(self, resource: Resource, manifest: Object) -> Stored:
        """Add an object, with its metadata completed. Raises ApiError (409) if it exists."""
        with self.lock:
            key = key_of(resource, manifest)
            if key in self._tables[resource]:
                raise errors.exists(resource, key[1])
            return self._save(resource, "ADDED", None, fresh(resource, manifest))

    def change(self, resource: Resource, key: Key, edit: Callable[[Object], Object]) -> Stored:
        """Replace an object by the result of ``edit``, which may change its argument in place.

        Fields of the server stay: name, uid, time of creation and of deletion. An unchanged object
        keeps its version. An object that is being deleted and has no finalizers any more is
        removed. Raises ApiError: 404, 409 if the result names another version or uid than the
        object has, and errors of ``edit``.
        """
        with self.lock:
            old = self.get(resource, key)
            before = _decode(old.body)
            after = edit(_decode(old.body))
            after = _succeed(resource, old, before, after)
            if after == before:
                return old
            if "deletionTimestamp" in after["metadata"] and not after["metadata"].get("finalizers"):
                return self._forget(resource, old, after)
            return self._save(resource, "MODIFIED", old, after)

    def delete(self, resource: Resource, key: Key, *, grace: int = 0) -> Stored:
        """Remove an object; returns its last state.

        With finalizers, or seconds of ``grace``, it is only marked as being deleted. The objects of
        a deleted namespace are removed too. Raises ApiError (404).
        """
        with self.lock:
            old = self.get(resource, key)
            manifest = _decode(old.body)
            metadata = manifest["metadata"]
            if metadata.get("finalizers") or grace:
                if "deletionTimestamp" in metadata:
                    return old
                metadata.update(deletionTimestamp=now(), deletionGracePeriodSeconds=grace)
                return self._save(resource, "MODIFIED", old, manifest)
            if resource.kind == "Namespace":
                self._empty(old.name)
            return self._forget(resource, old, manifest)

    def load(self, resource: Resource, manifests: Iterable[Object]) -> int:
        """Store many objects at once, without events; returns how many.

        For a server without watches yet: watches that resume from before it get a 410. The
        manifests are completed in place.
        """
        count = 0
        with self.lock:
            for manifest in manifests:
                self.version += 1
                stored = _stored(resource, fresh(resource, manifest), self.version)
                self._tables[resource][stored.key] = stored
                count += 1
            self._sorted.pop(resource, None)
            self._histories[resource].forget(self.version)
        return count

    def since(self, resource: Resource, version: int) -> tuple[list[Event], Subscription]:
        """The events after ``version``, and a subscription to later ones. Raises ApiError (410)."""
        with self.lock:
            history = self._histories[resource]
            return history.since(version), history.subscribe()

    def unsubscribe(self, resource: Resource, reader: Subscription) -> None:
        """Stop feeding a reader that `since` returned."""
        with self.lock:
            self._histories[resource].unsubscribe(reader)

    def bookmark(self, reader: Subscription) -> None:
        """Hand a reader the present version, after all events up to it."""
        with self.lock:
            reader.put(Event("BOOKMARK", self.version))

    def expire(self, resource: Resource) -> None:
        """Forget a resource's events: watches that resume from an older version get a 410."""
        with self.lock:
            self.version += 1  # so that a client at the present version gets a 410, too
            self._histories[resource].forget(self.version)

    def end_watches(self, resource: Resource) -> None:
        """Let all running watches of a resource end cleanly."""
        with self.lock:
            self._histories[resource].end_readers()

    def dump(self) -> Mapping[str, Any]:
        """All objects, for `restore`."""
        with self.lock:
            tables = {
                each.key: [msgspec.Raw(one.body) for one in table.values()]
                for each, table in self._tables.items()
            }
            return {"version": self.version, "objects": tables}

    def restore(self, dumped: Mapping[str, Any]) -> None:
        """Load the `dump` of an earlier server; its versions stay valid."""
        with self.lock:
            self.version = int(dumped["version"])
            for definition in dumped["objects"].get(DEFINITIONS.key, ()):
                self.register(defined_by(definition))
            for resource in self.resources:
                for manifest in dumped["objects"].get(resource.key, ()):
                    version = int(manifest["metadata"]["resourceVersion"])
                    stored = _stored(resource, manifest, version)
                    self._tables[resource][stored.key] = stored
                self._histories[resource].forget(self.version)

    def _save(
        self, resource: Resource, type_: EventType, old: Stored | None, manifest: Object
    ) -> Stored:
        self.version += 1
        new = _stored(resource, manifest, self.version)
        self._tables[resource][new.key] = new
        self._tell(resource, Event(type_, self.version, old, new))
        if resource == DEFINITIONS and old is None:
            self.register(defined_by(manifest))
        return new

    def _forget(self, resource: Resource, old: Stored, manifest: Object) -> Stored:
        self.version += 1
        last = _stored(resource, manifest, self.version)
        del self._tables[resource][old.key]
        if resource == DEFINITIONS:
            self.unregister(defined_by(manifest))
        self._tell(resource, Event("DELETED", self.version, old, last))
        return last

    def _tell(self, resource: Resource, event: Event) -> None:
        self._sorted.pop(resource, None)
        self._histories[resource].append(event)

    def _empty(self, namespace: str) -> None:
        for resource in self.resources:
            for each in [
                each for each in self._tables[resource].values() if each.namespace == namespace
            ]:
                self._forget(resource, each, _decode(each.body))


def key_of(resource: Resource, manifest: Mapping[str, Any]) -> Key:
    """The key of a manifest; a missing namespace is ``default`` for namespaced kinds."""
    metadata = manifest["metadata"]
    return (metadata.get("namespace") or "default") if resource.namespaced else "", metadata["name"]


def now() -> str:
    """The time in the format of objects' metadata."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def fresh(resource: Resource, manifest: Object) -> Object:
    """Complete a new object in place, as the server does on creation."""
    manifest["apiVersion"], manifest["kind"] = resource.api_version, resource.kind
    metadata = manifest["metadata"]
    if resource.namespaced:
        metadata["namespace"] = key_of(resource, manifest)[0]
    metadata["uid"] = metadata.get("uid") or str(uuid.uuid4())
    metadata["creationTimestamp"] = now()
    metadata.pop("deletionTimestamp", None)
    if "spec" in manifest:
        metadata["generation"] = 1
    return manifest


def _succeed(resource: Resource, old: Stored, before: Object, after: Object) -> Object:
    """Check a changed object, and restore the fields that a client cannot change."""
    metadata, was = after.setdefault("metadata", {}), before["metadata"]
    if metadata.get("resourceVersion", "") not in {"", was["resourceVersion"]}:
        raise errors.conflict(resource, old.name)
    if metadata.get("uid", "") not in {"", old.uid}:
        why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: "
        raise errors.conflict(resource, old.name, why + old.uid)
    after["apiVersion"], after["kind"] = resource.api_version, resource.kind
    for field in ("name", "namespace", "uid", "creationTimestamp", "resourceVersion"):
        if field in was:
            metadata[field] = was[field]
    for field in ("generation", "deletionTimestamp", "deletionGracePeriodSeconds"):
        metadata.pop(field, None)
        if field in was:
            metadata[field] = was[field]
    if "generation" in was and after.get("spec") != before.get("spec"):
        metadata["generation"] = was["generation"] + 1
    return after


def _stored(resource: Resource, manifest: Object, version: int) -> Stored:
    metadata = manifest["metadata"]
    metadata["resourceVersion"] = str(version)
    node = manifest.get("spec", {}).get("nodeName", "") if resource.kind == "Pod" else ""
    return Stored(
        metadata.get("namespace", "") if resource.namespaced else "",
        metadata["name"],
        metadata["uid"],
        version,
        metadata.get("labels") or {},
        node,
        _encode(manifest),
    )
