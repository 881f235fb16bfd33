"""Pods that are gone: their peers are told, and whoever has the address next begins anew."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_address

import pytest
from msgspec.structs import replace
from scapy.layers.inet import IP, TCP

from cubelet.testkit import Result

from .rig import VIP, A, B, Rig, arrives
from .shapes import CLIENT_SEQ, Peer, Shape, Talk, direct, hopped, tcp, through, udp

CLIENT, SERVER, SERVICE = Peer("a", A, 12345), Peer("b", B, 8080), Peer("", VIP, 80)
SUCCESSOR = Peer("c", A, 12345)
"""A pod with the client's address and source port, behind another port."""


@pytest.fixture(autouse=True)
def everyone_back(rig: Rig) -> Iterator[None]:
    yield
    rig.dp.apply(*(rig.dp.network.ports[f"default/{pod}"] for pod in "abc"))


def goes(rig: Rig, pod: str = "a") -> None:
    rig.dp.delete(rig.dp.network.ports[f"default/{pod}"])


def succeeds(rig: Rig) -> None:
    """Pod c has the client's address from now on."""
    port = rig.dp.network.ports["default/c"]
    rig.dp.apply(replace(port, addresses=(ip_address(A),)))
    rig.path(A, "c")


@pytest.fixture(params=["direct", "Service"])
def dialled(request: pytest.FixtureRequest, rig: Rig) -> Peer:
    rig.vip(VIP, SERVICE.number, B, SERVER.number)
    return SERVICE if request.param == "Service" else SERVER


def reset(result: Result, talk: Talk) -> None:
    """The server is told that the connection is over, by a reset that it believes."""
    assert (result.verdict, result.reason, result.answered) == (
        "redirect",
        "core/client_gone",
        True,
    )
    packet = result.packet
    assert (packet[IP].src, packet[IP].dst) == (talk.seen.address, talk.server.address)
    assert (packet[TCP].flags, packet[TCP].seq) == ("R", CLIENT_SEQ + 1)


@pytest.mark.parametrize("flags", ["A", "PA", "FA", "SA"])
def test_a_server_is_told(rig: Rig, dialled: Peer, flags: str) -> None:
    talk = through(direct(CLIENT, SERVER, tcp), dialled).established(rig)
    goes(rig)
    sent = talk.shape(talk.server.to(talk.seen, flags, back=True))
    reset(rig.send(sent, "b"), talk)
    assert not rig.dp.flows()


def test_a_reset_is_not_answered(rig: Rig, dialled: Peer) -> None:
    talk = through(direct(CLIENT, SERVER, tcp), dialled).established(rig)
    goes(rig)
    result = rig.send(talk.shape(talk.server.to(talk.seen, "R", back=True)), "b")
    assert (result.verdict, result.reason) == ("drop", "core/client_gone")
    assert not rig.dp.flows()


@pytest.mark.parametrize("shape", [tcp, udp])
def test_the_next_pod_begins_anew(rig: Rig, dialled: Peer, shape: Shape) -> None:
    """Its peer goes on sending all the while: before it comes, and before it says a word."""
    talk = through(direct(CLIENT, SERVER, shape), dialled).established(rig)
    answer = talk.shape(talk.server.to(talk.seen, "A", back=True))
    goes(rig)
    rig.path(A, "d")  # nobody
    rig.send(answer, "b")
    succeeds(rig)
    if shape is tcp:
        through(direct(SUCCESSOR, SERVER, shape), dialled).whole(rig)
    else:  # the answers were for it as well as anyone: they hold the port
        sent = shape(SUCCESSOR.to(dialled))
        result = rig.send(sent, "c")
        assert (result.leaves, result.packet[IP].dst) == ("pod", B)


@pytest.mark.parametrize("shape", [tcp, udp])
def test_the_peer_speaks_first_to_the_next_pod(rig: Rig, dialled: Peer, shape: Shape) -> None:
    talk = through(direct(CLIENT, SERVER, shape), dialled).established(rig)
    answer = talk.shape(talk.server.to(talk.seen, "A", back=True))
    goes(rig)
    succeeds(rig)
    result = rig.send(answer, "b")
    if shape is tcp:
        reset(result, talk)
        through(direct(SUCCESSOR, SERVER, shape), dialled).whole(rig)
    else:
        arrives(result, "c", hopped(answer))


@pytest.mark.parametrize("shape", [tcp, udp])
def test_a_pod_that_is_there_is_left_alone(rig: Rig, dialled: Peer, shape: Shape) -> None:
    talk = through(direct(CLIENT, SERVER, shape), dialled).established(rig)
    goes(rig, "c")
    for _ in range(3):
        rig.age()
        talk.back(rig, "A")
        talk.forward(rig, "A")
