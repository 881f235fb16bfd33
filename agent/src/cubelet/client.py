"""Client of the agent's Unix socket, for the command line and the CNI plugin.

Imports only the standard library, and little of it: the CNI plugin starts once per pod operation.

One connection carries one request line ``{"method": str, "params": {...}}`` and its reply lines,
each ``{"result": ...}`` or ``{"error": {"code": int, "message": str, "details": str}}``; then the
agent closes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DEFAULT_SOCKET = "/run/cubelet/agent.sock"

# Codes of the transport itself, those of JSON-RPC 2.0; positive codes belong to the method called.
INVALID_REQUEST = -32600
UNKNOWN_METHOD = -32601
INTERNAL_ERROR = -32603


class AgentError(Exception):
    """An error answered by the agent: a number, one line for people, and its cause or remedy."""

    def __init__(self, code: int, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def to_json(self) -> dict[str, Any]:
        """The error member of a reply."""
        return {"code": self.code, "message": self.message, "details": self.details}


class AgentUnreachableError(AgentError):
    """No agent answers on the socket, or it went away before it answered."""

    def __init__(self, path: str, cause: str) -> None:
        super().__init__(
            INTERNAL_ERROR,
            f"no cubelet agent answers on {path}",
            f"{cause}; start it with `cubelet agent`, or name its socket if it listens elsewhere",
        )


def call(
    path: str, method: str, params: Mapping[str, Any] | None = None, timeout: float = 30.0
) -> Any:
    """The one result of `method`.

    Raises AgentError as answered, AgentUnreachableError when there is no agent or no answer within
    `timeout` seconds.
    """
    for result in stream(path, method, params, timeout):
        return result
    raise AgentUnreachableError(path, "the agent closed the connection without an answer")


def stream(
    path: str, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
) -> Iterator[Any]:
    """The results of `method` as they come; closing the iterator ends the call at the agent.

    `timeout` bounds, in seconds, the wait for each result; None waits for ever. Raises as `call`
    does.
    """
    import json
    import socket

    request = json.dumps({"method": method, "params": dict(params or {})}).encode() + b"\n"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout)
        try:
            connection.connect(path)
            connection.sendall(request)
            with connection.makefile("rb") as replies:
                for line in replies:
                    reply = json.loads(line)
                    if "error" in reply:
                        raise AgentError(**reply["error"])
                    yield reply["result"]
        except TimeoutError as error:
            raise AgentUnreachableError(path, f"no answer within {timeout} s") from error
        except (OSError, ValueError) as error:
            raise AgentUnreachableError(path, str(error)) from error
