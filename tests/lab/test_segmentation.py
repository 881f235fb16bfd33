"""Packets of many segments whose checksums are still to be made, which no trial run can have.

They come from real sockets: large writes over TCP, UDP_SEGMENT over UDP. What the receiver's hash
says of the content counts, both ways, by every kind of way through the datapath.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import random
import socket
import struct
import time
from collections.abc import Iterator

import pytest

from cubelet.lab import netns
from cubelet.lab.layout import OUTSIDE_ADDRESS

from .manifests import pod, service
from .world import Space, World

PORT = 9_000
NEAR = ("pod of the node", "Service of the node")
BY_WIRE = ("remote pod", "remote Service", "NodePort", "out")
SEGMENTS = (16, 513, 1200, 1401)
"""Bytes of payload; a node's overlay takes 1,422."""
ROUNDS = 30
_MOST = 64
"""Segments that the kernel takes at once (UDP_MAX_SEGMENTS, before 6.3)."""
_UDP_SEGMENT, _BUFFER_FORCE = 103, 33
_SILENCE = 3.0
_TCP_BYTES = 8_000_000
_SIOCETHTOOL = 0x8946
_CHECKSUMS, _SEGMENTATION, _GENERIC = 0x17, 0x1F, 0x24
"""ETHTOOL_STXCSUM, ETHTOOL_STSO and ETHTOOL_SGSO, which switch a device's offloads."""


@pytest.fixture(scope="module")
def many(world: World) -> Iterator[Space]:
    """A client, a server beside it and one on the other node, each with a Service."""
    space = Space(world, "many")
    ports = (("TCP", PORT, PORT), ("UDP", PORT, PORT))
    space.apply(
        pod("client", nodeName="node1"),
        pod("near", nodeName="node1"),
        pod("far", nodeName="node2"),
        service("near", "near", *ports),
        service("far", "far", *ports, type="NodePort"),
    )
    yield space
    space.delete("Pod", "client", "near", "far")
    space.delete("Service", "near", "far")


def offload(on: bool) -> None:
    """Whether the wire takes what is unfinished; else the kernel finishes it on the way there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        order = (_CHECKSUMS, _SEGMENTATION, _GENERIC)
        for command in order if on else order[::-1]:
            value = ctypes.create_string_buffer(struct.pack("=II", command, int(on)), 8)
            request = struct.pack("16sP16x", b"eth0", ctypes.addressof(value))
            fcntl.ioctl(control, _SIOCETHTOOL, request)


@pytest.fixture(params=["offloads", "no offloads"])
def wire(many: Space, request: pytest.FixtureRequest) -> Iterator[str]:
    """The nodes' and the outside's devices, with what is left to hardware or without.

    Between devices that leave it to each other a wrong checksum would never be looked at.
    """
    world = many.world
    places = [world.at_node("node1"), world.at_node("node2"), world.outside]
    for place in places:
        world.run(place, offload, request.param == "offloads")
    yield request.param
    for place in places:
        world.run(place, offload, True)


def way(space: Space, name: str, protocol: str) -> tuple[str, str, str, int]:
    """The client's and the server's place, and the address and port that the client asks."""
    client, near, far = (space.at(pod) for pod in ("client", "near", "far"))
    world = space.world
    node_port = space.node_port("far", protocol)
    return {
        "pod of the node": (client, near, space.ip("near"), PORT),
        "Service of the node": (client, near, space.vip("near"), PORT),
        "remote pod": (client, far, space.ip("far"), PORT),
        "remote Service": (client, far, space.vip("far"), PORT),
        "NodePort": (world.outside, far, world.node("node1").address, node_port),
        "out": (client, world.outside, OUTSIDE_ADDRESS, PORT),
    }[name]


def bound(kind: socket.SocketKind) -> socket.socket:
    server = socket.socket(socket.AF_INET, kind)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    server.setsockopt(socket.SOL_SOCKET, _BUFFER_FORCE, 1 << 24)
    server.settimeout(_SILENCE)
    server.bind(("", PORT))
    return server


# UDP


def batches(segment: int, seed: int) -> list[bytes]:
    """Numbered datagrams, as many in one batch as the kernel takes; the last may be shorter."""
    rng, number, made = random.Random(seed), 0, []
    for _ in range(ROUNDS):
        count = rng.randrange(2, min(_MOST, 65_000 // segment) + 1)
        parts = []
        for _ in range(count):
            parts.append(number.to_bytes(8) + rng.randbytes(segment - 8))
            number += 1
        parts[-1] = parts[-1][: rng.randrange(8, segment + 1)]
        made.append(b"".join(parts))
    return made


def datagrams(sent: list[bytes], segment: int) -> list[bytes]:
    """What must arrive."""
    return [each[at : at + segment] for each in sent for at in range(0, len(each), segment)]


def digest(found: list[bytes]) -> str:
    """Of datagrams, in the order of their numbers, with their lengths."""
    whole = hashlib.sha256()
    for each in sorted(found):
        whole.update(len(each).to_bytes(4) + each)
    return whole.hexdigest()


def collect(sock: socket.socket, count: int) -> tuple[list[bytes], tuple[str, int]]:
    """So many datagrams, or those that came before a silence, and from whom."""
    found: list[bytes] = []
    peer = ("", 0)
    while len(found) < count:
        try:
            data, peer = sock.recvfrom(65_536)
        except TimeoutError:
            break
        if data != b"?":
            found.append(data)
    return found, peer


def pour(sock: socket.socket, sent: list[bytes], segment: int) -> None:
    sock.setsockopt(socket.IPPROTO_UDP, _UDP_SEGMENT, segment)
    for batch in sent:
        sock.send(batch)
        time.sleep(0.002)


def answer(segment: int, seed: int) -> tuple[str, int]:
    """Take the client's datagrams, send as many back; the digest of what came, and its port."""
    with bound(socket.SOCK_DGRAM) as server:
        found, peer = collect(server, len(datagrams(batches(segment, seed), segment)))
        if found:
            server.connect(peer)
            pour(server, batches(segment, seed + 1), segment)
        return digest(found), peer[1]


def ask(address: str, port: int, segment: int, seed: int) -> tuple[str, int]:
    """Send datagrams, take those that come back: their digest, and the port that was used."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setsockopt(socket.SOL_SOCKET, _BUFFER_FORCE, 1 << 24)
        client.settimeout(2 * _SILENCE)
        client.connect((address, port))
        time.sleep(0.3)  # until the server listens
        pour(client, batches(segment, seed), segment)
        found, _ = collect(client, len(datagrams(batches(segment, seed + 1), segment)))
        return digest(found), client.getsockname()[1]


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize("name", NEAR)
def test_datagrams_of_one_send(many: Space, name: str, segment: int) -> None:
    exchange_datagrams(many, name, segment)


@pytest.mark.parametrize("segment", SEGMENTS)
@pytest.mark.parametrize("name", BY_WIRE)
def test_datagrams_of_one_send_by_wire(many: Space, wire: str, name: str, segment: int) -> None:
    exchange_datagrams(many, name, segment)


def exchange_datagrams(many: Space, name: str, segment: int) -> None:
    client, server, address, port = way(many, name, "UDP")
    seed = segment * 10
    calls: list[netns.Call[tuple[str, int]]] = [
        netns.Call(client, ask, (address, port, segment, seed)),
        netns.Call(server, answer, (segment, seed)),
    ]
    (back, number), (there, _) = netns.run_all(calls, timeout=40)
    assert there == digest(datagrams(batches(segment, seed), segment)), "not what was sent"
    assert back == digest(datagrams(batches(segment, seed + 1), segment)), "not what was answered"
    if name != "NodePort":  # it really was one packet for many
        where = {"sport": str(number), "dst": address, "protocol": "UDP"}
        (flow,) = many.world.call("node1", "get", noun="flows", where=where)
        assert flow["packets"] < 2 * ROUNDS


# TCP


def take() -> str:
    """Read a connection to its end, answer with as much; the hash of what came."""
    with bound(socket.SOCK_STREAM) as listener:
        listener.listen()
        connection, _ = listener.accept()
        with connection:
            connection.settimeout(20)
            whole = hashlib.sha256()
            while data := connection.recv(1 << 20):
                whole.update(data)
            connection.sendall(stream(2))
            return whole.hexdigest()


def stream(seed: int) -> bytes:
    return random.Random(seed).randbytes(_TCP_BYTES)


def write(address: str, port: int, seed: int) -> str:
    """Write in pieces of all sizes, end, and read to the end; the hash of what came back."""
    rng, data, at = random.Random(seed), stream(1), 0
    for attempt in range(20):
        try:
            client = socket.create_connection((address, port), timeout=20)
            break
        except ConnectionRefusedError:
            time.sleep(0.1)
            if attempt == 19:
                raise
    with client:
        while at < len(data):
            size = rng.choice((1, 7, 1447, 1461, 40_000, 65_535, 300_000))
            client.sendall(data[at : at + size])
            at += size
        client.shutdown(socket.SHUT_WR)
        whole = hashlib.sha256()
        while back := client.recv(1 << 20):
            whole.update(back)
        return whole.hexdigest()


@pytest.mark.parametrize("name", NEAR)
def test_writes_of_all_sizes(many: Space, name: str) -> None:
    exchange_streams(many, name)


@pytest.mark.parametrize("name", BY_WIRE)
def test_writes_of_all_sizes_by_wire(many: Space, wire: str, name: str) -> None:
    exchange_streams(many, name)


def exchange_streams(many: Space, name: str) -> None:
    client, server, address, port = way(many, name, "TCP")
    back, there = netns.run_all(
        [netns.Call(client, write, (address, port, 5)), netns.Call(server, take)], timeout=60
    )
    assert there == hashlib.sha256(stream(1)).hexdigest(), "not what was sent"
    assert back == hashlib.sha256(stream(2)).hexdigest(), "not what was answered"
