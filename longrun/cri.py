"""A client of the Container Runtime Interface (`runtime.v1`), for what a kubelet asks of sandboxes.

Messages are written and read by hand: six fields of three messages need no generated code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc

_SERVICE: Final = "/runtime.v1.RuntimeService"
_LIMIT: Final = 120.0
"""Seconds for a call, as a kubelet has it."""
_PROTOCOLS: Final = {"TCP": 0, "UDP": 1, "SCTP": 2}
_LOGS: Final = "/nonexistent"

Value = int | str | bytes


class CriError(Exception):
    """The runtime refused a call; the text is its reason."""


@dataclass(frozen=True)
class Sandbox:
    """A pod as a kubelet asks for it. `attempt` counts the sandboxes under one UID."""

    name: str
    uid: str
    host_port: int
    port: int
    attempt: int = 0
    namespace: str = "default"


class Runtime:
    """The runtime that listens on a Unix socket."""

    def __init__(self, socket: Path) -> None:
        self._channel = grpc.insecure_channel(f"unix:{socket}")
        self._sandboxes: set[str] = set()

    def close(self) -> None:
        """Remove the sandboxes that are left, and end the connection."""
        for sandbox in tuple(self._sandboxes):
            with contextlib.suppress(CriError):
                self.stop(sandbox)
                self.remove(sandbox)
        self._channel.close()

    def run(self, pod: Sandbox) -> str:
        """Start a sandbox; its id. Raises CriError."""
        metadata = _fields((1, pod.name), (2, pod.uid), (3, pod.namespace), (4, pod.attempt))
        mapping = _fields((1, _PROTOCOLS["TCP"]), (2, pod.port), (3, pod.host_port))
        linux = _fields((1, "/"))
        config = _fields((1, metadata), (2, pod.name), (3, _LOGS), (5, mapping), (8, linux))
        answer = self._call("RunPodSandbox", _fields((1, config)))
        sandbox = next(value.decode() for number, value in _read(answer) if number == 1)
        self._sandboxes.add(sandbox)
        return sandbox

    def stop(self, sandbox: str) -> None:
        """Stop a sandbox, and take its network down. Raises CriError."""
        self._call("StopPodSandbox", _fields((1, sandbox)))

    def remove(self, sandbox: str) -> None:
        """Remove a stopped sandbox. Raises CriError."""
        self._call("RemovePodSandbox", _fields((1, sandbox)))
        self._sandboxes.discard(sandbox)

    def _call(self, method: str, request: bytes) -> bytes:
        try:
            answer: bytes = self._channel.unary_unary(f"{_SERVICE}/{method}")(request, _LIMIT)
        except grpc.RpcError as error:
            raise CriError(f"{method}: {error.details()}") from error
        return answer


def _fields(*fields: tuple[int, Value]) -> bytes:
    """A message of protocol buffers: numbers as varints, all else by its length."""
    return b"".join(_field(number, value) for number, value in fields)


def _field(number: int, value: Value) -> bytes:
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    content = value.encode() if isinstance(value, str) else value
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*found, value])


def _read(message: bytes) -> Iterator[tuple[int, bytes]]:
    """The fields of a message whose fields are texts of less than 128 bytes."""
    place = 0
    while place < len(message):
        size = message[place + 1]
        yield message[place] >> 3, message[place + 2 : place + 2 + size]
        place += 2 + size
