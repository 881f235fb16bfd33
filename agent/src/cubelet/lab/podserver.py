"""The process of a lab pod: it serves the declared ports and tells its name and the peer it sees.

    python -S -m cubelet.lab.podserver '{"name": "ns/pod", "ports": [["TCP", 80], ["UDP", 53]]}'

It prints `ready` once all ports are served. Its answers:

* TCP, by the first line: `who` the identity; `sink N` takes N bytes and answers their SHA-256
  (both any number of times); `GET /`, `/hostname` and `/clientip` HTTP; all else is echoed.
* UDP: `who` the identity, all else is echoed.
* SCTP: INIT ACK to an INIT for a declared port, ABORT for others.

The identity is one JSON line: `{"name": "ns/pod", "peer": "10.244.1.2", "port": 40312}`.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from functools import partial
from typing import Final

from cubelet.lab import sctp

_CHUNK: Final = 1 << 20
_BACKLOG: Final = 1024
_IP_PKTINFO: Final = 8  # not in Python's socket module
_LONGEST_LINE: Final = 8192


class Server:
    """Serves the ports of one pod, a thread for each port and for each TCP connection."""

    def __init__(self, name: str) -> None:
        self._name = name

    def identity(self, peer: tuple[str, int]) -> bytes:
        """The line with the server's name and the peer that it sees."""
        return json.dumps({"name": self._name, "peer": peer[0], "port": peer[1]}).encode() + b"\n"

    def tcp(self, port: int) -> Callable[[], None]:
        """Bind a TCP port; returns the function that serves it."""
        listener = socket.create_server(("", port), backlog=_BACKLOG)

        def serve() -> None:
            while True:
                connection, peer = listener.accept()
                _background(partial(self._connection, connection, peer))

        return serve

    def udp(self, port: int) -> Callable[[], None]:
        """Bind a UDP port; returns the function that serves it."""
        bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        bound.bind(("", port))
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _CHUNK)
        # A node has several addresses: an answer must leave from the request's destination.
        bound.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)

        def serve() -> None:
            while True:
                data, ancillary, _, peer = bound.recvmsg(65535, socket.CMSG_SPACE(12))
                answer = self.identity(peer) if data.strip() == b"who" else data
                try:
                    bound.sendmsg([answer], _same_source(ancillary), 0, peer)
                except OSError:
                    continue  # no way back to this peer; others wait

        return serve

    def sctp(self, ports: frozenset[int]) -> Callable[[], None]:
        """Open a raw SCTP socket; returns the function that answers for the ports."""
        raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, sctp.PROTOCOL)

        def serve() -> None:
            while True:
                datagram, peer = raw.recvfrom(65535)
                packet = sctp.parse(sctp.payload(datagram))
                answer = sctp.answer(packet, ports) if packet else None
                if answer:
                    try:
                        raw.sendto(answer, peer)
                    except OSError:
                        continue  # no way back to this peer; others wait

        return serve

    def _connection(self, connection: socket.socket, peer: tuple[str, int]) -> None:
        stream = _Stream(connection)
        try:
            with connection:
                while start := stream.peek():
                    if not start.startswith((b"who", b"sink ", b"GET ", b"HEAD ")):
                        stream.echo()
                        return
                    connection.sendall(self._answer(stream, stream.line().split(), peer))
        except OSError:
            pass  # the peer went away

    def _answer(self, stream: _Stream, words: list[bytes], peer: tuple[str, int]) -> bytes:
        if words == [b"who"]:
            return self.identity(peer)
        if len(words) == 2 and words[0] == b"sink" and words[1].isdigit():
            return stream.digest(int(words[1])) + b"\n"
        while stream.line().strip():
            pass  # HTTP headers
        return self._page(words[0], words[1].decode(errors="replace"), peer)

    def _page(self, method: bytes, path: str, peer: tuple[str, int]) -> bytes:
        body = {
            "/": self.identity(peer),
            "/hostname": self._name.rpartition("/")[2].encode(),
            "/clientip": f"{peer[0]}:{peer[1]}".encode(),
        }.get(path)
        status = "200 OK" if body is not None else "404 Not Found"
        head = f"HTTP/1.1 {status}\r\nContent-Length: {len(body or b'')}\r\n\r\n".encode()
        return head if method == b"HEAD" else head + (body or b"")


class _Stream:
    """Reads a TCP connection by line or by size."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._buffer = b""

    def peek(self) -> bytes:
        """The bytes received so far, at least one; empty at the end of the stream."""
        self._buffer = self._buffer or self._connection.recv(65536)
        return self._buffer

    def line(self) -> bytes:
        """The next line; at the end of the stream the rest."""
        while b"\n" not in self._buffer and len(self._buffer) < _LONGEST_LINE:
            data = self._connection.recv(65536)
            if not data:
                break
            self._buffer += data
        line, newline, self._buffer = self._buffer.partition(b"\n")
        return line + newline

    def digest(self, size: int) -> bytes:
        """The SHA-256 of the next `size` bytes, in hexadecimal."""
        digest = hashlib.sha256()
        space = memoryview(bytearray(_CHUNK))
        first, self._buffer = self._buffer[:size], self._buffer[size:]
        digest.update(first)
        size -= len(first)
        while size and (count := self._connection.recv_into(space[: min(size, _CHUNK)])):
            digest.update(space[:count])
            size -= count
        return digest.hexdigest().encode()

    def echo(self) -> None:
        """Send everything back until the stream ends."""
        while data := self.peek():
            self._connection.sendall(data)
            self._buffer = b""


def _same_source(ancillary: list[tuple[int, int, bytes]]) -> list[tuple[int, int, bytes]]:
    """Turn a received IP_PKTINFO (ifindex, local address, destination) into one for sending."""
    return [(level, kind, bytes(4) + data[4:8] + bytes(4)) for level, kind, data in ancillary]


def _background(function: Callable[[], None]) -> None:
    threading.Thread(target=function, daemon=True).start()


def main(argument: str) -> None:
    """Serve the ports in the JSON argument until the process is ended."""
    document = json.loads(argument)
    server = Server(document["name"])
    ports = [(protocol, int(port)) for protocol, port in document["ports"]]
    sctp_ports = frozenset(port for protocol, port in ports if protocol == "SCTP")
    try:
        loops = [server.tcp(port) for protocol, port in ports if protocol == "TCP"]
        loops += [server.udp(port) for protocol, port in ports if protocol == "UDP"]
        loops += [server.sctp(sctp_ports)] if sctp_ports else []
    except OSError as error:
        print(f"{ports}: {error.strerror}", flush=True)
        raise SystemExit(1) from None
    for loop in loops:
        _background(loop)
    print("ready", flush=True)
    # The reader closes its end of the pipe after `ready`: write nothing more to it.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    threading.Event().wait()


if __name__ == "__main__":
    main(sys.argv[1])
