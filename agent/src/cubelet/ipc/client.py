"""Client of the agent's Unix socket; the protocol is told in :mod:`cubelet_hooks.command`.

Imports only the standard library, and little of it: commands start quickly.
"""

from __future__ import annotations

from cubelet_hooks.command import (
    DEFAULT_SOCKET,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    SOCKET_VARIABLE,
    UNKNOWN_METHOD,
    AgentError,
    AgentUnreachableError,
    call,
    stream,
)

__all__ = [
    "DEFAULT_SOCKET",
    "INTERNAL_ERROR",
    "INVALID_REQUEST",
    "SOCKET_VARIABLE",
    "UNKNOWN_METHOD",
    "AgentError",
    "AgentUnreachableError",
    "call",
    "stream",
]
