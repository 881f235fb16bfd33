"""The example mirror on a real node: a collector sees a pod's connections, and nobody else does."""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from cubelet.lab.kinds import Manifest

from .foreign import NODE, command, example, start
from .frames import heard
from .load import loads, stream
from .manifests import pod, service
from .world import Space, World, eventually

ECHO = 7
ANNOTATION = "mirror.cubelet.io/to"
LINES = [f"{number} the client says".encode() for number in range(50)] + [b"long" * 10_000]


@pytest.fixture(scope="module")
def node(small: World, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """The small lab with the cube installed; without it again afterwards."""
    packages = tmp_path_factory.mktemp("packages")
    example(packages, "mirror")
    small.stop(NODE)
    start(small, command(small), packages)
    yield small
    small.stop(NODE)
    small.start(NODE)
    assert small.call(NODE, "status")["problems"] == []


def mirrored(name: str, to: str) -> Manifest:
    made = pod(name, ("TCP", ECHO))
    made["metadata"]["annotations"] = {ANNOTATION: to}
    return made


def talk(address: str) -> tuple[int, list[bytes]]:
    """One connection on which everything is echoed: its port, and what came back."""
    with socket.create_connection((address, ECHO), timeout=10) as client:
        answers = []
        for line in LINES:
            client.sendall(line)
            answer = b""
            while len(answer) < len(line):
                answer += client.recv(65536)
            answers.append(answer)
        return client.getsockname()[1], answers


def streams(frames: Iterable[tuple[bytes, bool]], port: int) -> dict[tuple[str, str], bytes]:
    """What was said on the client's connection, by source and destination."""
    parts: dict[tuple[str, str], dict[int, bytes]] = {}
    for raw, _ in frames:
        frame = Ether(raw)
        if TCP in frame and port in (frame[TCP].sport, frame[TCP].dport):
            size = frame[IP].len - 4 * frame[IP].ihl - 4 * frame[TCP].dataofs
            way = parts.setdefault((frame[IP].src, frame[IP].dst), {})
            way[frame[TCP].seq] = bytes(frame[TCP].payload)[:size]
    return {way: b"".join(found[each] for each in sorted(found)) for way, found in parts.items()}


def mirrors(world: World) -> list[tuple[str, str]]:
    return [(row["to"], row["state"]) for row in world.call(NODE, "get", noun="mirrors")]


def test_the_collector_sees_a_connection_and_nobody_else_does(
    node: World, small_space: Space
) -> None:
    small_space.apply(
        pod("client"),
        mirrored("server", "collector"),
        pod("collector"),
        pod("other"),
        service("echo", "server", ("TCP", ECHO, ECHO)),
    )
    assert "mirror" in composed(node)
    assert mirrors(node) == [(f"{small_space.name}/collector", "copied")]
    vip, client, server = small_space.vip("echo"), *map(small_space.ip, ("client", "server"))
    places = [small_space.at(name) for name in ("collector", "other", "client")]
    with heard(*places, ethertype=0x0800) as got:
        port, answers = node.run(small_space.at("client"), talk, vip)
    assert answers == LINES, "the collector's own stack says nothing to it"
    said = b"".join(LINES)
    assert streams(got(0), port) == {(client, vip): said, (server, client): said}, "as they entered"
    assert streams(got(1), port) == {}
    assert streams(got(2), port) == {(vip, client): said}, "the client has what it had, once"

    # Live, and an open connection loses nothing by it.
    with loads() as running:
        running.add("stream", small_space.at("client"), stream, vip, ECHO)
        for to in ("other", "gone", "collector", "kube-system/coredns"):
            small_space.apply(mirrored("server", to))
        small_space.delete("Pod", "collector")
    running.check(at_least=20)
    (problem,) = node.call(NODE, "status")["problems"]
    assert "'kube-system/coredns' names another namespace" in problem
    assert mirrors(node) == [(f"{small_space.name}/kube-system/coredns", "not copied")]
    with heard(small_space.at("other"), ethertype=0x0800) as got:
        port, answers = node.run(small_space.at("client"), talk, vip)
    assert (answers, streams(got(0), port)) == (LINES, {})

    small_space.apply(pod("server", ("TCP", ECHO)))
    eventually(lambda: "mirror" not in composed(node), 10)
    assert node.call(NODE, "status")["problems"] == []


def composed(world: World) -> list[str]:
    return list(world.call(NODE, "status")["composition"]["stacks"]["pod"])
