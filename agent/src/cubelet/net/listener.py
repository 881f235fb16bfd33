"""Hears what changes in the network namespace, by the kernel's own notices."""

from __future__ import annotations

import errno
import socket
from contextlib import suppress
from typing import Self

from cubelet.net.changes import GROUPS, Affected, Classifier

_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_SO_RCVBUFFORCE = 33
_BUFFER = 1 << 21
"""Bytes that wait to be read: some 2,500 notices. More of them are lost, which is told."""
_DATAGRAM = 1 << 16
_AT_ONCE = 512
"""Notices read in one go: the event loop has others to serve."""


class Listener:
    """Listens in the network namespace of the thread that makes it. Use it as a context."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK,
            socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
            socket.NETLINK_ROUTE,
        )
        with suppress(PermissionError):  # without CAP_NET_ADMIN the buffer is smaller
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _BUFFER)
        # First, since it sets the groups: without it a socket counts as the kernel's own.
        self._socket.bind((0, 0))
        for group in GROUPS:
            with suppress(OSError):  # kernels before 5.3 have no next hops of their own
                self._socket.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        self._classifier = Classifier()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def fileno(self) -> int:
        """The descriptor that is readable when there are notices."""
        return self._socket.fileno()

    def read(self) -> Affected:
        """What the waiting notices affect, of which some may stay for the next call.

        All is affected if notices were lost. Does not block.
        """
        found = Affected.NOTHING
        for _ in range(_AT_ONCE):
            try:
                found |= self._classifier.affected(self._socket.recv(_DATAGRAM))
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                found = Affected.ALL
        return found
