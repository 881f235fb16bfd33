"""The objects of a lab, kept by an API server."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import urlencode

from cubelet.lab.errors import LabError
from cubelet.lab.kinds import DEFINITION, Key, Kind, Manifest, file_name, key_of, kind_named
from cubelet.lab.transport import Answer, Transport

LABEL: Final = "cubelet.io/lab"
"""The label of all objects that a lab makes on a foreign server; its value is the lab's name."""

_ACCOUNT_LIMIT: Final = 10.0  # seconds until a new namespace has its default service account
_DEFINITION_LIMIT: Final = 10.0  # seconds until the server serves a kind that was just defined
_SERVERS: Final = ("uid", "resourceVersion", "creationTimestamp", "generation", "managedFields")


class ApiObjects:
    """Implements `cubelet.lab.store.Keeper` by requests to an API server.

    ``owner`` is the lab's name on a foreign server: then only objects with the lab's label are
    read, changed and removed, and all new objects get it.
    """

    allocates: Final = True
    defines: Final = True

    def __init__(self, transport: Transport, owner: str = "") -> None:
        self._transport = transport
        self._owner = owner

    def get(self, key: Key) -> Manifest | None:
        """The object of that key, None if there is none."""
        found = self._read(key)
        return found if found is not None and self._ours(found) else None

    def list(self, kind: str, namespace: str = "") -> list[Manifest]:
        """All objects of a kind, of one namespace if given, by namespace and name."""
        known = kind_named(kind)
        query = "?" + urlencode({"labelSelector": f"{LABEL}={self._owner}"}) if self._owner else ""
        # Without the definition of a cube's kind the server has no such path, and no objects.
        answer = self._call("GET", _path(known, namespace) + query, missing=True)
        if answer.status == 404:
            return []
        head = {"apiVersion": known.api_version, "kind": known.name}
        return sorted(({**head, **item} for item in answer.body["items"]), key=key_of)

    def put(self, manifest: Manifest) -> bool:
        """Store an object; false if that changed nothing."""
        key = key_of(manifest)
        old = self._read(key)
        if old is None:
            self._create(key, manifest)
            if key.kind == DEFINITION:
                self._wait_served(manifest)
            return True
        if not self._ours(old):
            if key.kind in ("Namespace", DEFINITION):
                return False  # the cluster's own, which the lab may use
            raise LabError(f"{key}: exists on the API server and is not this lab's")
        # Send no resourceVersion: the lab's write wins over concurrent changes.
        metadata = {each: old["metadata"][each] for each in _SERVERS[2:] if each in old["metadata"]}
        wanted = self._marked(manifest, metadata)
        changed = self._call("PUT", _of(key), wanted).body
        return self._put_status(key, manifest, changed) != _version(old)

    def remove(self, key: Key) -> bool:
        """Remove an object; false if it was not there (or is not the lab's)."""
        if self._owner and self.get(key) is None:
            return False
        options = {"gracePeriodSeconds": 0} if key.kind == "Pod" else None
        return self._call("DELETE", _of(key), options, missing=True).status != 404

    def _create(self, key: Key, manifest: Manifest) -> None:
        made = self._marked(manifest, {})
        made["metadata"].pop("uid", None)  # the server gives it one
        path = _path(kind_named(key.kind), key.namespace)
        deadline = time.monotonic() + _ACCOUNT_LIMIT
        while True:
            try:
                stored = self._call("POST", path, made).body
                break
            except LabError as error:
                if not self._served(_path(kind_named(key.kind))):
                    remedy = f"apply the {DEFINITION} of {key.kind} first"
                    raise LabError(f"{key}: the API server has no {key.kind}; {remedy}") from error
                # Where pods need a service account, a new namespace does not have it at once.
                if "serviceaccount" not in str(error) or time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
        self._put_status(key, manifest, stored)

    def _wait_served(self, definition: Manifest) -> None:
        """Wait until the server serves what was just defined, in all versions."""
        spec = definition["spec"]
        group, plural = spec["group"], spec["names"]["plural"]
        left = [f"/apis/{group}/{v['name']}/{plural}" for v in spec["versions"] if v.get("served")]
        deadline = time.monotonic() + _DEFINITION_LIMIT
        while left := [path for path in left if not self._served(path)]:
            if time.monotonic() > deadline:
                message = f"the API server does not serve {left[0]}"
                raise LabError(f"{message} {_DEFINITION_LIMIT:g} s after it was defined")
            time.sleep(0.1)

    def _served(self, path: str) -> bool:
        """Whether the server has the kind of this path."""
        return self._call("GET", f"{path}?limit=1", missing=True).status != 404

    def _put_status(self, key: Key, manifest: Manifest, stored: Manifest) -> str:
        """Store the status, if it is a subresource of the kind; returns the resulting version."""
        status = manifest.get("status")
        if not kind_named(key.kind).status or status in (None, stored.get("status")):
            return _version(stored)
        # Send no resourceVersion: others, such as an agent, may change the object meanwhile.
        metadata = {k: v for k, v in stored["metadata"].items() if k != "resourceVersion"}
        changed = {**stored, "metadata": metadata, "status": status}
        return _version(self._call("PUT", f"{_of(key)}/status", changed).body)

    def _marked(self, manifest: Manifest, metadata: Mapping[str, Any]) -> Manifest:
        """The manifest as it is sent: complete, the lab's label on it, without a status."""
        kind = kind_named(str(manifest["kind"]))
        kept = {k: v for k, v in manifest["metadata"].items() if k not in _SERVERS[1:]}
        labels = {**(kept.get("labels") or {}), **({LABEL: self._owner} if self._owner else {})}
        head = {"apiVersion": kind.api_version, "metadata": {**metadata, **kept, "labels": labels}}
        return {**{k: v for k, v in manifest.items() if k != "status"}, **head}

    def _ours(self, manifest: Manifest) -> bool:
        labels = manifest["metadata"].get("labels") or {}
        return not self._owner or labels.get(LABEL) == self._owner

    def _read(self, key: Key) -> Manifest | None:
        answer = self._call("GET", _of(key), missing=True)
        return None if answer.status == 404 else answer.body

    def _call(
        self, method: str, path: str, body: object = None, *, missing: bool = False
    ) -> Answer:
        """Make a request; 404 is an answer if the object may be ``missing``, else a LabError."""
        answer = self._transport.call(method, path, body)
        if answer.status >= 400 and not (missing and answer.status == 404):
            said = answer.body.get("message") or answer.status
            raise LabError(f"{method} {path.partition('?')[0]}: {said}")
        return answer


def _path(kind: Kind, namespace: str = "") -> str:
    inside = f"/namespaces/{namespace}" if namespace else ""
    return f"{kind.path}{inside}/{kind.plural}"


def _of(key: Key) -> str:
    file_name(key)  # raises LabError for a name that would lead to another path
    return f"{_path(kind_named(key.kind), key.namespace)}/{key.name}"


def _version(manifest: Manifest) -> str:
    return str(manifest["metadata"]["resourceVersion"])
