"""How fast traffic gets through, as its receiver sees it: bits on the wire per second."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from dataclasses import dataclass

from cubelet.lab import netns

DATAGRAM = 1372
"""Bytes of payload: a frame of 1,414."""
_HEADERS = {"UDP": 42, "TCP": 66}
"""Ethernet's, IP's, and the transport's (TCP has timestamps)."""
_PATIENCE = 5.0
_BUFFER_FORCE = 33  # SO_RCVBUFFORCE, which Python's socket module has not


@dataclass(frozen=True)
class Stream:
    """Traffic of one protocol from a namespace to an address in another, and its receiver's port.

    ``most`` bits per second are offered: of UDP, as TCP finds out for itself.
    """

    source: str
    target: str
    address: str
    port: int
    protocol: str = "UDP"
    most: float = 0


def measure(
    streams: list[Stream], seconds: float = 3, settle: float = 0.7, timeout: float = 30
) -> list[float]:
    """The rates of streams that run at once, after they have run for ``settle`` seconds.

    They are means over ``seconds``, of what arrived, frames' headers included.
    """
    calls: list[netns.Call[float]] = []
    for each in streams:
        receive, send = (_heard, _flood) if each.protocol == "UDP" else (_read, _write)
        calls.append(netns.Call(each.target, receive, (each.port, settle, seconds)))
        until = settle + seconds + 0.5
        calls.append(netns.Call(each.source, send, (each.address, each.port, until, each.most)))
    return netns.run_all(calls, timeout=timeout)[::2]


def _flood(address: str, port: int, seconds: float, most: float) -> float:
    """Send datagrams, evenly; gives the rate that was sent."""
    size = (DATAGRAM + _HEADERS["UDP"]) * 8
    data = bytes(DATAGRAM)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        began, sent = time.monotonic(), 0
        while (elapsed := time.monotonic() - began) < seconds:
            due = int(elapsed * most / size) + 1
            for _ in range(due - sent):
                sender.sendto(data, (address, port))
            sent = due
            time.sleep(0.001)
    return sent * size / seconds


def _heard(port: int, settle: float, seconds: float) -> float:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver:
        receiver.setsockopt(socket.SOL_SOCKET, _BUFFER_FORCE, 1 << 23)
        receiver.bind(("", port))
        return _rate(receiver, settle, seconds, _HEADERS["UDP"])


def _write(address: str, port: int, seconds: float, most: float) -> float:
    """Send over TCP as fast as it goes, when the receiver is there."""
    block, sent = bytes(1 << 16), 0
    ends = time.monotonic() + _PATIENCE
    while True:
        try:
            client = socket.create_connection((address, port), timeout=_PATIENCE)
            break
        except OSError:
            if time.monotonic() > ends:
                raise
            time.sleep(0.02)
    with client, contextlib.suppress(OSError):  # the receiver has seen enough
        began = time.monotonic()
        while time.monotonic() - began < seconds + _PATIENCE:
            sent += client.send(block)
    return sent * 8 / seconds


def _read(port: int, settle: float, seconds: float) -> float:
    with socket.create_server(("", port)) as listener:
        listener.settimeout(_PATIENCE)
        receiver, _ = listener.accept()
        with receiver:
            segment = receiver.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG)
            payload = _rate(receiver, settle, seconds, 0)
            return payload * (segment + _HEADERS["TCP"]) / segment


def _rate(receiver: socket.socket, settle: float, seconds: float, headers: int) -> float:
    """Bits per second in a window that begins some time after the first data."""
    space, counted, first = bytearray(1 << 20), 0, None
    while True:
        ready = select.select([receiver], [], [], _PATIENCE)[0]
        now = time.monotonic()
        first = first or now
        if not ready or now - first >= settle + seconds:
            return counted * 8 / seconds
        size = receiver.recv_into(space)
        if now - first >= settle:
            counted += size + headers
