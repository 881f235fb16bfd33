"""A plain HTTP client for tests of the lab's API server: no library that hides what comes back."""

from __future__ import annotations

import contextlib
import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode, urlsplit

TYPES = {
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "json": "application/json-patch+json",
}


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def names(self) -> list[str]:
        return [item["metadata"]["name"] for item in self.body["items"]]

    @property
    def version(self) -> str:
        return str(self.body["metadata"]["resourceVersion"])

    @property
    def token(self) -> str:
        return str(self.body["metadata"].get("continue", ""))


class Client:
    def __init__(self, url: str, token: str = "") -> None:
        self._netloc = urlsplit(url).netloc
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}

    def call(
        self, method: str, path: str, body: Any = None, content_type: str = "application/json"
    ) -> Answer:
        connection = http.client.HTTPConnection(self._netloc, timeout=10)
        with contextlib.closing(connection):
            text = body if isinstance(body, bytes | None) else json.dumps(body).encode()
            headers = {**self._headers, "Content-Type": content_type}
            connection.request(method, path, text, headers)
            response = connection.getresponse()
            content = response.read()
            return Answer(response.status, dict(response.headers), json.loads(content))

    def get(self, path: str, **query: str) -> Answer:
        return self.call("GET", f"{path}?{urlencode(query)}" if query else path)

    def patch(self, path: str, how: str, changes: Any) -> Answer:
        return self.call("PATCH", path, changes, TYPES[how])

    @contextlib.contextmanager
    def watch(self, path: str, **query: str) -> Iterator[Watch]:
        connection = http.client.HTTPConnection(self._netloc, timeout=5)
        with contextlib.closing(connection):
            connection.request("GET", f"{path}?{urlencode({'watch': 'true', **query})}")
            yield Watch(connection)


class Watch:
    """The lines of a watch; `line` waits for the next one for at most 5 seconds."""

    def __init__(self, connection: http.client.HTTPConnection) -> None:
        self.connection = connection
        self.response = connection.getresponse()
        self.status = self.response.status

    def line(self) -> bytes:
        return self.response.readline()

    def event(self) -> tuple[str, Any]:
        line = self.line()
        assert line, "the watch has ended"
        event = json.loads(line)
        return event["type"], event["object"]

    def names(self, count: int) -> list[str]:
        """The types and names of the next events, such as ``ADDED a``."""
        events = [self.event() for _ in range(count)]
        return [f"{type_} {each['metadata']['name']}" for type_, each in events]

    def quiet(self, seconds: float) -> bool:
        """Whether nothing comes for so long. To be the last thing that is asked."""
        assert self.connection.sock is not None
        self.connection.sock.settimeout(seconds)
        try:
            self.line()
        except TimeoutError:
            return True
        return False


def node(name: str, **labels: str) -> dict[str, Any]:
    return {"kind": "Node", "metadata": {"name": name, "labels": labels}, "spec": {}}


def pod(name: str, namespace: str = "default", on: str = "", **labels: str) -> dict[str, Any]:
    spec: dict[str, Any] = {"containers": [{"name": "c", "image": "i"}]}
    if on:
        spec["nodeName"] = on
    metadata = {"name": name, "namespace": namespace, "labels": labels}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
