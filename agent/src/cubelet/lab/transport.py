"""Requests to an API server: the lab's own, or the one that a kubeconfig names."""

from __future__ import annotations

import json
import socket
from contextlib import closing
from http.client import HTTPConnection, HTTPException
from pathlib import Path
from typing import Any, Final, NamedTuple, Protocol

from cubelet.lab import netns
from cubelet.lab.errors import LabError
from cubelet.net.netns import opened, run_in

_TIMEOUT: Final = 15.0


class Answer(NamedTuple):
    """A status, and the object that came with it."""

    status: int
    body: dict[str, Any]


class Transport(Protocol):
    """Makes requests to an API server. Calls can be made from several threads at once."""

    def call(self, method: str, path: str, body: object = None) -> Answer:
        """Make one request, with JSON in both directions. Raises LabError without an answer."""


class NetnsTransport:
    """Plain HTTP to a server in another network namespace, which the caller does not enter."""

    def __init__(self, name: str, address: str, port: int) -> None:
        self._netns = name
        self._peer = (address, port)

    def call(self, method: str, path: str, body: object = None) -> Answer:
        """Implement `Transport`."""
        connection = HTTPConnection(*self._peer, timeout=_TIMEOUT)
        text = None if body is None else json.dumps(body)
        try:
            with closing(connection), opened(str(netns.path(self._netns))) as namespace:
                # A socket stays in the namespace in which it was made.
                connection.sock = run_in(
                    namespace, lambda: socket.create_connection(self._peer, _TIMEOUT)
                )
                connection.request(method, path, text, {"Content-Type": "application/json"})
                response = connection.getresponse()
                return _answer(response.status, response.read())
        except (OSError, HTTPException) as error:
            raise LabError(f"the lab's API server does not answer: {error}") from error


class KubeconfigTransport:
    """The official client, with the kubeconfig's address, TLS settings and credentials."""

    def __init__(self, kubeconfig: Path) -> None:
        from kubernetes import config

        try:
            self._client = config.new_client_from_config(str(kubeconfig))
        except Exception as error:  # the loader raises errors of YAML, files, TLS and its own
            raise LabError(f"kubeconfig {kubeconfig} cannot be used: {error}") from error

    @property
    def server(self) -> str:
        """The server's URL."""
        return str(self._client.configuration.host)

    def call(self, method: str, path: str, body: object = None) -> Answer:
        """Implement `Transport`."""
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        try:
            request = self._client.param_serialize(
                method, path, header_params=headers, body=body, auth_settings=["BearerToken"]
            )
            answer = self._client.call_api(*request[:4], _request_timeout=_TIMEOUT)
            return _answer(answer.status, answer.read())
        except Exception as error:  # of urllib3, the client, or the credentials' plugin
            raise LabError(f"the API server {self.server} does not answer: {error}") from error


def _answer(status: int, content: bytes) -> Answer:
    try:
        body = json.loads(content)
    except ValueError:
        body = {"message": content.decode(errors="replace").strip()}
    return Answer(status, body if isinstance(body, dict) else {})
