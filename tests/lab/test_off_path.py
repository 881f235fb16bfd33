"""What a host on the nodes' network forges under another's address, and what a pod may not take."""

from __future__ import annotations

import multiprocessing
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from cubelet.lab import netns
from cubelet.lab.layout import OUTSIDE_ADDRESS

from . import frames
from .manifests import pod
from .world import Space, World

PORT = 7_070


@pytest.fixture(scope="module")
def node(world: World) -> Iterator[Space]:
    """A pod on node1."""
    space = Space(world, "offpath")
    space.apply(pod("client", nodeName="node1"))
    yield space
    space.delete("Pod", "client")


def serve(ready: Any, peer: Any) -> None:
    """Tell from where the client seems to come, then answer each line with itself."""
    with socket.create_server(("", PORT)) as listener:
        ready.set()
        connection, address = listener.accept()
        with connection:
            peer.send(address)
            while data := connection.recv(100):
                connection.sendall(data)


def converse(lines: Any, heard: Any) -> None:
    """Say what comes down the pipe, and give back what the server makes of it; None ends it."""
    with socket.create_connection((OUTSIDE_ADDRESS, PORT), timeout=5) as connection:
        while (line := lines.recv()) is not None:
            try:
                connection.sendall(line)
                heard.send(connection.recv(100))
            except OSError as error:
                heard.send(repr(error).encode())


class Conversation:
    """A connection of a pod's with a server outside, masqueraded; says who the client seems."""

    def __init__(self, space: Space) -> None:
        fork = multiprocessing.get_context("fork")
        ready = fork.Event()
        peers, told = fork.Pipe(duplex=False)
        line, self._say = fork.Pipe(duplex=False)
        self._heard, answer = fork.Pipe(duplex=False)
        outside = space.world.layout.outside_netns
        self._threads = [
            threading.Thread(target=netns.run, args=(outside, serve, ready, told)),
            threading.Thread(target=netns.run, args=(space.at("client"), converse, line, answer)),
        ]
        self._threads[0].start()
        assert ready.wait(10)
        self._threads[1].start()
        assert peers.poll(10)
        self.seen: tuple[str, int] = peers.recv()

    def says(self, text: bytes) -> bytes:
        """The server's answer."""
        self._say.send(text)
        assert self._heard.poll(10)
        answer: bytes = self._heard.recv()
        return answer

    def end(self) -> None:
        """Close it."""
        self._say.send(None)
        for thread in self._threads:
            thread.join(10)


def forged(target: tuple[str, int], mac: bytes, flags: str, count: int) -> list[bytes]:
    """Segments under the server's address, whose sequence numbers are guesses."""
    ether = Ether(dst=mac.hex(":"), src="02:00:00:00:0f:0f")
    ip = IP(src=OUTSIDE_ADDRESS, dst=target[0])
    numbers = (1_000_003 * (number + 1) * 4_099 % (1 << 32) for number in range(count))
    return [
        bytes(ether / ip / TCP(sport=PORT, dport=target[1], flags=flags, seq=seq, window=100))
        for seq in numbers
    ]


@pytest.mark.parametrize(("flags", "count"), [("S", 1), ("R", 200), ("RA", 200), ("FA", 200)])
def test_a_forger_ends_no_connection(node: Space, flags: str, count: int) -> None:
    """RFC 5961: neither by a SYN nor by resets whose sequence number is not known."""
    talk = Conversation(node)
    try:
        assert talk.says(b"before") == b"before"
        mac = node.world.run(node.world.at_node("node1"), frames.mac)
        segments = forged(talk.seen, mac, flags, count)
        node.world.run(node.world.at_node("node2"), frames.send, *segments)
        assert talk.says(b"after") == b"after"
        rows = node.world.call("node1", "get", noun="flows", where={"dport": str(PORT)})
        states = [row["state"] for row in rows if row["to_sport"] == talk.seen[1]]
        assert states == ["established"]
    finally:
        talk.end()


def exchange(source: tuple[str, int], sent: Any, go_on: Any) -> tuple[bytes, bytes]:
    """Two questions from a port that the host has bound itself, and their answers."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(source)
        client.settimeout(2)
        answers = []
        for number in range(2):
            client.sendto(b"question %d" % number, (OUTSIDE_ADDRESS, PORT))
            answers.append(client.recv(100))
            sent.set()
            assert go_on.wait(10)
    return answers[0], answers[1]


def echo_datagrams(ready: Any, count: int) -> list[tuple[str, int]]:
    """Send datagrams back; where they came from."""
    peers = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("", PORT))
        server.settimeout(10)
        ready.set()
        for _ in range(count):
            data, address = server.recvfrom(100)
            server.sendto(data, address)
            peers.append(address)
    return peers


def ask_from(port: int) -> bytes:
    """A pod's question from a port of its choice."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("", port))
        client.settimeout(2)
        client.sendto(b"the pod's", (OUTSIDE_ADDRESS, PORT))
        return client.recv(100)


def test_a_pods_translated_port_is_never_one_of_the_hosts(node: Space) -> None:
    """The host's resolver has a port of the range, and a pod asks the same server from it."""
    fork, port = multiprocessing.get_context("fork"), 20_053
    ready, sent, go_on = fork.Event(), fork.Event(), fork.Event()
    world, host = node.world, (str(node.world.node("node1").address), port)
    found: dict[str, Any] = {}

    def run(name: str, place: str, function: Callable[..., Any], *given: Any) -> threading.Thread:
        thread = threading.Thread(
            target=lambda: found.update({name: netns.run(place, function, *given)})
        )
        thread.start()
        return thread

    server = run("peers", world.layout.outside_netns, echo_datagrams, ready, 3)
    assert ready.wait(10)
    client = run("host", world.at_node("node1"), exchange, host, sent, go_on)
    assert sent.wait(10)
    assert world.run(node.at("client"), ask_from, port) == b"the pod's"
    go_on.set()
    for thread in (client, server):
        thread.join(15)
    assert found["host"] == (b"question 0", b"question 1")
    assert found["peers"].count(host) == 2
    assert len(set(found["peers"])) == 2


def test_no_segment_out_of_nowhere_leaves_the_node_untranslated(node: Space) -> None:
    world, wanted = node.world, b"out of nowhere"
    outside = world.layout.outside_netns
    segment: Packet = TCP(sport=1, dport=PORT, flags="PA", seq=1, ack=1)
    datagram = UDP(sport=2, dport=PORT)
    with frames.heard(outside, contains=wanted) as heard:
        for body in (segment, datagram):
            world.run(node.at("client"), send_routed, node.ip("client"), bytes(body / wanted), body)
    seen = [Ether(data)[IP] for data, _ in heard(0)]
    assert {(str(each.src), each.proto) for each in seen} == {
        (str(world.node("node1").address), 17)
    }


def send_routed(source: str, body: bytes, layer: Packet) -> None:
    """A packet of the pod's to the outside, by its default route, from a raw socket."""
    number = 6 if isinstance(layer, TCP) else 17
    packet = IP(src=source, dst=OUTSIDE_ADDRESS, proto=number) / body
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(bytes(type(packet)(bytes(packet))), (OUTSIDE_ADDRESS, 0))
