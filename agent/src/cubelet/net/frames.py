"""Sends whole frames by a device; the kernel sends them as they are."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Mapping

_ETHERNET_HEADER = 14
_ANY: Mapping[str, int] = {"family": socket.AF_PACKET, "type": socket.SOCK_RAW, "proto": 0}
"""Protocol 0: such a socket only sends, and the kernel copies no packets to it."""


class Frames:
    """One raw socket (CAP_NET_RAW), opened for the first frame in the thread's namespace."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None

    def send(self, frame: bytes, ifindex: int) -> None:
        """Send a frame, from the Ethernet header on, by a device.

        Raises ValueError for a frame without that header, and OSError naming the device.
        """
        if len(frame) < _ETHERNET_HEADER:
            raise ValueError(f"a frame has {_ETHERNET_HEADER} bytes at least, not {len(frame)}")
        try:
            name = socket.if_indextoname(ifindex)
        except OSError:
            raise OSError(errno.ENODEV, f"there is no device {ifindex}") from None
        try:
            if self._socket is None:
                self._socket = socket.socket(**_ANY)
            self._socket.sendto(frame, (name, 0))
        except OSError as error:
            code = error.errno or errno.EIO
            text = f"cannot send {len(frame)} bytes by {name}: {os.strerror(code)}"
            raise OSError(code, text) from error

    def close(self) -> None:
        """Close the socket; a later frame opens another."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
