"""A minimal route netlink client (rtnetlink(7)), for the requests that each pod waits for.

A pod's wiring is ten requests. pyroute2 takes 0.4 ms of CPU for each and 0.25 ms for a connection,
which was 40 % of the time until a pod has its network; this client takes a tenth. All other
requests go through pyroute2.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from typing import Self

_REQUEST, _ACK = 0x1, 0x4
EXCL, CREATE = 0x200, 0x400
"""Flags of a request: EXCL makes an existing object an error, CREATE makes a missing one."""

_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_ATTRIBUTE = struct.Struct("=HH")  # struct nlattr
_ERROR = 0x2  # NLMSG_ERROR: an acknowledgement (errno 0) or an error
_WHY = 1  # NLMSGERR_ATTR_MSG
_SOL_NETLINK, _CAP_ACK, _EXT_ACK = 270, 10, 11
_BUFFER = 1 << 16
_DUMP, _INTERRUPTED, _DONE = 0x300, 0x10, 3
_DUMPED = 1 << 17  # the kernel fills what it is given, up to 32 kB
_DUMPS = 3


class Refused(Exception):
    """The kernel refused a request, with this errno and, perhaps, a message."""

    def __init__(self, code: int, why: str) -> None:
        super().__init__(code, f"{os.strerror(code)} ({why})" if why else os.strerror(code))
        self.code = code


class Connection:
    """A connection to the network namespace of the thread that makes it."""

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        for option in (_CAP_ACK, _EXT_ACK):  # answers omit the request and include a message
            self._socket.setsockopt(_SOL_NETLINK, option, 1)
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def request(self, kind: int, body: bytes, flags: int = 0) -> None:
        """Send a request and wait for the kernel's answer. Raises Refused, or OSError."""
        self._sequence += 1
        length = _HEADER.size + len(body)
        header = _HEADER.pack(length, kind, _REQUEST | _ACK | flags, self._sequence, 0)
        self._socket.send(header + body)
        answer = self._socket.recv(_BUFFER)
        _, answered, _, sequence, _ = _HEADER.unpack_from(answer)
        if (answered, sequence) != (_ERROR, self._sequence):
            raise OSError(f"netlink answered {answered} to request {kind}")
        code = -struct.unpack_from("=i", answer, _HEADER.size)[0]
        if code:
            raise Refused(code, _reason(answer))

    def dump(self, kind: int, body: bytes) -> list[bytes]:
        """The bodies of all objects that a request lists, once more if they changed meanwhile.

        Raises Refused, or OSError.
        """
        found: list[bytes] = []
        for _ in range(_DUMPS):
            found, consistent = self._dump(kind, body)
            if consistent:
                break
        return found

    def _dump(self, kind: int, body: bytes) -> tuple[list[bytes], bool]:
        self._sequence += 1
        length = _HEADER.size + len(body)
        header = _HEADER.pack(length, kind, _REQUEST | _DUMP, self._sequence, 0)
        self._socket.send(header + body)
        found: list[bytes] = []
        consistent = True
        while True:
            for answered, flags, one in messages(self._socket.recv(_DUMPED)):
                consistent &= not flags & _INTERRUPTED
                if answered == _DONE:
                    return found, consistent
                if answered == _ERROR:
                    code = -struct.unpack_from("=i", one)[0]
                    raise Refused(code, "")
                found.append(one)


def messages(datagram: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Type, flags and body of each message of a datagram; what is cut short is passed over."""
    place = 0
    while place + _HEADER.size <= len(datagram):
        length, kind, flags, _, _ = _HEADER.unpack_from(datagram, place)
        yield kind, flags, datagram[place + _HEADER.size : place + length]
        place += max(_HEADER.size, length + 3 & ~3)


def attributes(body: bytes, place: int) -> Iterator[tuple[int, bytes]]:
    """Type and value of each attribute of a message's body, from a place on."""
    end = len(body)
    while place + _ATTRIBUTE.size <= end:
        length, kind = _ATTRIBUTE.unpack_from(body, place)
        yield kind & 0x3FFF, body[place + _ATTRIBUTE.size : place + length]
        place += max(_ATTRIBUTE.size, length + 3 & ~3)


def _reason(answer: bytes) -> str:
    """The kernel's message about a refusal; '' if there is none."""
    # past the errno and the request's header
    why = dict(attributes(answer, 2 * _HEADER.size + 4)).get(_WHY, b"")
    return why.rstrip(b"\0").decode()


def attribute(kind: int, *values: bytes) -> bytes:
    """One attribute; several values are the attributes that are nested in it."""
    value = b"".join(values)
    length = _ATTRIBUTE.size + len(value)
    return _ATTRIBUTE.pack(length, kind) + value + bytes(-length % 4)


def number(kind: int, value: int) -> bytes:
    """An attribute of 32 bits."""
    return attribute(kind, struct.pack("=I", value))


def text(kind: int, value: str) -> bytes:
    """An attribute that is a string with its NUL."""
    return attribute(kind, value.encode() + b"\0")
