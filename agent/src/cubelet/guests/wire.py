"""Messages between the agent and a guest's process: each whole, with descriptors if it has some."""

from __future__ import annotations

import select
import socket
import struct
from collections.abc import Callable, Sequence

MOST = 32 << 20
"""Bytes of an answer."""
_HEAD = struct.Struct("!I")
_CHUNK = 1 << 18
_DESCRIPTORS = 128

Wait = Callable[[int], None]
"""Returns when the socket may be ready for this event of ``poll``; what it raises ends all."""


class Channel:
    """One end of a pair of sockets. Both methods raise EOFError when the other end is gone.

    The agent waits with a limit, takes no descriptors and messages of up to MOST bytes; who has no
    ``wait`` trusts the other end.
    """

    def __init__(self, end: socket.socket, wait: Wait | None = None) -> None:
        end.setblocking(False)
        self._end = end
        self._wait = wait or self._patient
        self._trusts = wait is None

    def _patient(self, event: int) -> None:
        poller = select.poll()
        poller.register(self._end, event)
        poller.poll()

    def send(self, message: bytes, descriptors: Sequence[int] = ()) -> None:
        """Send a message, the descriptors with its first byte."""
        rest = memoryview(_HEAD.pack(len(message)) + message)
        while rest:
            try:
                sent = socket.send_fds(self._end, [rest[:_CHUNK]], descriptors)
            except BlockingIOError:
                self._wait(select.POLLOUT)
            except OSError as error:
                raise EOFError from error
            else:
                rest, descriptors = rest[sent:], ()

    def receive(self) -> tuple[bytes, list[int]]:
        """The next message and its descriptors. Raises ValueError for one of over MOST bytes."""
        head, descriptors = self._read(_HEAD.size)
        (size,) = _HEAD.unpack(head)
        if size > MOST and not self._trusts:
            raise ValueError(f"a message of {size:,} bytes; at most {MOST:,} are taken")
        message, _ = self._read(size)
        return message, descriptors

    def _read(self, size: int) -> tuple[bytes, list[int]]:
        found, descriptors = bytearray(), list[int]()
        while len(found) < size:
            try:
                part = self._part(min(size - len(found), _CHUNK), descriptors)
            except BlockingIOError:
                self._wait(select.POLLIN)
                continue
            except OSError as error:
                raise EOFError from error
            if not part:
                raise EOFError
            found += part
        return bytes(found), descriptors

    def _part(self, size: int, descriptors: list[int]) -> bytes:
        if not self._trusts:
            return self._end.recv(size)
        part, found, _, _ = socket.recv_fds(self._end, size, _DESCRIPTORS)
        descriptors += found
        return part

    def close(self) -> None:
        """Close the end."""
        self._end.close()
