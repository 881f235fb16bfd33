"""Client of the agent's Unix socket; :mod:`cubelet_hooks.command` describes the protocol.

It imports little, and only of the standard library, so that commands start quickly.
"""

from __future__ import annotations

from cubelet_hooks.command import (
    DEFAULT_SOCKET,
    INTERNAL_ERROR,
    INVALID_REQUEST,
    SOCKET_VARIABLE,
    UNKNOWN_METHOD,
    AgentBusyError,
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
    "AgentBusyError",
    "AgentError",
    "AgentUnreachableError",
    "call",
    "stream",
]
