"""A pod that is replaced under its address, while its peer goes on sending to the old one."""

from __future__ import annotations

import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from cubelet.lab.kinds import Manifest

from .manifests import pod, service
from .world import Space

ADDRESS, NUMBER, PORT = "192.168.1.77", 12345, 7001
KINDS = {"TCP": socket.SOCK_STREAM, "UDP": socket.SOCK_DGRAM}
EVERY = 0.01


def one(name: str) -> Manifest:
    return pod(name, ip=ADDRESS, nodeName="node1")


@pytest.fixture(params=["node1", "node2"])
def server(request: pytest.FixtureRequest, space: Space) -> None:
    """Pod ``server`` behind Service ``s``, and pod ``old`` with the address."""
    space.apply(
        one("old"),
        pod("server", nodeName=request.param),
        service("s", "server", ("TCP", 80, PORT), ("UDP", 80, PORT)),
    )


def made(space: Space, name: str, protocol: str, number: int) -> socket.socket:
    """A pod's socket at a port."""

    def make() -> socket.socket:
        found = socket.socket(socket.AF_INET, KINDS[protocol])
        found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        found.bind(("", number))
        return found

    return space.world.made_in(space.at(name), make)


@contextmanager
def sending(send: Callable[[], object]) -> Iterator[None]:
    """Someone who sends all the while, whatever comes of it."""
    ended = threading.Event()

    def work() -> None:
        while not ended.wait(EVERY):
            try:
                send()
            except OSError:
                continue

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def replace(space: Space) -> None:
    space.delete("Pod", "old")
    time.sleep(0.2)  # nobody has the address for a while
    space.apply(one("new"))
    time.sleep(0.2)  # the new pod is there, but says nothing yet


def asked(space: Space, by: str) -> tuple[str, int]:
    return (space.vip("s"), 80) if by == "Service" else (space.ip("server"), PORT)


def sent_again(connected: socket.socket) -> int:
    """How many segments TCP sent again, SYNs too: ``tcpi_total_retrans`` of linux/tcp.h."""
    info = connected.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int.from_bytes(info[100:104], sys.byteorder)


BY = pytest.mark.parametrize("by", ["Service", "address"])


@BY
@pytest.mark.usefixtures("server")
def test_tcp(space: Space, by: str) -> None:
    with (
        made(space, "server", "TCP", PORT) as listener,
        made(space, "old", "TCP", NUMBER) as old,
    ):
        listener.listen()
        listener.settimeout(5)
        old.connect(asked(space, by))
        first, _ = listener.accept()
        with first, sending(lambda: first.send(b"for the old one")):
            assert old.recv(64)
            replace(space)
            with made(space, "new", "TCP", NUMBER) as new:
                new.settimeout(5)
                new.connect(asked(space, by))
                assert sent_again(new) == 0
                second, _ = listener.accept()
                with second:
                    second.sendall(b"hello")
                    assert new.recv(64) == b"hello"


@BY
@pytest.mark.usefixtures("server")
def test_udp(space: Space, by: str) -> None:
    with (
        made(space, "server", "UDP", PORT) as server,
        made(space, "old", "UDP", NUMBER) as old,
    ):
        server.settimeout(5)
        old.connect(asked(space, by))
        old.send(b"from the old one")
        _, peer = server.recvfrom(64)
        assert peer == (ADDRESS, NUMBER)
        with sending(lambda: server.sendto(b"for the old one", peer)):
            assert old.recv(64)
            replace(space)
            with made(space, "new", "UDP", NUMBER) as new:
                new.connect(asked(space, by))
                new.settimeout(5)
                new.send(b"from the new one")
                while True:
                    data, other = server.recvfrom(64)
                    if data == b"from the new one":
                        break
                server.sendto(b"hello", other)
                while new.recv(64) != b"hello":
                    pass


@pytest.mark.parametrize("protocol", KINDS)
@pytest.mark.usefixtures("server")
def test_a_server_that_is_replaced(space: Space, protocol: str) -> None:
    """Its client goes on sending; the next pod has the address and speaks from the same port."""
    with made(space, "old", protocol, PORT) as old, made(space, "server", protocol, NUMBER) as peer:
        if protocol == "TCP":
            old.listen()
        peer.connect((ADDRESS, PORT))
        with sending(lambda: peer.send(b"for the old one")):
            replace(space)
            with made(space, "new", protocol, PORT) as new:
                new.settimeout(5)
                if protocol == "UDP":
                    assert new.recvfrom(64) == (b"for the old one", (space.ip("server"), NUMBER))
                    new.sendto(b"hello", (space.ip("server"), NUMBER))
                    return
                with made(space, "server", "TCP", NUMBER + 1) as listener:
                    listener.listen()
                    new.connect((space.ip("server"), NUMBER + 1))
                    assert sent_again(new) == 0
