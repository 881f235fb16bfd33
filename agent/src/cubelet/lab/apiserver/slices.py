"""The endpoint slice controller: keeps a Service's slices up to date with its pods.

The slices are derived as the agent does it for a folder of manifests; here they become objects of
the server, changed and removed as pods, readiness and selectors change.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Final

from cubelet.lab.apiserver import serving
from cubelet.lab.apiserver.history import Event, Stored
from cubelet.lab.apiserver.resources import Resource, named
from cubelet.lab.apiserver.store import Object, Store
from cubelet.sources.decode import ObjectError, decode_object
from cubelet.sources.derive import EndpointDeriver
from cubelet_hooks.objects import Change, Endpoint, EndpointSlice
from cubelet_hooks.objects import Object as Typed

MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
MANAGER: Final = "endpointslice-controller.k8s.io"

_log: Final = logging.getLogger(__name__)
_SLICES: Final = named("endpointslices")
_WATCHED: Final = (named("services"), _SLICES, named("pods"))


class SliceController:
    """Keeps the slices of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._deriver = EndpointDeriver()
        self._known: dict[tuple[str, str], Typed] = {}
        self._wanted: dict[str, EndpointSlice] = {}

    async def run(self) -> None:
        """Follow the store until cancelled."""
        with self._store.lock:
            version = self._store.version
            readers = {each: self._store.since(each, version)[1] for each in _WATCHED}
            for resource in _WATCHED:
                for stored in self._store.all(resource):
                    self._take(resource, stored.key, stored)
            self._remove_leftovers()

        async def follow(resource: Resource) -> None:
            while True:
                event = await readers[resource].get(None)
                if event is not None:  # None ends watches of clients, not this controller
                    self._follow(resource, event)

        try:
            async with asyncio.TaskGroup() as tasks:
                for resource in _WATCHED:
                    tasks.create_task(follow(resource))
        finally:
            for resource, reader in readers.items():
                self._store.unsubscribe(resource, reader)

    def _follow(self, resource: Resource, event: Event) -> None:
        assert event.new is not None
        gone = event.type == "DELETED"
        self._take(resource, event.new.key, None if gone else event.new)
        if gone and resource is _SLICES:
            removed = self._wanted.get("/".join(event.new.key))
            if removed is not None:  # a client has deleted it, but it is still needed
                self._put(removed)

    def _take(self, resource: Resource, key: tuple[str, str], stored: Stored | None) -> None:
        """Take in an object's state (None: deleted), and change the slices that depend on it."""
        if stored is not None and stored.labels.get(MANAGED_BY) == MANAGER:
            return  # one of ours
        name = f"{resource.kind} {key[0]}/{key[1]}"
        old = self._known.get((resource.kind, "/".join(key)))
        new = self._read(stored, name) if stored is not None else None
        if old is None and new is None:
            return
        change = Change.between(old, new)
        if new is None:
            del self._known[resource.kind, change.key]
        else:
            self._known[resource.kind, change.key] = new
        for each in self._deriver.apply(change)[1:]:
            self._apply(each)

    def _read(self, stored: Stored, name: str) -> Typed | None:
        try:
            return decode_object(serving.decode(stored.body))
        except ObjectError as error:
            _log.warning("%s has no endpoints: %s", name, error)
            return None

    def _apply(self, change: Change) -> None:
        if isinstance(change.new, EndpointSlice):
            self._wanted[change.key] = change.new
            self._put(change.new)
        elif self._wanted.pop(change.key, None):
            namespace, _, name = change.key.partition("/")
            if self._store.has(_SLICES, (namespace, name)):
                self._store.delete(_SLICES, (namespace, name))

    def _put(self, wanted: EndpointSlice) -> None:
        key, made = (wanted.namespace, wanted.name), manifest(wanted)
        with self._store.lock:
            if self._store.has(_SLICES, key):
                self._store.change(_SLICES, key, lambda _old: made)
            elif self._store.has(named("namespaces"), ("", wanted.namespace)):
                self._store.create(_SLICES, made)

    def _remove_leftovers(self) -> None:
        """Remove slices of an earlier controller that are no longer wanted."""
        for each in self._store.all(_SLICES):
            ours = each.labels.get(MANAGED_BY) == MANAGER
            if ours and "/".join(each.key) not in self._wanted:
                self._store.delete(_SLICES, each.key)


def manifest(wanted: EndpointSlice) -> Object:
    """A slice as an object of the API."""
    return {
        "apiVersion": _SLICES.api_version,
        "kind": _SLICES.kind,
        "metadata": {
            "name": wanted.name,
            "namespace": wanted.namespace,
            "labels": {"kubernetes.io/service-name": wanted.service, MANAGED_BY: MANAGER},
        },
        "addressType": wanted.address_type,
        "endpoints": [_endpoint(each) for each in wanted.endpoints],
        "ports": [
            {"name": each.name, "protocol": each.protocol, "port": each.port}
            for each in wanted.ports
        ],
    }


def _endpoint(endpoint: Endpoint) -> Object:
    namespace, _, name = endpoint.target.partition("/")
    return {
        "addresses": [str(address) for address in endpoint.addresses],
        "conditions": {
            "ready": endpoint.ready,
            "serving": endpoint.serving,
            "terminating": endpoint.terminating,
        },
        "targetRef": {"kind": "Pod", "namespace": namespace, "name": name},
        **({"nodeName": endpoint.node_name} if endpoint.node_name else {}),
    }
