"""On the uplink, outward: the host's answers to clients that kept their addresses are found."""

from __future__ import annotations

import pytest
from scapy.layers.inet import ICMP, IP, fragment
from scapy.layers.l2 import Ether
from scapy.packet import Packet

from cubelet.bpf.testrun import skb_context
from cubelet.testkit.samples import GATEWAY_MAC, ROUTER_MAC

from .rig import GATEWAY, NODE, OUTSIDE, UPSTREAM_MAC, A, Rig, arrives
from .shapes import SHAPES, Ends, Peer, Shape, Talk, echo, hopped, tcp, udp
from .test_related import about

CLIENT, SERVICE = Peer("uplink", OUTSIDE, 40001), Peer("", NODE, 30001)
SERVER = Peer("host", NODE, 8081)
SENT = {"src": "02:00:00:00:00:03", "dst": UPSTREAM_MAC}
PORTED = {name: shape for name, shape in SHAPES.items() if shape is not echo}
shapes = pytest.mark.parametrize("shape", PORTED.values(), ids=PORTED.keys())


def opened(rig: Rig, shape: Shape) -> Talk:
    """A client from outside has asked the host's server by a node port."""
    rig.vip(NODE, SERVICE.number, NODE, SERVER.number)
    talk = Talk(shape, CLIENT, SERVER, SERVICE, CLIENT)
    talk.forward(rig, "S")
    return talk


def taken(rig: Rig, packet: Packet, came_by: int = 0) -> bool:
    """Whether it goes into the datapath, as the host's other packets do; else it is as it was."""
    frame = bytes(Ether(**SENT) / packet)
    context = skb_context(ifindex=rig.ifindex("uplink"), ingress_ifindex=came_by)
    run = rig.dp.programs.entries["egress"].test_run(frame, 1, context)
    if run.retval == 0xFFFFFFFF:
        assert run.packet == frame
        return False
    assert run.retval == 7
    assert run.packet == bytes(Ether(src=GATEWAY_MAC, dst=ROUTER_MAC) / packet)
    return True


@shapes
def test_answers_are_found_and_translated(rig: Rig, shape: Shape) -> None:
    talk = opened(rig, shape)
    for flags in ("SA", "A", "PA"):
        assert taken(rig, shape(talk.server.to(talk.seen, flags, back=True)))
        talk.back(rig, flags)
        talk.forward(rig)


@pytest.mark.parametrize(
    "ends",
    [
        Ends(NODE, 8082, OUTSIDE, 40001),
        Ends(NODE, 8081, OUTSIDE, 40002),
        Ends(NODE, 8081, "192.0.2.10", 40001),
        Ends(GATEWAY, 8081, OUTSIDE, 40001),
        Ends("10.9.9.9", 8081, OUTSIDE, 40001),
        Ends(NODE, 30001, OUTSIDE, 40001),
        Ends(OUTSIDE, 40001, NODE, 30001),
    ],
    ids=str,
)
def test_all_else_is_left_alone(rig: Rig, ends: Ends) -> None:
    opened(rig, tcp)
    assert not taken(rig, tcp(ends))
    assert not taken(rig, udp(ends))


def test_what_no_socket_of_the_hosts_sent_is_left_alone(rig: Rig) -> None:
    """It has been translated already, or is only forwarded."""
    talk = opened(rig, tcp)
    assert not taken(rig, talk.answer, came_by=rig.ifindex("a"))


def test_what_answers_a_pod_is_left_alone(rig: Rig) -> None:
    Talk(tcp, Peer("a", A, 1000), SERVER, SERVER, Peer("a", A, 1000)).forward(rig, "S")
    assert not taken(rig, tcp(Ends(NODE, 8081, A, 1000, "SA", back=True)))


def test_datagrams_from_another_address_of_the_nodes(rig: Rig) -> None:
    opened(rig, udp)
    answer = udp(Ends(GATEWAY, 8081, OUTSIDE, 40001))
    assert taken(rig, answer)
    arrives(rig.send(answer, "host"), "uplink", hopped(udp(Ends(NODE, 30001, OUTSIDE, 40001))))


def test_fragments_follow_their_first(rig: Rig) -> None:
    talk = opened(rig, udp)
    answer = udp(talk.server.to(talk.seen, back=True), bytes(3000))
    first, *later = fragment(IP(bytes(answer)), 1400)
    assert later
    assert not any(taken(rig, each) for each in later)
    assert taken(rig, first)
    assert all(taken(rig, each) for each in later)


def test_an_error_about_such_a_flow(rig: Rig) -> None:
    """The server has gone: its kernel says so, about the port that it knows."""
    talk = opened(rig, udp)
    delivered = udp(talk.seen.to(talk.server))
    error = about(delivered, NODE, ICMP(type=3, code=3))
    assert taken(rig, error)
    result = rig.send(error, "host")
    assert (result.leaves, result.packet[IP].dst) == ("uplink", OUTSIDE)
    assert not taken(rig, about(udp(Ends(OUTSIDE, 40002, NODE, 8081)), NODE, ICMP(type=3, code=3)))


def test_malformed_frames_are_left_alone(rig: Rig) -> None:
    talk = opened(rig, tcp)
    whole = bytes(Ether(**SENT) / talk.answer)
    for length in range(34, len(whole)):
        frame = whole[:length]
        context = skb_context(ifindex=rig.ifindex("uplink"))
        run = rig.dp.programs.entries["egress"].test_run(frame, 1, context)
        assert (run.retval, run.packet) == (0xFFFFFFFF, frame)
