"""Lets the commands ``cubelet KIND ...`` ask the running agent's cube, over the agent's socket.

A cube names a Typer application in ``Cube.commands``, in a module that the agent never imports:

    # cubelet_quota/commands.py
    import typer
    from cubelet_hooks.command import ask

    app = typer.Typer(help="Budgets of pods.", no_args_is_help=True)

    @app.command()
    def left(pod: str, instance: str = "quota") -> None:
        "Print how many bytes a pod may still send."
        print(ask(instance, "left", pod=pod)["bytes"])

    # cubelet_quota/cube.py
    class Quota(Cube):
        kind = "quota"
        commands = "cubelet_quota.commands:app"

        def answer(self, method, params, context):
            if method != "left":
                return super().answer(method, params, context)
            budget = context.table("budgets").get(Key(ip_address(params["pod"])))
            if budget is None:
                raise AgentError(1, f"{params['pod']} has no budget", "see: kubectl get budgets")
            return {"bytes": budget.left}

``cubelet quota left 10.1.0.2`` then prints the number. An AgentError is printed to standard error
and ends the command with status 1. This module imports only the standard library.

One connection carries one request line ``{"method": str, "params": {...}}`` and its reply lines,
each ``{"result": ...}`` or ``{"error": {"code": int, "message": str, "details": str}}``; then the
agent closes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

DEFAULT_SOCKET = "/run/cubelet/agent.sock"
SOCKET_VARIABLE = "CUBELET_SOCKET"
"""The environment variable with the path of the agent's socket; unset: ``DEFAULT_SOCKET``."""

# Error codes of the transport are those of JSON-RPC 2.0; positive codes are the called method's.
INVALID_REQUEST = -32600
UNKNOWN_METHOD = -32601
INTERNAL_ERROR = -32603


class AgentError(Exception):
    """An error answered by the agent: a number, one line for people, and its cause or remedy.

    ``Cube.answer`` raises it with a positive code for what the caller got wrong.
    """

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


class AgentBusyError(AgentUnreachableError):
    """An agent listens on the socket, and does not answer in time."""

    def __init__(self, path: str, seconds: float | None) -> None:
        AgentError.__init__(
            self,
            INTERNAL_ERROR,
            f"the cubelet agent on {path} is there and has not answered within {seconds:g} s",
            "it is busy, or the machine is: see `cubelet status`, and the agent's log",
        )


def ask(
    instance: str,
    method: str,
    *,
    socket: str | None = None,
    timeout: float = 30.0,
    **params: Any,
) -> Any:
    """Call a composed cube's ``answer`` in the agent and return its result: plain JSON values.

    ``instance`` is the instance's name, or its kind if there is but one. ``socket`` is where the
    agent listens: by default what ``CUBELET_SOCKET`` names, else the usual place. Raises
    AgentError as answered, AgentUnreachableError when there is no agent, AgentBusyError when it has
    not answered within ``timeout`` seconds.
    """
    import os

    path = socket or os.environ.get(SOCKET_VARIABLE) or DEFAULT_SOCKET
    return call(path, "cube", {**params, "instance": instance, "method": method}, timeout)


def call(
    path: str, method: str, params: Mapping[str, Any] | None = None, timeout: float = 30.0
) -> Any:
    """Call one of the agent's own methods and return its one result.

    Raises AgentError as answered, AgentUnreachableError when there is no agent, AgentBusyError when
    it has not answered within ``timeout`` seconds.
    """
    for result in stream(path, method, params, timeout):
        return result
    raise AgentUnreachableError(path, "the agent closed the connection without an answer")


def stream(
    path: str, method: str, params: Mapping[str, Any] | None = None, timeout: float | None = None
) -> Iterator[Any]:
    """Yield the results of ``method`` as they come; closing the iterator ends the agent's call.

    ``timeout`` bounds, in seconds, the wait for each result; None waits for ever. Raises as
    ``call`` does.
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
        except (TimeoutError, BlockingIOError) as error:  # the latter: many others wait, too
            raise AgentBusyError(path, timeout) from error
        except (OSError, ValueError) as error:
            raise AgentUnreachableError(path, str(error)) from error
