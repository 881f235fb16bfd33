"""Sends real traffic from the caller's namespace: each function is one measurement.

Run them in a namespace with `netns.run(name, traffic.who, address, port)`. Network errors are not
raised but are the result's `outcome`. Times are seconds from the first packet sent. Servers are
those of `podserver`.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import random
import select
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from cubelet.lab import sctp

Outcome = Literal["answered", "refused", "unreachable", "timeout", "corrupt"]

TIMEOUT: Final = 2.0
_CHUNK: Final = 1 << 20
_ECHO_REQUEST: Final = 8
_IP_RECVERR: Final = 11  # <linux/in.h>; Python's socket module has neither
_ERROR_HEADER: Final = struct.Struct("=IBBBBII")  # struct sock_extended_err, then the offender
_OUTCOMES: Final[dict[int, Outcome]] = {
    errno.ECONNREFUSED: "refused",
    errno.ECONNRESET: "refused",
    errno.EHOSTUNREACH: "unreachable",
    errno.ENETUNREACH: "unreachable",
    errno.EACCES: "unreachable",
    errno.EPROTO: "unreachable",
    errno.ENOPROTOOPT: "unreachable",
}


@dataclass(frozen=True)
class Result:
    """The result of an exchange: `data` is the answer, `local` the client's address and port."""

    outcome: Outcome
    seconds: float
    data: bytes = b""
    local: tuple[str, int] = ("", 0)

    @property
    def answered(self) -> bool:
        """Whether the server answered, and correctly if the answer is checked."""
        return self.outcome == "answered"

    @property
    def server(self) -> str:
        """The server that answered a `who`: `namespace/pod`, or `outside`; empty if none did."""
        return str(json.loads(self.data)["name"]) if self.answered else ""

    @property
    def seen_as(self) -> str:
        """The client's address as the server of a `who` saw it; empty without an answer."""
        return str(json.loads(self.data)["peer"]) if self.answered else ""


@dataclass(frozen=True)
class Hop:
    """One hop of a traceroute: its address (None: no answer), and whether it is the destination."""

    ttl: int
    address: str | None
    final: bool = False


def who(address: str, port: int, protocol: str = "TCP", timeout: float = TIMEOUT) -> Result:
    """Ask a TCP or UDP port for its server's name and the client address that it sees."""
    exchange = tcp if protocol == "TCP" else udp
    return exchange(address, port, b"who\n", timeout)


def tcp(address: str, port: int, request: bytes, timeout: float = TIMEOUT) -> Result:
    """Connect, send one request and return the first bytes of the answer."""

    def work(client: socket.socket) -> bytes:
        client.connect((address, port))
        client.sendall(request)
        return _required(client.recv(65536))

    return _measure(socket.SOCK_STREAM, 0, timeout, work)


def udp(address: str, port: int, request: bytes, timeout: float = TIMEOUT) -> Result:
    """Send one datagram and return the one that comes back."""

    def work(client: socket.socket) -> bytes:
        client.connect((address, port))
        client.send(request)
        return client.recv(65536)

    return _measure(socket.SOCK_DGRAM, 0, timeout, work)


def udp_echo(address: str, port: int, size: int, timeout: float = TIMEOUT) -> Result:
    """Send `size` random bytes in one datagram, in fragments if need be, and compare the echo."""
    data = os.urandom(size)
    result = udp(address, port, data, timeout)
    if result.answered and result.data != data:
        return Result("corrupt", result.seconds, b"", result.local)
    return Result(result.outcome, result.seconds, b"", result.local)


def http_get(address: str, port: int, path: str = "/", timeout: float = TIMEOUT) -> Result:
    """GET a page of a pod's server; `data` is the body. Other statuses than 200 are `corrupt`."""
    request = f"GET {path} HTTP/1.1\r\nHost: {address}\r\n\r\n".encode()
    result = tcp(address, port, request, timeout)
    head, _, body = result.data.partition(b"\r\n\r\n")
    if result.answered and b" 200 " not in head.partition(b"\r\n")[0]:
        return Result("corrupt", result.seconds, body, result.local)
    return Result(result.outcome, result.seconds, body, result.local)


def transfer(address: str, port: int, size: int, timeout: float = 60) -> Result:
    """Send `size` random bytes over TCP, and compare the server's SHA-256 of them with ours."""
    digest = hashlib.sha256()
    chunk = os.urandom(_CHUNK)

    def work(client: socket.socket) -> bytes:
        client.connect((address, port))
        client.sendall(f"sink {size}\n".encode())
        left = size
        while left:
            # Chunks differ, so that a repeated or a lost one changes the digest.
            data = (left.to_bytes(8) + chunk[8:])[:left]
            digest.update(data)
            client.sendall(data)
            left -= len(data)
        return _required(client.recv(256))

    result = _measure(socket.SOCK_STREAM, 0, timeout, work)
    if result.answered and result.data.strip().decode() != digest.hexdigest():
        return Result("corrupt", result.seconds, result.data, result.local)
    return result


def sctp_init(address: str, port: int, timeout: float = TIMEOUT) -> Result:
    """Ask for an SCTP association; an ABORT is `refused`."""
    request = sctp.Packet(random.randrange(32768, 61000), port, 0, sctp.INIT, _tag())

    def work(client: socket.socket) -> bytes:
        client.connect((address, 0))
        client.send(sctp.build(request))
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            client.settimeout(left)
            chunk = sctp.answers(request, client.recv(65536))
            if chunk == sctp.ABORT:
                raise ConnectionRefusedError(errno.ECONNREFUSED, "ABORT")
            if chunk == sctp.INIT_ACK:
                return b""
        raise TimeoutError

    return _measure(socket.SOCK_RAW, sctp.PROTOCOL, timeout, work)


def ping(address: str, size: int = 56, timeout: float = TIMEOUT) -> Result:
    """Send one ICMP echo request with `size` bytes of data and compare the reply."""
    identifier = _tag() & 0xFFFF
    body = struct.pack("!HH", identifier, 1) + os.urandom(size)
    request = struct.pack("!BBH", _ECHO_REQUEST, 0, 0) + body
    request = struct.pack("!BBH", _ECHO_REQUEST, 0, _checksum(request)) + body

    def work(client: socket.socket) -> bytes:
        client.connect((address, 0))
        client.send(request)
        deadline = time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            client.settimeout(left)
            datagram = client.recv(65536)
            reply = datagram[(datagram[0] & 0x0F) * 4 :]
            if reply[0] == 0 and reply[4:] == body:  # echo reply
                return reply[8:]
        raise TimeoutError

    return _measure(socket.SOCK_RAW, socket.IPPROTO_ICMP, timeout, work)


def traceroute(address: str, most_hops: int = 8, timeout: float = 1.0) -> tuple[Hop, ...]:
    """The hops to a host, by UDP to unserved ports with a growing TTL.

    The kernel gives an ICMP error only to the socket whose packet it quotes, so a hop is seen only
    if it quotes the packet as it was sent.
    """
    hops: list[Hop] = []
    while len(hops) < most_hops and not (hops and hops[-1].final):
        hops.append(_hop(address, len(hops) + 1, timeout))
    return tuple(hops)


def _hop(address: str, ttl: int, timeout: float) -> Hop:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, ttl)
        probe.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        probe.connect((address, 33433 + ttl))  # traceroute's customary ports
        probe.send(b"cubelet")
        errors = select.poll()
        errors.register(probe, select.POLLERR)
        if not errors.poll(timeout * 1000):
            return Hop(ttl, None)
        ancillary = probe.recvmsg(512, 512, socket.MSG_ERRQUEUE)[1]
    for level, kind, data in ancillary:
        if (level, kind) == (socket.IPPROTO_IP, _IP_RECVERR):
            number = _ERROR_HEADER.unpack_from(data)[0]
            offender = socket.inet_ntoa(data[_ERROR_HEADER.size + 4 : _ERROR_HEADER.size + 8])
            return Hop(ttl, offender, final=number == errno.ECONNREFUSED)
    return Hop(ttl, None)


def _measure(
    kind: int, protocol: int, timeout: float, work: Callable[[socket.socket], bytes]
) -> Result:
    with socket.socket(socket.AF_INET, kind, protocol) as client:
        client.settimeout(timeout)
        if kind != socket.SOCK_STREAM:  # else the kernel does not report "host unreachable"
            client.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        began = time.perf_counter()
        outcome: Outcome = "answered"
        data = b""
        try:
            data = work(client)
        except TimeoutError:
            outcome = "timeout"
        except OSError as error:
            outcome = _OUTCOMES.get(error.errno or 0, "unreachable")
        seconds = time.perf_counter() - began
        host, port = client.getsockname()[:2]
        return Result(outcome, seconds, data, (host, port))


def _required(data: bytes) -> bytes:
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, "closed without an answer")
    return data


def _tag() -> int:
    return random.randrange(1, 1 << 32)


def _checksum(data: bytes) -> int:
    """The Internet checksum (RFC 1071)."""
    padded = data + bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(padded) // 2}H", padded))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
